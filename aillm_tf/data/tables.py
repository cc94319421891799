"""Rows in columns, where each row came from, and what happens to a bad row."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np


class MissingColumn(ValueError):
    """A requested column is not there. ``headerless``: the file's first line holds none of the requested names."""

    def __init__(self, message: str, headerless: bool = False):
        super().__init__(message)
        self.headerless = headerless


class Bad(NamedTuple):
    """A row that could not be read, in place of its values."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Places:
    """Where each row came from; called with a row it says so.

    Args:
        names: the sources, each ending in the sign that stands before a line ("train.tsv:") or an example
            ("tfds:imdb_reviews:train#").
        source: (rows,) the index into ``names`` of each row.
        line: (rows,) the line, counted from 1, or the example, counted from 0.

    Example:
        >>> Places(["train.tsv:"], np.zeros(2, np.int32), np.array([17, 18]))(0)
        'train.tsv:17'
    """

    names: list[str]
    source: np.ndarray
    line: np.ndarray

    def __call__(self, row: int) -> str:
        return f"{self.names[self.source[row]]}{self.line[row]}"

    def take(self, rows: Sequence[int] | np.ndarray) -> Places:
        """The places of some of the rows, in the order given."""
        rows = np.asarray(rows, np.int64)
        return Places(self.names, self.source[rows], self.line[rows])

    @staticmethod
    def concatenate(places: Sequence[Places]) -> Places:
        """The places of several tables set one after the other."""
        return Places(
            [name for place in places for name in place.names],
            np.concatenate(
                [place.source + sum(len(p.names) for p in places[:index]) for index, place in enumerate(places)]
            ),
            np.concatenate([place.line for place in places]),
        )


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Args:
        columns: values by column name; text files give strings, other sources what they hold.
        where: says where a row came from, ``where(0) == "train.tsv:1"``.
        skipped: one reason, with its place, for each row that was skipped.
        label_names: for a column of class numbers that the source has names for: the names in the source's order.
    """

    columns: dict[str, list]
    where: Places
    skipped: list[str]
    label_names: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.where.line)


class Faults:
    """Raises at the first bad row, or collects the reasons, as the user asked."""

    def __init__(self, on_bad: str):
        if on_bad not in ("raise", "skip"):
            raise ValueError(f'on_bad is "raise" or "skip", not {on_bad!r}')
        self.on_bad = on_bad
        self.skipped: list[str] = []

    def add(self, place: str, reason: str, column: str | None = None) -> None:
        """Report one bad row."""
        message = f"{place}{'' if column is None else f' (column {column})'}: {reason}"
        if self.on_bad == "raise":
            raise ValueError(f'{message}. Mend the row, or pass on_bad="skip" to leave such rows out and count them.')
        self.skipped.append(message)

    @property
    def first_skipped(self) -> str:
        """What an error adds where nothing is left: how many were skipped, and why the first one; "" where none was."""
        return f"; the first of {len(self.skipped)} skipped: {self.skipped[0]}" if self.skipped else ""


def listing(names: Iterable[Any], most: int = 8) -> str:
    """Quote names for an error message, the first few of many.

    Example:
        >>> listing(["a", "b", "c"], most=2)
        "'a', 'b' and 1 more"
    """
    names = [name if len(name) <= 40 else f"{name[:37]}..." for name in map(str, names)]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def nearest(name: str, names: Iterable[Any]) -> str:
    """``"; did you mean 'label'?"`` when one of the names is close, else nothing."""
    close = difflib.get_close_matches(name, list(map(str, names)), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
