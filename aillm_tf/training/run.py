"""A run is a directory: its config, metrics, checkpoints, report and model, written by one process at a time."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

import yaml

from aillm_tf.config import diff, flatten, to_plain, to_yaml
from aillm_tf.files import write_atomic
from aillm_tf.training.cluster import is_chief
from aillm_tf.training.metrics_log import read_rows, training_facts
from aillm_tf.training.references import for_run
from aillm_tf.training.report import write_report

try:
    import fcntl
except ImportError:  # Windows: that one process writes to a directory is then the user's promise
    fcntl = None

# Options that change where or how fast a run computes, not its loss curve: a resumed run may change them.
MAY_CHANGE = {"out", "track", "benchmark", "strategy", "accumulate", "remat", "steps_per_execution", "keep"}
MAY_CHANGE |= {"checkpoint_every", "cluster", "worker", "worker_timeout", "mesh", "layout"}


class Run:
    """Opens a run directory, new or to be resumed.

    ::

        config.yaml  metrics.jsonl  tensorboard/  checkpoints/  model/  export/  report.json  report.html  lock

    Of several workers, the chief alone writes there. For the others `directory` is one of their own that `close`
    deletes; from `directory` they only read the checkpoints.

    Args:
        directory: made if missing.
        config: the recipe's resolved config, a dataclass or nested dicts.
        track: "wandb" to send metrics to Weights & Biases as well.

    Raises:
        ValueError: the directory holds a run with another config (the keys that differ are named), or track is
            unknown.
        BlockingIOError: another process is using the directory; names it.

    Example:
        >>> with Run("runs/a", config) as run:  # doctest: +SKIP
        ...     task.fit(data, callbacks=run.callbacks(data), checkpoints=run.checkpoints(every_steps=500))
        ...     run.report(task.evaluate(test), task="TextClassifier", seed=0)
    """

    def __init__(self, directory: str | os.PathLike, config: Any, track: str | None = None):
        if track not in (None, "wandb"):
            raise ValueError(f"track is {track!r}: the only tracker besides TensorBoard is 'wandb'")
        for_run(to_plain(config))  # a benchmark that there is not is said now, not after the training
        self.directory = self._shared = Path(directory)
        self.config = config
        self.track = track
        if not is_chief():
            self.directory, self.track = Path(tempfile.mkdtemp(prefix="aillm_worker_")), None
        self.model_folder = self.directory / "model"
        self.restored_step: int | None = None  # of the checkpoint that the result is, where it is not the last one
        self._log = None
        self._wandb = None
        self.directory.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.directory / "lock")
        try:
            self._write_config()
        except BaseException:
            self.close()
            raise

    def _write_config(self) -> None:
        path = self.directory / "config.yaml"
        if path.is_file():
            try:
                before = yaml.safe_load(path.read_text(encoding="utf-8"))
            except yaml.YAMLError as error:
                raise ValueError(f"{path} is not valid YAML ({error}): restore it or start another directory") from None
            now = to_plain(self.config)
            changed = [key for key in diff(before, now) if key.rpartition(".")[2] not in MAY_CHANGE]
            if changed:
                old, new = flatten(before), flatten(now)
                listed = ", ".join(f"{key} ({old.get(key, 'absent')} -> {new.get(key, 'absent')})" for key in changed)
                raise ValueError(
                    f"{self.directory} holds a run with another config: {listed}. Give the same values to resume it, "
                    "or another directory to start anew"
                )
        write_atomic(path, to_yaml(self.config))

    def callbacks(self, data=None) -> list:
        """Keras callbacks that write metrics.jsonl, TensorBoard events and, if asked for, Weights & Biases.

        Args:
            data: the Dataset that fit trains on; with it, the report states examples and tokens a second and padding.
        """
        from aillm_tf.training.callbacks import MetricsLog, TensorBoardEvents, WandbTracker

        trackers: list = [TensorBoardEvents(self.directory / "tensorboard")]
        if self.track == "wandb":
            self._wandb = WandbTracker(self.directory, to_plain(self.config))
            trackers.append(self._wandb)
        self._log = MetricsLog(self.directory / "metrics.jsonl", trackers, data)
        return [self._log]

    def checkpoints(self, keep: int = 2, every_steps: int | None = None, best: str | None = None):
        """The run's checkpoints; see aillm_tf.training.checkpoint.Checkpoints."""
        from aillm_tf.training.checkpoint import Checkpoints

        return Checkpoints(self._shared / "checkpoints", keep=keep, every_steps=every_steps, best=best)

    def rows(self) -> list[dict]:
        """The rows of metrics.jsonl; none before the first step."""
        path = self.directory / "metrics.jsonl"
        return read_rows(path) if path.is_file() else []

    def report(self, scores: dict[str, Any], **facts: Any) -> dict:
        """Writes report.json and report.html.

        Args:
            scores: final metrics, e.g. ``{"accuracy": 0.77, "accuracy_low": 0.75, "accuracy_high": 0.78}``.
            **facts: what else to report, e.g. ``task="TextClassifier"``, ``seed=0``; shown specially are
                ``confusion`` ((classes, classes) counts, row is the true class) with ``labels``, and ``tables``
                (title -> list of dicts with the same keys).

        Returns:
            What report.json holds.
        """
        rows = self.rows()
        measured = training_facts(rows)
        if self.restored_step is not None:
            measured["restored_step"] = self.restored_step
        if self._log is not None and self._log.seconds_to_first_step is not None:
            measured["seconds_to_first_step"] = self._log.seconds_to_first_step
        elif (self.directory / "report.json").is_file():  # nothing left to train: keep what was measured
            before = json.loads((self.directory / "report.json").read_text(encoding="utf-8"))
            measured["seconds_to_first_step"] = before.get("seconds_to_first_step")
        report = write_report(self.directory, {**facts, "scores": scores, **measured}, {"": rows}, to_yaml(self.config))
        if self._wandb is not None:
            self._wandb.summary(report["scores"])
        return report

    def close(self) -> None:
        """Closes the metrics and trackers, and lets another process have the directory."""
        if self._log is not None:
            self._log.close()
        if self._wandb is not None:
            self._wandb.finish()
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self.directory != self._shared:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _lock(path: Path):
    """Takes the directory's lock until the returned file is closed; the kernel frees it when the process dies."""
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  open for as long as the lock is held
    if fcntl is not None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise BlockingIOError(
                f"{path.parent} is in use by {holder}: wait until it is done or stop it, or give another directory"
            ) from None
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file
