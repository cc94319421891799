"""From a uri to rows: files by extension, TensorFlow Datasets, the Hugging Face hub, files inside PyPI packages.

Notable here:
- Every bad row is named by file, line and column. It stops the reading, or is skipped and counted when asked.
- What concerns a whole file (no such column, a torn gzip stream) always raises: no row can be skipped to mend it.
- Inferred labels are sorted, numbers by value, so that the same data always gives the same class numbers.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from aillm_tf.data.files import file_records, undecodable
from aillm_tf.data.tables import Bad, Faults, MissingColumn, Places, Table, listing, nearest
from aillm_tf.data.tfds_source import directory_records, hf_records, tfds_records

_log = logging.getLogger(__name__)
_COLUMN_NAME = re.compile(r"[A-Za-z_][\w -]{0,30}")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
OnBad = Literal["raise", "skip"]
Uri = str | os.PathLike


def read_table(
    uri: Uri,
    *,
    columns: Sequence[str | int] | None = None,
    on_bad: OnBad = "raise",
    encoding: str = "utf-8",
    errors: Literal["strict", "replace"] = "strict",
) -> Table:
    """Read rows from a file, a dataset library or a file inside a PyPI package.

    In csv and tsv the first line is a header if the requested names stand in it; columns requested by number, and all
    columns when none are requested, are taken by position, every line being a row.

    Args:
        uri: a path ending in .csv, .tsv, .jsonl or .txt, each also .gz or .zst; "tfds:name[/config][:split]";
            "hf:name[/config][:split]"; a folder in TFDS's on-disk format with ":split" after it or nothing;
            "pypi:package==version/path#sha256=..." for a file of the kinds above. The split is "train" by default.
        columns: names, or positions counted from 0; None: all.
        on_bad: "raise" at the first bad row, or "skip" it and keep the reason in ``Table.skipped``.
        encoding: of text files.
        errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.

    Returns:
        The :class:`~aillm_tf.data.tables.Table`; its columns are named as requested.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a bad row (with ``on_bad="raise"``), a torn gzip file, an unknown extension.
        MissingColumn: a ValueError; a requested column is not there.

    Example:
        >>> table = read_table("dev.tsv", columns=[0])  # doctest: +SKIP
        >>> table.columns["0"][0], table.where(0)  # doctest: +SKIP
        ('one long string of cliches', 'dev.tsv:1')
    """
    faults = Faults(on_bad)
    requested = None if columns is None else [str(column) for column in columns]
    source = open_source(uri, requested, encoding, errors)
    names = source.columns
    values: dict[str, list] = {name: [] for name in names or ()}
    lines: list[int] = []
    for line, row in source.rows:
        if isinstance(row, Bad):
            faults.add(f"{source.prefix}{line}", row.reason)
            continue
        if names is None:  # JSON objects: the first one says what the columns are
            names = list(row)
            values = {name: [] for name in names}
        problem = row_problem(row, names)
        if problem:
            faults.add(f"{source.prefix}{line}", *problem)
            continue
        for name in names:
            values[name].append(row[name])
        lines.append(line)
    where = Places([source.prefix], np.zeros(len(lines), np.int32), np.asarray(lines, np.int64))
    return Table(values, where, faults.skipped, source.label_names)


def row_problem(row: dict[str, Any], names: Sequence[str]) -> tuple[str, str] | None:
    """(reason, column) of the first column that is missing or does not decode."""
    for name in names:
        if name not in row:
            return f"the row has no such column; it has: {listing(row)}{nearest(name, row)}", name
        broken = undecodable(row[name]) if isinstance(row[name], str) else None
        if broken:
            return broken, name
    return None


class Source(NamedTuple):
    """Rows that are read one by one."""

    prefix: str  # what stands before a line number
    rows: Iterator[tuple[int, dict[str, Any] | Bad]]
    columns: list[str] | None  # None: the first row says
    label_names: dict[str, list[str]]


def open_source(uri: Uri, requested: list[str] | None, encoding: str = "utf-8", errors: str = "strict") -> Source:
    """Open what :func:`read_table` reads, without holding it in memory.

    Args:
        uri, encoding, errors: as there.
        requested: the columns; None: all.

    Returns:
        :class:`Source`; its rows are as they stand, checked by nobody.
    """
    name = os.fspath(uri)
    scheme, _, spec = name.partition(":")
    if scheme in ("tfds", "hf"):
        records = tfds_records(spec, requested) if scheme == "tfds" else hf_records(spec, requested)
        return Source(f"{name}#", *records)
    if scheme == "pypi":
        from aillm_tf.weights.resolve import resolve

        path, name = Path(resolve(name)), name.partition("#")[0]
    else:
        path = Path(name).expanduser()
    folder, _, split = name.rpartition(":")
    if not path.exists() and folder and Path(folder).expanduser().is_dir():
        return Source(f"{name}#", *directory_records(Path(folder).expanduser(), split, requested))
    if path.is_dir():
        return Source(f"{name}#", *directory_records(path, None, requested))
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such file{_near_file(path)}")
    return Source(f"{name}:", *file_records(path, name, requested, encoding, errors), {})


def _near_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f", and no folder {str(path.parent)!r}"
    return nearest(path.name, [child.name for child in path.parent.iterdir()])


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Texts, or pairs of texts, with class numbers.

    Args:
        texts: rows of text.
        pairs: the second text of each row, or None.
        label_ids: (rows,) int32 class numbers, or (rows, classes) float32 of 0 and 1 with several labels a row.
        labels: the class names, by number.
        where: says where a row came from, ``where(0) == "train.tsv:1"``.
        skipped: one reason, with its place, for each row that was skipped.
        columns: the columns that were read, by role: {"text": "0", "label": "1"}.
    """

    texts: list[str]
    pairs: list[str] | None
    label_ids: np.ndarray
    labels: list[str]
    where: Places
    skipped: list[str]
    columns: dict[str, str]

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: Sequence[int] | np.ndarray) -> Labelled:
        """Some of the rows, in the order given: what is left after cleaning, one side of a split.

        Example:
            >>> data.take(deduplicate(data.texts, data.label_ids).rows)  # doctest: +SKIP
        """
        rows = np.asarray(rows, np.int64)
        return dataclasses.replace(
            self,
            texts=[self.texts[row] for row in rows],
            pairs=self.pairs and [self.pairs[row] for row in rows],
            label_ids=self.label_ids[rows],
            where=self.where.take(rows),
        )


def labelled(
    uri: Uri | Mapping[str, Uri],
    text: str | int = "text",
    label: str | int = "label",
    pair: str | int | None = None,
    labels: Sequence[str] | None = None,
    on_bad: OnBad = "raise",
    multi_label: bool = False,
    encoding: str = "utf-8",
    errors: str = "strict",
) -> Labelled:
    """Read texts and labels for classification.

    A file of two columns without header needs no column names: the label is the column with few distinct values, and
    ``Labelled.columns`` says which was taken.

    Args:
        uri: a source as :func:`~aillm_tf.data.sources.read_table` takes it, or one source a class:
            {"negative": "neg.txt", "positive": "pos.txt"}.
        text: column of the text, by name or position.
        label: column of the label; not looked at with one source a class.
        pair: column of the second text.
        labels: the classes by number; a label that is not among them makes a bad row. None: the source's own order
            where it has one, else the labels that occur, sorted, numbers by value.
        on_bad: "raise" at the first bad row, or "skip" it and keep the reason in ``Labelled.skipped``.
        multi_label: a row has any number of labels, separated by commas or as a list.
        encoding: of text files.
        errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.

    Returns:
        :class:`Labelled`.

    Raises:
        ValueError: a bad row (with ``on_bad="raise"``); no row at all; columns that cannot be told apart; labels that
            look like texts.

    Example:
        >>> train = labelled("train.tsv")  # doctest: +SKIP
        >>> dev = labelled("dev.tsv", labels=train.labels)  # doctest: +SKIP
    """
    faults = Faults(on_bad)
    options = {"on_bad": on_bad, "encoding": encoding, "errors": errors}
    label_names = None
    if isinstance(uri, Mapping):
        if multi_label:
            raise ValueError("one source a class gives each text one label: leave multi_label out")
        parts = [_read(part, {"text": str(text)} | _role("pair", pair), options) for part in uri.values()]
        raw = [str(name) for name, (table, _) in zip(uri, parts, strict=True) for _ in range(len(table))]
    else:
        parts = [_read(uri, {"text": str(text), "label": str(label)} | _role("pair", pair), options)]
        table, columns = parts[0]
        raw = table.columns[columns["label"]]
        label_names = table.label_names.get(columns["label"])
    columns = parts[0][1]
    where = Places.concatenate([table.where for table, _ in parts])
    faults.skipped += [reason for table, _ in parts for reason in table.skipped]
    texts = [value for table, chosen in parts for value in table.columns[chosen["text"]]]
    pairs = [value for table, chosen in parts for value in table.columns[chosen["pair"]]] if pair is not None else None

    given = None if labels is None else [str(name) for name in labels]
    rows, row_labels = [], []
    for row, value in enumerate(raw):
        names = _label_names(value, multi_label)
        problem = _problem(texts[row], columns["text"]) or (pairs and _problem(pairs[row], columns["pair"]))
        problem = problem or _label_problem(names, given, multi_label, columns.get("label", "label"))
        if problem:
            faults.add(where(row), *problem)
        else:
            rows.append(row)
            row_labels.append(names)
    source = ", ".join(str(part) for part in (uri.values() if isinstance(uri, Mapping) else [uri]))
    if not rows:
        raise ValueError(f"{source}: no usable row{faults.first_skipped}")
    classes = given or label_names or _sorted_labels({name for names in row_labels for name in names})
    if given is None and label_names is None and len(classes) > max(20, len(rows) // 2):
        raise ValueError(
            f"{source}: column {columns['label']!r} has {len(classes)} distinct values in {len(rows)} rows "
            f"({listing(classes, 3)}), so it is hardly the label. Name the label's column with label="
        )
    everything = Labelled(texts, pairs, np.zeros(len(texts), np.int32), list(classes), where, faults.skipped, columns)
    return dataclasses.replace(everything.take(rows), label_ids=_numbers(row_labels, classes, multi_label))


def _role(name: str, column: str | int | None) -> dict[str, str]:
    return {} if column is None else {name: str(column)}


def _read(uri: Uri, roles: dict[str, str], options: dict) -> tuple[Table, dict[str, str]]:
    """Read the columns of the roles; where a file has no header, find the default ones by position."""
    try:
        return read_table(uri, columns=list(dict.fromkeys(roles.values())), **options), roles
    except MissingColumn as error:
        if not error.headerless or "pair" in roles:
            raise
        unnamed = [role for role, column in roles.items() if column == role]
        if any(not column.isdecimal() for role, column in roles.items() if role not in unnamed):
            raise
        table = read_table(uri, **options)
        if len(table.columns) != len(roles):
            raise
    free = [column for column in table.columns if column not in roles.values()]
    if len(unnamed) == 2:
        chosen = _text_and_label(table, uri)
    else:
        chosen = roles | {unnamed[0]: free[0]}
    _log.info("%s: no header; %s", uri, ", ".join(f"{role} is column {column}" for role, column in chosen.items()))
    return table, chosen


def _text_and_label(table: Table, uri: Uri) -> dict[str, str]:
    """Tell text and label apart in two unnamed columns."""
    distinct = {name: len(set(values)) for name, values in table.columns.items()}
    length = {name: sum(map(len, values)) for name, values in table.columns.items()}
    few = max(20, len(table) // 10)
    for label, text in (("0", "1"), ("1", "0")):
        if distinct[label] > few:
            continue
        single = not any(" " in value.strip() for value in table.columns[label])
        if 2 * distinct[label] <= distinct[text] or (single and 3 * length[label] <= length[text]):
            _refuse_header(table, text, label, uri)
            return {"text": text, "label": label}
    raise ValueError(
        f"{uri}: no header, and the two columns cannot be told apart ({distinct['0']} and {distinct['1']} distinct "
        f"values in {len(table)} rows). Say which is the label: label=0 or label=1"
    )


def _refuse_header(table: Table, text: str, label: str, uri: Uri) -> None:
    """A header of unexpected names would be read as one more row, of a class of its own."""
    counts = Counter(table.columns[label])
    name = table.columns[label][0]
    words = (name, table.columns[text][0])
    if counts.pop(name) == 1 and min(counts.values(), default=0) > 1 and all(map(_COLUMN_NAME.fullmatch, words)):
        raise ValueError(
            f"{table.where(0)}: the first line looks like a header: {listing(table.columns[c][0] for c in '01')}. Name "
            f"its columns, text={words[1]!r} and label={name!r}; or if it is a row, say label={label}"
        )


def _problem(text: Any, column: str) -> tuple[str, str] | None:
    if not isinstance(text, str):
        return f"the text is {text!r:.40}, not a string", column
    return None if text.strip() else ("the text is empty", column)


def _label_names(value: Any, multi_label: bool) -> list[str]:
    """The labels of one row as strings; none for a missing label."""
    if multi_label:
        value = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    else:
        value = [value]
    names = [str(name).lower() if isinstance(name, bool) else str(name).strip() for name in value if name is not None]
    return [name for name in names if name]


def _label_problem(names: list[str], given: list[str] | None, multi_label: bool, column: str):
    if not names and not multi_label:
        return "the label is missing", column
    unknown = next((name for name in names if given is not None and name not in given), None)
    if unknown is not None:
        return f"unknown label {unknown!r}; the labels are {listing(given)}{nearest(unknown, given)}", column
    return None


def _sorted_labels(names: set[str]) -> list[str]:
    if all(_NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))
    return sorted(names)


def _numbers(row_labels: list[list[str]], classes: Sequence[str], multi_label: bool) -> np.ndarray:
    number = {name: index for index, name in enumerate(classes)}
    if not multi_label:
        return np.asarray([number[names[0]] for names in row_labels], np.int32)
    chosen = np.zeros((len(row_labels), len(classes)), np.float32)
    for row, names in enumerate(row_labels):
        chosen[row, [number[name] for name in names]] = 1
    return chosen
