"""Keras callbacks of a run: metrics.jsonl, and the trackers that get the same rows (TensorBoard, Weights & Biases).

A tracker has ``start(rows)`` (what metrics.jsonl keeps from before a resume), ``write(row)`` and ``close()``.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from aillm_tf.training.flops import step_flops, utilization_peak
from aillm_tf.training.metrics_log import MetricsFile, plain_numbers


class Tracker(Protocol):
    """Something that gets every row of metrics.jsonl."""

    def start(self, rows: Sequence[Mapping[str, Any]]) -> None: ...

    def write(self, row: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class MetricsLog(keras.callbacks.Callback):
    """Writes a row for each optimizer step and each epoch; exact across kill and resume.

    A step's loss and learning rate come from the task (``step``, ``step_losses``, ``learning_rate``), because
    Keras's progress bar would average them; a plain keras.Model has one row an execution, with what its logs hold.

    Args:
        path: metrics.jsonl; its folder must exist.
        trackers: get the same rows.
        data: the Dataset that fit trains on. With it, rows also count ``examples``, ``tokens`` and ``positions``
            (tokens and padding), so that the report can state speed and padding, and ``mfu``, the share of the devices'
            peak that the formula's own operations are (see ``flops.py``).

    Example:
        >>> model.fit(data, callbacks=[MetricsLog("runs/a/metrics.jsonl")])  # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike, trackers: Sequence[Tracker] = (), data=None):
        super().__init__()
        self.data = data
        self.file = MetricsFile(path)
        self.trackers = list(trackers)
        self.seconds_to_first_step: float | None = None
        self._step = 0

    def on_train_begin(self, logs=None):
        self.file.close()  # of a fit before, which may have ended in an exception
        self._peak = 0.0
        if self.data is not None and hasattr(self.model, "config"):
            self._peak = utilization_peak(self.model)
        self._began, self._started, self._timed = time.perf_counter(), False, False

    def on_train_batch_begin(self, batch, logs=None):
        self._batch_began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        logs = dict(logs or {})
        seconds = time.perf_counter() - self._batch_began
        if self.seconds_to_first_step is None:
            self.seconds_to_first_step = time.perf_counter() - self._began
        self._step = int(logs.pop("step", getattr(self.model, "step", self._step + 1)))
        losses = np.atleast_1d(logs.pop("losses", getattr(self.model, "step_losses", logs.get("loss", np.nan))))
        rate, norms = getattr(self.model, "learning_rate", None), getattr(self.model, "step_norms", None)
        for i, loss in enumerate(losses):
            step = self._step - len(losses) + 1 + i
            row = {"step": step, "loss": float(loss)}
            if norms is not None:
                row["gradient_norm"] = float(norms[i])
            if "skipped" in logs:
                row["skipped"] = int(self.model.step_skipped[i])
            if callable(rate):
                row["learning_rate"] = float(rate(step - 1))
            row.update({name: float(value) for name, value in logs.items() if name not in row and np.ndim(value) == 0})
            if self.data is not None:
                row.update(_counts(self.data, step - 1))
            if self._timed:  # the first execution of a process traces and compiles
                row["seconds"] = round(seconds / len(losses), 6)
                for what in ("examples", "tokens"):
                    if what in row:
                        row[f"{what}_per_second"] = round(row[what] * len(losses) / seconds, 2)
                if self._peak:
                    flops = step_flops(self.model, self.data, step - 1)
                    row["mfu"] = round(flops * len(losses) / seconds / self._peak, 4)
            self._write(row)
        self._timed = True

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, "step": int(getattr(self.model, "step", self._step))}
        for name, value in (logs or {}).items():
            if name not in ("step", "losses") and np.ndim(value) == 0:
                row["train_loss" if name == "loss" else name] = float(value)
        self._write(row)

    def on_train_end(self, logs=None):
        self.close()

    def close(self) -> None:
        """Closes the file and the trackers; fit does so at its end."""
        self.file.close()
        for tracker in self.trackers:
            tracker.close()

    def _write(self, row: dict) -> None:
        if not self._started:
            kept = self.file.start(row)
            for tracker in self.trackers:
                tracker.start(kept)
            self._started = True
        self.file.write(row)
        for tracker in self.trackers:
            tracker.write(row)


class TensorBoardEvents:
    """Writes rows as TensorBoard scalars: ``train/...`` by step, ``validation/...`` and ``epoch/...`` at epoch ends.

    The events are a copy of metrics.jsonl: on resume they are written anew from the rows it keeps, so that no step
    shows twice. The package ``tensorboard`` is needed to look at them, not to write them.

    Args:
        folder: for the event files; made if missing.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        # tf.summary.scalar itself lives in the package tensorboard; this is what it writes.
        plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name="scalars")
        self._metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin)
        self._metadata.data_class = 1  # DATA_CLASS_SCALAR
        self._writer = None

    def start(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Begins anew with the rows from before."""
        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = tf.summary.create_file_writer(str(self.folder))
        for row in rows:
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Adds a row's numbers at its step."""
        with self._writer.as_default(), tf.device("cpu:0"):
            for name, value in _tagged(row).items():
                tf.summary.write(name, tf.constant(value, tf.float32), step=row["step"], metadata=self._metadata)
        if "epoch" in row:
            self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class WandbTracker:
    """Sends rows to Weights & Biases; a resumed run goes on under the same id. WANDB_MODE=offline works.

    Args:
        folder: the run directory; its ``wandb`` folder holds the id and offline files.
        config: the resolved config, as plain values.

    Raises:
        ModuleNotFoundError: wandb is not installed.
    """

    def __init__(self, folder: str | os.PathLike, config: Mapping[str, Any]):
        try:
            import wandb
        except ModuleNotFoundError:
            raise ModuleNotFoundError("track=wandb needs the package wandb: pip install 'aillm_tf[tracking]'") from None
        self._wandb, self.folder, self.config = wandb, Path(folder), dict(config)
        self._run = None

    def start(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Opens the run; the server has the rows from before already, under the same id."""
        self._open()

    def write(self, row: Mapping[str, Any]) -> None:
        """Logs a row's numbers at its step."""
        self._run.log({**_tagged(row), **({"epoch": row["epoch"]} if "epoch" in row else {})}, step=row["step"])

    def summary(self, scores: Mapping[str, Any]) -> None:
        """Sets the run's final scores."""
        self._open()
        self._run.summary.update(plain_numbers(scores))

    def close(self) -> None:
        """Does nothing: at the end of fit the final scores are still to come."""

    def finish(self) -> None:
        """Ends the run and waits until everything is sent or on disk."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _open(self) -> None:
        if self._run is not None:
            return
        id_file = self.folder / "wandb" / "run_id.txt"
        if not id_file.is_file():
            id_file.parent.mkdir(parents=True, exist_ok=True)
            id_file.write_text(secrets.token_hex(4) + "\n", encoding="utf-8")
        self._run = self._wandb.init(
            project="aillm_tf",
            id=id_file.read_text(encoding="utf-8").strip(),
            name=self.folder.resolve().name,
            dir=str(self.folder),
            config=self.config,
            resume="allow",
        )


def _counts(data, step: int) -> dict[str, int]:
    """What the global batch of a step, from 0, holds."""
    rows, length, full = data.batch_rows(step)
    return {"examples": len(rows), "tokens": data.tokens(step, step + 1), "positions": full * length}


def _tagged(row: Mapping[str, Any]) -> dict[str, float]:
    """A row's numbers under TensorBoard's group/name."""
    tagged = {}
    for name, value in row.items():
        if name in ("step", "epoch") or not isinstance(value, (int, float)):
            continue
        if name.startswith("val_"):
            tagged[f"validation/{name[4:]}"] = value
        else:
            tagged[f"{'epoch' if 'epoch' in row else 'train'}/{name}"] = value
    return tagged
