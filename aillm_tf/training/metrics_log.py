"""metrics.jsonl: one line an optimizer step, one line an epoch; the same after kill -9 and resume as without.

Rows of a step look like ``{"step": 7, "loss": 0.61, "learning_rate": 4e-05, "seconds": 0.42, ...}``, rows of an epoch
like ``{"epoch": 1, "step": 216, "train_loss": 0.5, "val_accuracy": 0.81}`` (epochs count from 1). Only files here:
callbacks.py writes them from ``fit``, report.py reads them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsFile:
    """An append-only JSON-lines file that forgets what a resumed run is about to write again.

    The first row written decides: a row of step s drops every kept row from step s on (and the epochs that ended
    there), a row of epoch e drops epoch e and later ones. So the file needs no word from the checkpoint.

    Args:
        path: the file; its folder must exist. A last line that kill -9 tore is cut off.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "metrics.jsonl")
        >>> for step in (1, 2, 3):
        ...     MetricsFile(path).write({"step": step, "loss": 1 / step})
        >>> MetricsFile(path).write({"step": 2, "loss": 0.5})  # resumed from a checkpoint at step 1
        >>> [row["step"] for row in read_rows(path)]
        [1, 2]
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._file = None

    def start(self, row: Mapping[str, Any]) -> list[dict]:
        """Opens the file for a first row to come; returns the rows that stay. Later calls do nothing."""
        if self._file is not None:
            return []
        kept = [old for old in read_rows(self.path) if _before(old, row)] if self.path.exists() else []
        lines = "".join(_line(old) for old in kept)
        if not self.path.exists() or self.path.read_bytes() != lines.encode("utf-8"):
            # Rows are dropped by replacing the file: killed here, either all of the old ones are there or the kept.
            from aillm_tf.files import write_atomic

            write_atomic(self.path, lines)
        self._file = open(self.path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115  closed by close()
        return kept

    def write(self, row: Mapping[str, Any]) -> None:
        """Appends a row; when this returns, kill -9 no longer loses it."""
        self.start(row)
        self._file.write(_line(row))
        self._file.flush()

    def close(self) -> None:
        """Closes the file; a later write opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def read_rows(path: str | os.PathLike) -> list[dict]:
    """Reads metrics.jsonl; a last line without its line break, torn by kill -9, is left out.

    Args:
        path: the file.

    Returns:
        One dict a row, in the order of the file.

    Raises:
        ValueError: a line before the last is not JSON; names file and line.
    """
    lines = Path(path).read_bytes().split(b"\n")[:-1]
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not a row of metrics ({error}): repair or delete this line") from None
    return rows


def plain_numbers(values: Any) -> Any:
    """The values as JSON holds them: numpy numbers as Python's, NaN and infinities as null."""
    if isinstance(values, Mapping):
        return {str(key): plain_numbers(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [plain_numbers(value) for value in values]
    if hasattr(values, "tolist"):
        return plain_numbers(values.tolist())
    if isinstance(values, float) and not math.isfinite(values):
        return None
    return os.fspath(values) if isinstance(values, os.PathLike) else values


def training_facts(rows: list[Mapping[str, Any]]) -> dict[str, float]:
    """What the rows say about the whole run, over all the times it was resumed.

    Args:
        rows: rows of metrics.jsonl. The first steps of a process carry no ``seconds`` (they trace and compile), so
            they do not count towards speed.

    Returns:
        ``steps``, and where the rows have what it takes: ``training_seconds``, ``steps_per_second``,
        ``examples_per_second``, ``tokens_per_second`` (real tokens), ``mfu`` (the mean, by time),
        ``padding_fraction`` (padding among all positions computed) and ``skipped_steps`` (by the loss-spike guard).

    Example:
        >>> rows = [{"step": 1, "examples": 32}, {"step": 2, "examples": 32, "seconds": 0.5}]
        >>> training_facts(rows)["examples_per_second"]
        64.0
    """
    steps = [row for row in rows if "epoch" not in row]
    timed = [row for row in steps if row.get("seconds")]
    facts: dict[str, float] = {"steps": steps[-1]["step"] if steps else 0}
    if timed:
        facts["training_seconds"] = sum(row["seconds"] for row in timed)
        facts["steps_per_second"] = len(timed) / facts["training_seconds"]
    for what in ("examples", "tokens"):
        counted = [row for row in timed if what in row]
        if counted:
            seconds = sum(row["seconds"] for row in counted)
            facts[f"{what}_per_second"] = sum(row[what] for row in counted) / seconds
    rated = [row for row in timed if row.get("mfu")]
    if rated:
        facts["mfu"] = sum(row["mfu"] * row["seconds"] for row in rated) / sum(row["seconds"] for row in rated)
    if any("skipped" in row for row in steps):
        facts["skipped_steps"] = sum(row.get("skipped", 0) for row in steps)
    padded = [row for row in steps if "tokens" in row and row.get("positions")]
    if padded:
        facts["padding_fraction"] = 1 - sum(r["tokens"] for r in padded) / sum(r["positions"] for r in padded)
    return facts


def _before(old: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    if "epoch" in row:
        return old["epoch"] < row["epoch"] if "epoch" in old else old["step"] <= row["step"]
    return old["step"] < row["step"]


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(plain_numbers(row), ensure_ascii=False) + "\n"
