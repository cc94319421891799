"""The loop behind `Task.fit`: epochs over steps, Keras callbacks, checkpoints, and a start in mid-epoch.

It keeps the contract of `keras.Model.fit` (callback hooks, `History`, the progress bar), which itself cannot
begin an epoch in its middle.
"""

from __future__ import annotations

import logging
import signal
import threading
import time

import keras
import numpy as np
import tensorflow as tf

from aillm_tf.training.step import make_train_function

logger = logging.getLogger("aillm_tf")

NOT_PLOTTED = ("_low", "_high", "examples")  # bounds and counts are for reports, not for every epoch's log


class Interrupt:
    """Notes SIGTERM, so that the loop can save and leave at the end of a step; a no-op outside the main thread."""

    def __enter__(self):
        self.requested = False
        self.owned = threading.current_thread() is threading.main_thread()
        if self.owned:
            self.previous = signal.signal(signal.SIGTERM, self.note)
        return self

    def note(self, *_):
        self.requested = True

    def __exit__(self, *_):
        if self.owned:
            signal.signal(signal.SIGTERM, self.previous)


def fit(
    task,
    data,
    *,
    validation_data=None,
    epochs: int = 1,
    steps: int | None = None,
    callbacks=None,
    checkpoints=None,
    verbose="auto",
    validation_freq: int = 1,
) -> keras.callbacks.History:
    """Train a compiled task; see `Task.fit`."""
    per_epoch = data.steps_per_epoch
    last = epochs * per_epoch if steps is None else steps
    epochs = -(-last // per_epoch)
    task.seed = data.seed
    if task.train_function is None:
        task.train_function = make_train_function(task)
    task.step, totals, history = 0, [0.0, 0.0], {}
    saved = checkpoints.latest() if checkpoints is not None else None
    if saved is not None:
        totals, history = _restore(task, saved, data)
    resumed = task.step
    callbacks = keras.callbacks.CallbackList(
        callbacks, add_history=True, add_progbar=verbose != 0, verbose=verbose, epochs=epochs, steps=per_epoch, model=task
    )
    task.history.history = history
    task.stop_training = saved is not None and saved.state["stopped"]

    def save(score=None):
        if checkpoints is not None:
            state = {
                "data": data.fingerprint,
                "totals": totals,
                "history": task.history.history,
                "stopped": task.stop_training,
            }
            checkpoints.save(task.step, task.state(), state, score)

    started, task.seconds_to_first_step = time.perf_counter(), None
    with Interrupt() as interrupt:
        callbacks.on_train_begin()
        if last > resumed:
            iterator = iter(data.distribute(task.strategy, resumed, last, task.accumulate))
        logs = None
        for epoch in range(resumed // per_epoch, epochs):
            if task.step >= last or task.stop_training:
                break
            callbacks.on_epoch_begin(epoch)
            end = min((epoch + 1) * per_epoch, last)
            if task.step % per_epoch == 0:
                totals = [0.0, 0.0]
            while task.step < end and not task.stop_training:
                count = min(task.steps_per_execution, end - task.step)
                if checkpoints is not None and checkpoints.every_steps:
                    count = min(count, checkpoints.every_steps - task.step % checkpoints.every_steps)
                begin = task.step % per_epoch
                callbacks.on_train_batch_begin(begin)
                results = task.train_function(iterator, tf.constant(count))
                results = {name: value.numpy() for name, value in results.items()}
                if task.seconds_to_first_step is None:
                    task.seconds_to_first_step = time.perf_counter() - started
                task.step += count
                task.step_losses = results["loss"] / np.maximum(results["weight"], 1e-8)
                if not np.isfinite(task.step_losses).all():
                    bad = task.step - count + int(np.flatnonzero(~np.isfinite(task.step_losses))[0]) + 1
                    raise FloatingPointError(
                        f"the loss is not finite at step {bad}: lower the learning rate, or train in float32"
                    )
                totals = [totals[0] + float(results["loss"].sum()), totals[1] + float(results["weight"].sum())]
                logs = {"loss": float(task.step_losses[-1]), "learning_rate": task.learning_rate(task.step - 1)}
                callbacks.on_train_batch_end(begin + count - 1, logs)
                if interrupt.requested:
                    save()
                    logger.warning("SIGTERM: saved at step %d; the same command goes on from here", task.step)
                    raise SystemExit(143)
                if checkpoints is not None and checkpoints.due(task.step) and task.step < end:
                    save()
            logs = {**logs, "loss": totals[0] / max(totals[1], 1e-8)}
            score = None
            if validation_data is not None and (epoch + 1) % validation_freq == 0:
                scores = task.evaluate(validation_data, verbose=0)
                plotted = {name: value for name, value in scores.items() if not name.endswith(NOT_PLOTTED)}
                logs.update({f"val_{name}": value for name, value in plotted.items()})
                if checkpoints is not None and checkpoints.best_name:
                    score = scores[checkpoints.best_name]
            callbacks.on_epoch_end(epoch, logs)
            save(score)
        callbacks.on_train_end(logs)
    task.use_averages()
    return task.history


def _restore(task, saved, data) -> tuple[list[float], dict]:
    if saved.state.get("data") != data.fingerprint:
        raise ValueError(
            f"{saved.path} was written while training on other data, order or seed: start a new run directory, "
            "or give the data this run began with"
        )
    task.set_state({name: saved.group(name) for name in ("model", "optimizer")})
    task.step = saved.step
    logger.info("resumed from %s at step %d", saved.path, saved.step)
    return list(saved.state["totals"]), saved.state["history"]
