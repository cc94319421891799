"""The loop behind `Task.fit`: epochs over steps, Keras callbacks, checkpoints, and a start in mid-epoch.

It keeps the contract of `keras.Model.fit` (callback hooks, `History`, the progress bar), which itself cannot
begin an epoch in its middle. With several workers all run the same loop; the first one alone writes.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import signal
import sys
import threading
import zlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from aillm_tf.training import callback_state, cluster
from aillm_tf.training.diagnose import first_not_finite
from aillm_tf.training.step import programs
from aillm_tf.training.strategy import of_several_processes
from aillm_tf.training.watchdog import Watch

logger = logging.getLogger("aillm_tf")

NOT_PLOTTED = ("_low", "_high", "examples")  # bounds and counts are for reports, not for every epoch's log


_stop_before: contextvars.ContextVar = contextvars.ContextVar("aillm_stop_before", default=None)


@contextlib.contextmanager
def stopped_before(exception: type[Exception]) -> Iterator[None]:
    """Within this context `fit` raises `exception(task, data, validation_data, steps)` instead of training."""
    token = _stop_before.set(exception)
    try:
        yield
    finally:
        _stop_before.reset(token)


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
    validation_every: int | None = None,
    epochs: int = 1,
    steps: int | None = None,
    callbacks=None,
    checkpoints=None,
    verbose="auto",
) -> keras.callbacks.History:
    """Train a compiled task; see `Task.fit`."""
    several = of_several_processes(task.strategy)
    if verbose == "auto":  # a bar for a person, a line an epoch for a log file
        verbose = 1 if keras.utils.is_interactive_logging_enabled() and watched() else 2
    if validation_every is not None and validation_every < 1:
        raise ValueError(f"validation_every is {validation_every}: give a number of steps, or None for once an epoch")
    last = epochs * data.steps_per_epoch if steps is None else steps
    if _stop_before.get() is not None:
        raise _stop_before.get()(task, data, validation_data, last)
    per_epoch = validation_every or data.steps_per_epoch
    epochs = -(-last // per_epoch)
    if checkpoints is not None and checkpoints.best_name and validation_data is None:
        raise ValueError(f"the best checkpoint by {checkpoints.best_name} needs validation_data")
    writes = checkpoints is not None and (not several or cluster.is_chief())
    task.seed = data.seed
    task.step, totals, history = 0, [0.0, 0.0], {}
    saved = checkpoints.latest() if checkpoints is not None else None
    if several:
        cluster.agree(task.strategy, "the step to go on from", -1 if saved is None else saved.step)
        cluster.agree(task.strategy, "the data, their order or the optimizer", _checksum(data, task.optimizer))
    if saved is not None:
        totals, history = _restore(task, saved, data, per_epoch)
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
        if not writes:
            return
        states, arrays = callback_state.get_states(callbacks.callbacks)
        state = {
            "data": data.fingerprint,
            "dtype": task.dtype_policy.name,
            "steps_per_epoch": per_epoch,
            "totals": totals,
            "history": task.history.history,
            "stopped": task.stop_training,
            "epoch_ended": ended,
            "callbacks": states,
        }
        # `state` copies every variable, so that the next steps may write into theirs while these are saved
        groups = {**task.state(), **({"callbacks": arrays} if arrays else {})}
        checkpoints.save_in_background(task.step, groups, state, score)

    def all_written():
        """No worker goes on, or away, before the first one has written."""
        if checkpoints is not None:
            checkpoints.wait()
        if several:
            cluster.agree(task.strategy, "the last step", task.step)

    def leave_if(asked: bool):
        if asked:
            all_written()
            logger.warning("SIGTERM: saved at step %d; the same command goes on from here", task.step)
            raise SystemExit(143)

    with Interrupt(checkpoints is not None) as interrupt, contextlib.ExitStack() as stack:
        if checkpoints is not None:
            stack.callback(checkpoints.wait)  # also where something fails: what was begun is written
        if several:
            stack.enter_context(cluster.named_failures())
        watch = stack.enter_context(Watch(data))
        callbacks.on_train_begin()
        if saved is not None:
            arrays = saved.group("callbacks") if "callbacks" in saved.groups else {}
            callback_state.set_states(callbacks.callbacks, saved.state.get("callbacks", []), arrays)
        logs, asked, until = None, False, resumed
        for epoch in range(resumed // per_epoch if ended else (resumed - 1) // per_epoch, epochs):
            if task.stop_training or (ended and task.step >= last):
                break
            callbacks.on_epoch_begin(epoch)
            end = min((epoch + 1) * per_epoch, last)
            if ended:
                totals, ended = [0.0, 0.0], False
            while task.step < end and not task.stop_training:
                if task.step == until:  # the begin, or batches have another size from here on
                    until = min([last, *(step for step in getattr(data, "stage_ends", ()) if step > until)])
                    iterator = iter(data.distribute(task.strategy, task.step, until, task.accumulate))
                    if task.step == resumed or task.on_tpu:  # else shapes may be dynamic
                        task.train_function = programs().make_train_function(task)
                count = min(task.steps_per_execution, end - task.step, until - task.step)
                if checkpoints is not None and checkpoints.every_steps:
                    count = min(count, checkpoints.every_steps - task.step % checkpoints.every_steps)
                begin = task.step % per_epoch
                callbacks.on_train_batch_begin(begin)
                given = iterator, tf.constant(count), tf.constant(float(interrupt.requested))
                results = watch.call(task.train_function, *given, first_step=task.step, last_step=task.step + count)
                results = {name: np.asarray(value) for name, value in results.items()}
                task.step += count
                task.step_losses = results["loss"] / np.maximum(results["weight"], 1e-8)
                task.step_weights = results["weight"]
                task.step_norms, task.step_skipped = results["gradient_norm"], results["skipped"] > 0
                _check_finite(task, data, count)
                for i in range(count):  # one by one: the sum must not depend on how many steps one call makes
                    totals = [totals[0] + float(results["loss"][i]), totals[1] + float(results["weight"][i])]
                logs = {"loss": float(task.step_losses[-1]), "learning_rate": task.learning_rate(task.step - 1)}
                if task.guard:
                    logs["skipped"] = int(task.guard.skipped.numpy().sum())
                callbacks.on_train_batch_end(begin + count - 1, logs)
                # a worker that leaves alone would leave the others waiting: all have to know at the same step
                asked = bool(results["leaving"].any()) if several else interrupt.requested
                if asked:
                    save()
                    leave_if(asked)
                if writes:
                    checkpoints.check()
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
            leave_if(asked if several else interrupt.requested)
        task.use_averages()
        callbacks.on_train_end(logs)
        all_written()
    return task.history


def _checksum(data, optimizer) -> int:
    """An int32 that differs where two workers would train on other data, or otherwise."""
    return zlib.crc32(repr((data.fingerprint, optimizer.get_config())).encode()) >> 1


def evaluate(task, data, verbose="auto") -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Sums and rows of `task.evaluation` over all rows of a `Dataset`, each once, in its order; see `Task.evaluate`."""
    if task.test_function is None:
        task.test_function = programs().make_test_function(task)
    sums, rows = {}, {}
    bar = keras.utils.Progbar(data.steps_per_epoch, verbose=int(verbose != 0 and watched()), unit_name="batch")
    with contextlib.ExitStack() as stack:
        if of_several_processes(task.strategy):
            stack.enter_context(cluster.named_failures())
        stack.enter_context(task.averaged())
        watch = stack.enter_context(Watch(data))
        iterator = iter(data.distribute(task.strategy, 0, data.steps_per_epoch))
        for i in range(data.steps_per_epoch):
            result = watch.call(task.test_function, iterator, first_step=i, last_step=i + 1)
            for name, value in result["sums"].items():
                sums[name] = sums.get(name, 0.0) + float(value)
            for name, value in result["rows"].items():
                rows.setdefault(name, []).append(np.asarray(value))
            bar.update(i + 1)
    rows = {name: np.concatenate(values) for name, values in rows.items()}
    order = np.argsort(rows["row"], kind="stable")
    order = order[rows["row"][order] >= 0]  # rows that only filled a batch are -1
    return sums, {name: values[order] for name, values in rows.items()}


def _check_finite(task, data, count: int) -> None:
    """Stop before anything that is not a number gets into a checkpoint; say where it came from."""
    for name, values in (("loss", task.step_losses), ("gradient", task.step_norms)):
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            step = task.step - count + int(bad[0])
            try:
                found = first_not_finite(task, data, step)
            except Exception as error:  # on some devices nothing can be computed outside of a graph
                found = f"it was not found ({type(error).__name__}: {error})"
            raise FloatingPointError(
                f"the {name} is not finite at step {step + 1}. The first such tensor: {found}. The weights are those "
                f"before that step, the last checkpoint is from before; lower the learning rate, or train in float32"
            )


def watched() -> bool:
    """Whether a person looks at the output: a terminal or a notebook."""
    return sys.stdout.isatty() or "ipykernel" in sys.modules


def _restore(task, saved, data, per_epoch: int) -> tuple[list[float], dict]:
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
    if (before := saved.state.get("steps_per_epoch", per_epoch)) != per_epoch:
        raise ValueError(
            f"{saved.path} was written by a run that validated every {before} steps, this one does every {per_epoch}: "
            f"give validation_every {before}"
        )
    task.set_state({name: saved.group(name) for name in saved.groups if name != "callbacks"})
    task.step = saved.step
    logger.info("resumed from %s at step %d", saved.path, saved.step)
    return list(saved.state["totals"]), saved.state["history"]
