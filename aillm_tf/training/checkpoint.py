"""Checkpoints that survive kill -9, a full disk and a flipped bit. numpy and files only; nothing here knows a model.

Layout, one directory a step, each complete or not there at all::

    checkpoints/
      step_00000100/  model.safetensors  optimizer.safetensors  state.json
      step_00000120/  ...

Notable:
  - A step is written into a hidden directory, every file and the directory are fsynced, and one rename makes it
    appear. state.json is written last and carries the SHA-256 and size of every other file, and of itself.
  - ``latest()`` reads everything back before it trusts it, names what is damaged and takes the one before.
  - Tensors are streamed to disk and hashed on the way: a save needs no second copy of the weights in memory.
  - ``save_in_background`` does so in a thread; the arrays it is given must be nobody else's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import secrets
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aillm_tf.training.background import Background
from aillm_tf.training.checkpoint_files import (
    FORMAT,
    STATE_FILE,
    SUFFIX,
    DamagedCheckpoint,
    check_file,
    checked_tensors,
    fsync_directory,
    locked,
    plain,
    read_state,
    read_tensors,
    write_state,
    write_tensors,
)

STEP_NAME = re.compile(r"step_(\d{8,})")
# Hidden names start with the step they belong to; what follows says what a later process does with a leftover.
LEFTOVER_NAME = re.compile(r"\.(step_\d{8,})\.(writing|replaced|deleted)-[0-9a-f]+")


@dataclasses.dataclass(frozen=True)
class Saved:
    """One checkpoint on disk that was intact when it was opened.

    Attributes:
        path: its directory.
        step: optimizer steps done when it was written.
        state: what ``save`` was given as ``state``.
        score: what ``save`` was given as ``score``, or None.
        groups: names of its groups of tensors.
    """

    path: Path
    step: int
    state: dict[str, Any]
    score: float | None
    groups: tuple[str, ...]

    def group(self, name: str) -> dict[str, np.ndarray]:
        """Reads one group of tensors.

        Args:
            name: a name from ``groups``.

        Returns:
            Tensor name -> array, with the shape and dtype it was saved with.

        Raises:
            KeyError: there is no such group.
        """
        if name not in self.groups:
            raise KeyError(f"{self.path} has no group {name!r}; it has {list(self.groups)}")
        return read_tensors(self.path / (name + SUFFIX))


class Checkpoints:
    """The checkpoints of one run.

    Args:
        directory: where they lie, on a local or mounted file system; made by the first ``save``.
        keep: how many of the newest to keep, at least 1. While saving, one more lies on disk.
        every_steps: optimizer steps from one periodic save to the next, for ``due``; None: never due.
        best: name of the score that decides which checkpoint is the best and never deleted: "accuracy" (higher is
            better) or, with a minus sign, "-loss" (lower is better). None: there is no best.

    Attributes:
        best_name: the name in ``best`` without the sign, to look the score up by; None where there is no best.

    Raises:
        ValueError: an argument is out of range, or ``directory`` is a URL.

    Example:
        >>> import tempfile, numpy as np
        >>> checkpoints = Checkpoints(tempfile.mkdtemp(), keep=2, best="-loss")
        >>> _ = checkpoints.save(10, {"model": {"w": np.ones(3)}}, {"seed": 0}, score=0.7)
        >>> saved = checkpoints.latest()
        >>> saved.step, saved.state, saved.group("model")["w"].tolist()
        (10, {'seed': 0}, [1.0, 1.0, 1.0])
    """

    def __init__(
        self, directory: str | os.PathLike, keep: int = 2, every_steps: int | None = None, best: str | None = None
    ):
        if "://" in os.fspath(directory):
            raise ValueError(f"checkpoints need a file system with an atomic rename, not {directory}: mount it")
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least 1 checkpoint must be kept")
        if every_steps is not None and every_steps < 1:
            raise ValueError(f"every_steps is {every_steps}: give a number of optimizer steps, or None")
        self.directory = Path(directory)
        self.keep = keep
        self.every_steps = every_steps
        self.best_name = None if best is None else best.removeprefix("-")
        self._lower_is_better = best is not None and best.startswith("-")
        self._last_step = 0
        self._background = Background()
        self._clear_leftovers()

    def due(self, step: int) -> bool:
        """Whether a multiple of ``every_steps`` was reached since the last save or the checkpoint resumed from.

        Args:
            step: optimizer steps done. May advance by more than one at a time (``steps_per_execution``).
        """
        return self.every_steps is not None and step // self.every_steps > self._last_step // self.every_steps

    def save(
        self,
        step: int,
        groups: Mapping[str, Mapping[str, np.ndarray]],
        state: Mapping[str, Any],
        score: float | None = None,
    ) -> Path:
        """Writes one checkpoint, then deletes those that are neither among the last ``keep`` nor the best.

        A checkpoint of the same step is replaced. Damaged ones of later steps (the run fell back behind them) are
        deleted.

        Args:
            step: optimizer steps done.
            groups: group name -> tensor name -> array; a group is a file.
            state: anything JSON: data position, seeds, epoch. Numbers of numpy are taken as Python's.
            score: the value of the score that ``best`` names, as it is: with ``best="-loss"`` a loss of 0.3 is 0.3.

        Returns:
            The directory of the checkpoint.

        Raises:
            OSError: nothing was saved (disk full, directory not writable); earlier checkpoints are as before.
            FileExistsError: an intact checkpoint of a later step is here: the directory belongs to another run.
            ValueError, TypeError: a name, dtype or value that cannot be stored; nothing was written.
        """
        step = int(step)
        if step < 0:
            raise ValueError(f"step is {step}: it counts the optimizer steps done")
        content = {
            "format": FORMAT,
            "step": step,
            "score": None if score is None else float(score),
            "score_name": self.best_name,
            "state": plain(state, "state"),
            "files": {},
        }
        groups = {group: checked_tensors(group, tensors) for group, tensors in groups.items()}
        final = self.directory / f"step_{step:08d}"
        temporary = self._hidden(final.name, "writing")
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with locked(self.directory) as alone:
                if not alone:
                    raise BlockingIOError(None, f"another process is saving to {self.directory}: one run, one process")
                self._refuse_to_go_back(step)
                temporary.mkdir()
                for group, tensors in groups.items():
                    path = temporary / (group + SUFFIX)
                    content["files"][path.name] = write_tensors(path, tensors)
                write_state(temporary / STATE_FILE, content)
                fsync_directory(temporary)
                if final.exists():
                    replaced = self._hidden(final.name, "replaced")
                    os.rename(final, replaced)
                    os.rename(temporary, final)
                    shutil.rmtree(replaced, ignore_errors=True)
                else:
                    os.rename(temporary, final)
                fsync_directory(self.directory)
                self._last_step = step
                self._delete_old(step)
        except FileExistsError:
            raise
        except OSError as error:
            raise self._explained(error, step, groups) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return final

    def save_in_background(
        self,
        step: int,
        groups: Mapping[str, Mapping[str, np.ndarray]],
        state: Mapping[str, Any],
        score: float | None = None,
    ) -> None:
        """As ``save``, in a thread, so that training goes on meanwhile; waits for the save before, never for this one.

        Args:
            step, state, score: as for ``save``.
            groups: as for ``save``; nothing may write into these arrays until ``wait`` returns.

        Raises:
            OSError, FileExistsError, ValueError, TypeError: of the save before. An error of this one is raised by the
                next call, by ``check`` once it has failed, or by ``wait``.
        """
        self._background.wait()
        self._last_step = int(step)
        self._background.start(self.save, step, groups, plain(state, "state"), score)

    def check(self) -> None:
        """Raises the error of a background save that has failed; waits for nothing."""
        self._background.check()

    def wait(self) -> None:
        """Returns when no save is under way; raises the error of the last one."""
        self._background.wait()

    def latest(self) -> Saved | None:
        """Opens the newest intact checkpoint, with a warning for every newer one that is damaged.

        Returns:
            The checkpoint, or None where there is none at all.

        Raises:
            DamagedCheckpoint: there are checkpoints and every one is damaged.
        """
        saved = self._first_intact(sorted(self._directories().items(), reverse=True))
        if saved is not None:
            self._last_step = saved.step
        return saved

    def best(self) -> Saved | None:
        """Opens the intact checkpoint with the best score, the earlier of equals.

        Returns:
            The checkpoint, or None where none was saved with a score.

        Raises:
            ValueError: this object was made without ``best``.
            DamagedCheckpoint: there are checkpoints with a score and every one is damaged.
        """
        if self.best_name is None:
            raise ValueError('which checkpoint is the best? Make Checkpoints(..., best="accuracy") or best="-loss"')
        directories = self._directories()
        return self._first_intact([(step, directories[step]) for step in self._best_first(directories)])

    def _directories(self) -> dict[int, Path]:
        """Step -> directory of every checkpoint, damaged ones included, oldest first."""
        if not self.directory.is_dir():
            return {}
        found = {}
        for path in self.directory.iterdir():
            match = STEP_NAME.fullmatch(path.name)
            if match and path.is_dir():
                found[int(match[1])] = path
        return dict(sorted(found.items()))

    def _best_first(self, directories: Mapping[int, Path]) -> list[int]:
        ranked = []
        for step, path in directories.items():
            try:
                content = read_state(path)
            except DamagedCheckpoint:
                continue
            score = content["score"]
            if content["score_name"] == self.best_name and score is not None and not math.isnan(score):
                ranked.append((score if self._lower_is_better else -score, step))
        return [step for _, step in sorted(ranked)]

    def _first_intact(self, candidates: list[tuple[int, Path]]) -> Saved | None:
        problems = []
        for step, path in candidates:
            try:
                saved = _open(step, path)
            except DamagedCheckpoint as problem:
                problems.append(str(problem))
                continue
            for problem in problems:
                warnings.warn(f"damaged checkpoint passed over: {problem}; using step {saved.step}", stacklevel=3)
            return saved
        if problems:
            raise DamagedCheckpoint(
                f"every checkpoint in {self.directory} is damaged:\n  "
                + "\n  ".join(problems)
                + "\nRestore one from a copy, or delete the directory to start again from step 0."
            )
        return None

    def _refuse_to_go_back(self, step: int) -> None:
        for later, path in self._directories().items():
            if later <= step:
                continue
            try:
                _open(later, path)
            except DamagedCheckpoint:
                self._delete(path)
            else:
                raise FileExistsError(
                    f"{path} is of a later step than {step}, which is to be saved: resume from it, or give this run "
                    "a directory of its own"
                )

    def _delete_old(self, step: int) -> None:
        directories = self._directories()
        kept = {step, *list(directories)[-self.keep :]}
        if self.best_name is not None:
            kept.update(self._best_first(directories)[:1])
        for old, path in directories.items():
            if old not in kept:
                self._delete(path)

    def _delete(self, path: Path) -> None:
        # A directory that is half deleted must not look like a damaged checkpoint: rename first.
        doomed = self._hidden(path.name, "deleted")
        try:
            os.rename(path, doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            warnings.warn(f"could not delete the old checkpoint {path}: {error}", stacklevel=4)

    def _hidden(self, name: str, purpose: str) -> Path:
        return self.directory / f".{name}.{purpose}-{secrets.token_hex(4)}"

    def _clear_leftovers(self) -> None:
        """Removes what a killed process left; brings back a checkpoint it was about to replace."""
        if not self.directory.is_dir():
            return
        # A directory that may only be read can still be resumed from: what cannot be cleared stays.
        with contextlib.suppress(OSError), locked(self.directory) as alone:
            if not alone:
                return
            for path in sorted(self.directory.iterdir()):
                match = LEFTOVER_NAME.fullmatch(path.name)
                if not match:
                    continue
                original = self.directory / match[1]
                if match[2] == "replaced" and not original.exists():
                    os.rename(path, original)
                else:
                    shutil.rmtree(path)

    def _explained(self, error: OSError, step: int, groups: Mapping[str, Mapping[str, np.ndarray]]) -> OSError:
        needed = sum(array.nbytes for tensors in groups.values() for array in tensors.values())
        parts = [f"the checkpoint of step {step} was not saved: {error.strerror or error}"]
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self.directory).free
            parts.append(f"it needs {needed / 1e6:.1f} MB, {free / 1e6:.1f} MB are free; free some or lower keep")
        with contextlib.suppress(OSError):
            parts.append(f"checkpoints that are there stay as they are: steps {list(self._directories())}")
        return OSError(error.errno, "; ".join(parts), os.fspath(self.directory))


def _open(step: int, path: Path) -> Saved:
    """Checks every byte of a checkpoint against what was recorded when it was written."""
    content = read_state(path)
    if content["step"] != step:
        raise DamagedCheckpoint(f"{path / STATE_FILE}: is of step {content['step']}, the directory was renamed")
    for name, recorded in content["files"].items():
        check_file(path / name, recorded)
    groups = tuple(name.removesuffix(SUFFIX) for name in content["files"])
    return Saved(path, step, content["state"], content["score"], groups)
