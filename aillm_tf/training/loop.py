"""The loop behind `Task.fit`: epochs over steps, Keras callbacks, checkpoints, and a start in mid-epoch.

It keeps the contract of `keras.Model.fit` (callback hooks, `History`, the progress bar), which itself cannot
begin an epoch in its middle.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading

import keras
import numpy as np
import tensorflow as tf

from aillm_tf.training.step import make_train_function

logger = logging.getLogger("aillm_tf")

NOT_PLOTTED = ("_low", "_high", "examples")  # bounds and counts are for reports, not for every epoch's log


class Interrupt:
    """Notes SIGTERM, so that the loop can save and leave at the end of a step; a no-op outside the main thread."""

    def __init__(self, wanted: bool):
        self.wanted = wanted

    def __enter__(self):
        self.requested = False
        self.owned = self.wanted and threading.current_thread() is threading.main_thread()
        if self.owned:
            self.previous = signal.signal(signal.SIGTERM, self.note)
        return self

    def note(self, *_):
        self.requested = True

    def __exit__(self, *_):
        if self.owned:
            signal.signal(signal.SIGTERM, self.previous or signal.SIG_DFL)


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
) -> keras.callbacks.History:
    """Train a compiled task; see `Task.fit`."""
    if verbose == "auto":  # a bar for a person, a line an epoch for a log file
        verbose = 1 if keras.utils.is_interactive_logging_enabled() and watched() else 2
    per_epoch = data.steps_per_epoch
    last = epochs * per_epoch if steps is None else steps
    epochs = -(-last // per_epoch)
    if checkpoints is not None and checkpoints.best_name and validation_data is None:
        raise ValueError(f"the best checkpoint by {checkpoints.best_name} needs validation_data")
    if checkpoints is not None and task.strategy.extended._in_multi_worker_mode():
        raise NotImplementedError("checkpoints of several workers are not supported yet: fit without checkpoints")
    task.seed = data.seed
    task.train_function = make_train_function(task)
    task.step, totals, history = 0, [0.0, 0.0], {}
    saved = checkpoints.latest() if checkpoints is not None else None
    if saved is not None:
        totals, history = _restore(task, saved, data)
    elif done := int(task.optimizer.steps_done.numpy()):
        raise RuntimeError(
            f"this optimizer has made {done} steps, its schedule is spent: compile(ai.adamw(...)) again to train on"
        )
    resumed = task.step
    callbacks = keras.callbacks.CallbackList(
        callbacks,
        add_history=True,
        add_progbar=verbose != 0,
        verbose=verbose,
        epochs=epochs,
        steps=per_epoch,
        model=task,
    )
    task.history.history = history
    task.stop_training = saved is not None and saved.state["stopped"]
    # a run stopped after the last step of an epoch still owes the epoch's validation
    ended = saved is None or saved.state["epoch_ended"]

    def save(score=None):
        if checkpoints is not None:
            state = {
                "data": data.fingerprint,
                "dtype": task.dtype_policy.name,
                "totals": totals,
                "history": task.history.history,
                "stopped": task.stop_training,
                "epoch_ended": ended,
            }
            checkpoints.save(task.step, task.state(), state, score)

    def leave_if_asked():
        if interrupt.requested:
            logger.warning("SIGTERM: saved at step %d; the same command goes on from here", task.step)
            raise SystemExit(143)

    with Interrupt(checkpoints is not None) as interrupt:
        callbacks.on_train_begin()
        if last > resumed:
            iterator = iter(data.distribute(task.strategy, resumed, last, task.accumulate))
        logs = None
        for epoch in range(resumed // per_epoch if ended else (resumed - 1) // per_epoch, epochs):
            if task.stop_training or (ended and task.step >= last):
                break
            callbacks.on_epoch_begin(epoch)
            end = min((epoch + 1) * per_epoch, last)
            if ended:
                totals, ended = [0.0, 0.0], False
            while task.step < end and not task.stop_training:
                count = min(task.steps_per_execution, end - task.step)
                if checkpoints is not None and checkpoints.every_steps:
                    count = min(count, checkpoints.every_steps - task.step % checkpoints.every_steps)
                begin = task.step % per_epoch
                callbacks.on_train_batch_begin(begin)
                results = task.train_function(iterator, tf.constant(count))
                results = {name: value.numpy() for name, value in results.items()}
                task.step += count
                task.step_losses = results["loss"] / np.maximum(results["weight"], 1e-8)
                _check_finite(task.step - count, {"loss": task.step_losses, "gradient": results["gradient_norm"]})
                for i in range(count):  # one by one: the sum must not depend on how many steps one call makes
                    totals = [totals[0] + float(results["loss"][i]), totals[1] + float(results["weight"][i])]
                logs = {"loss": float(task.step_losses[-1]), "learning_rate": task.learning_rate(task.step - 1)}
                callbacks.on_train_batch_end(begin + count - 1, logs)
                if interrupt.requested:
                    save()
                    leave_if_asked()
                if checkpoints is not None and checkpoints.due(task.step) and task.step < end:
                    save()
            logs = {"loss": totals[0] / max(totals[1], 1e-8), "learning_rate": task.learning_rate(task.step - 1)}
            score = None
            if validation_data is not None:
                scores = task.evaluate(validation_data, verbose=0)
                plotted = {name: value for name, value in scores.items() if not name.endswith(NOT_PLOTTED)}
                logs.update({f"val_{name}": value for name, value in plotted.items()})
                if checkpoints is not None and checkpoints.best_name:
                    score = scores.get(checkpoints.best_name)
            callbacks.on_epoch_end(epoch, logs)
            ended = True
            save(score)
            if checkpoints is not None and checkpoints.best_name and score is None:
                raise ValueError(
                    f"no metric {checkpoints.best_name!r} to choose the best by; there are {sorted(scores)}"
                )
            leave_if_asked()
        task.use_averages()
        callbacks.on_train_end(logs)
    return task.history


def _check_finite(done: int, results: dict[str, np.ndarray]) -> None:
    """Stop before anything that is not a number gets into a checkpoint."""
    for name, values in results.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise FloatingPointError(
                f"the {name} is not finite at step {done + bad[0] + 1}: lower the learning rate, or train "
                "in float32; the last checkpoint is from before"
            )


def watched() -> bool:
    """Whether a person looks at the output: a terminal or a notebook."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


def _restore(task, saved, data) -> tuple[list[float], dict]:
    if saved.state.get("data") != data.fingerprint:
        raise ValueError(
            f"{saved.path} was written while training on other data, order or seed: start a new run directory, "
            "or give the data this run began with"
        )
    if saved.state["dtype"] != task.dtype_policy.name:
        raise ValueError(
            f"{saved.path} was written in {saved.state['dtype']}, this run computes in {task.dtype_policy.name}: "
            f"give dtype {saved.state['dtype']} to go on with the same curve"
        )
    task.set_state({name: saved.group(name) for name in ("model", "optimizer")})
    task.step = saved.step
    logger.info("resumed from %s at step %d", saved.path, saved.step)
    return list(saved.state["totals"]), saved.state["history"]
