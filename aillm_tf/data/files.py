"""Rows of text files, line by line: csv, tsv, jsonl and txt, each also as .gz or .zst.

Notable here:
- csv is RFC 4180: a quoted field may hold commas, quotes and line ends. tsv has no quoting: a lone quote in a tweet is
  a quote, and a row is a line.
- Lines end at "\\n" only, so that the line in an error is the line an editor shows.
- Bytes that do not decode travel as surrogate escapes to the column check, which can name the row and the column.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from aillm_tf.data.tables import Bad, MissingColumn, listing, nearest

Rows = Iterator[tuple[int, Any]]  # (line counted from 1, list of fields | dict of values | Bad)


def file_records(
    path: Path,
    name: str,
    columns: list[str] | None,
    encoding: str = "utf-8",
    errors: str = "strict",
    kind: str | None = None,
) -> tuple[Rows, list[str] | None]:
    """Open a text file by its extension.

    Args:
        path: the file.
        name: how errors call it.
        columns: names, or positions as decimal strings; None: all.
        encoding: of the text; a byte order mark is taken off UTF-8.
        errors: "strict", or "replace" to read undecodable bytes as U+FFFD.
        kind: read as a file of this extension; None: its own.

    Returns:
        The rows as values by column, and the columns; None if each JSON object may have its own.

    Raises:
        ValueError: unknown extension; while reading: a torn gzip file, or bytes that no codec can skip.
        MissingColumn: a requested column is not there.
    """
    suffix = kind or format_of(path)
    if suffix not in _FORMATS:
        raise ValueError(
            f"{name}: unknown file type {suffix!r}. Known: {', '.join(_FORMATS)}, each also with .gz or .zst; "
            "rename or convert"
        )
    rows = _FORMATS[suffix](text_lines(path, name, encoding, errors))
    if suffix == ".jsonl":
        return rows, columns
    return _by_position(rows, ["text"] if suffix == ".txt" else None, columns, name)


def format_of(path: Path) -> str:
    """The extension that says how a file is read, without that of its compression: ".jsonl" of "a.jsonl.gz"."""
    return (path.with_suffix("") if path.suffix.lower() in (".gz", ".zst") else path).suffix.lower()


def undecodable(text: str) -> str | None:
    """Say which byte of a text was not valid in the file's encoding, or None if all were."""
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        what = f"byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"lone surrogate U+{code:04X}"
        return (
            f"broken text, {what} at character {error.start}; if the whole file is in another encoding give "
            'encoding="...", or errors="replace" to read such bytes as U+FFFD'
        )
    return None


def text_lines(path: Path, name: str, encoding: str = "utf-8", errors: str = "strict") -> Iterator[str]:
    """The lines of a text file, each with its end; see `file_records` for the arguments and errors."""
    if encoding.lower().replace("_", "-") in ("utf-8", "utf8"):
        encoding = "utf-8-sig"
    handler = "surrogateescape" if errors == "strict" else errors
    opened = {".gz": gzip.open, ".zst": _open_zst}.get(path.suffix.lower(), open)
    line = 0
    try:
        with opened(path, "rb") as raw, io.TextIOWrapper(raw, encoding, handler, newline="\n") as text:
            for line, content in enumerate(text, 1):  # noqa: B007, the errors below need the line
                yield content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        kind, cat = ("zstd", "zstdcat") if path.suffix.lower() == ".zst" else ("gzip", "zcat")
        raise ValueError(
            f"{name}:{line + 1}: the {kind} file is torn or not {kind} ({error}); nothing after this line can be "
            f"trusted. Get the file again, or save what `{cat}` still reads as a new file"
        ) from error
    except UnicodeError as error:  # UTF-16 and its kin know no surrogate escapes
        raise ValueError(f"{name}:{line + 1}: not valid {encoding} ({error}). Give the right encoding=") from error


class _Unpacked(io.RawIOBase):
    """The bytes inside a file of zstd frames; EOFError where the last one is not whole, which the library lets pass."""

    def __init__(self, path: Path):
        try:
            import zstandard
        except ImportError as error:
            raise ModuleNotFoundError(
                f"{path}: .zst files need the zstandard library: pip install zstandard"
            ) from error
        self._error, self._start = zstandard.ZstdError, zstandard.ZstdDecompressor().decompressobj
        self._file, self._frame, self._packed, self._ready = path.open("rb"), None, b"", b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready:
            self._packed = self._packed or self._file.read(1 << 20)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the last frame is not whole")
                return 0
            self._frame = self._frame or self._start()
            try:
                self._ready = self._frame.decompress(self._packed)
            except self._error as error:
                raise EOFError(str(error)) from error
            self._packed = self._frame.unused_data
            self._frame = None if self._frame.eof else self._frame
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_zst(path: Path, mode: str) -> io.BufferedReader:
    return io.BufferedReader(_Unpacked(path), 1 << 20)


def _by_position(
    rows: Rows, header: list[str] | None, requested: list[str] | None, name: str
) -> tuple[Rows, list[str]]:
    """Fields to values by column. The first row is the header if it holds the names requested."""
    named = [column for column in requested or () if not column.isdecimal()]
    if header is None:
        line, first = next(rows, (1, []))
        if isinstance(first, Bad):
            raise ValueError(f"{name}:{line}: {first.reason}")
        cells = [cell.strip() for cell in first]
        if named and set(named) <= set(cells):
            header = cells
        elif named:
            missing = next(column for column in named if column not in cells)
            holds = f"the first line holds {listing(cells)}{nearest(missing, cells)}" if first else "the file is empty"
            raise MissingColumn(
                f"{name}:{line}: no column {missing!r}; {holds}. Name a column of the header, or where there is no "
                "header choose by position, counted from 0",
                headerless=bool(first) and not set(named) & set(cells),
            )
        else:
            rows = itertools.chain([(line, first)] if first else [], rows)
            header = [str(position) for position in range(len(first))]
    positions = {}
    for column in header if requested is None else requested:
        positions[column] = header.index(column) if column in header else int(column) if column.isdecimal() else None
        if positions[column] is None or positions[column] >= len(header):
            raise MissingColumn(f"{name}: no column {column!r}; there are {len(header)}: {listing(header)}")
    return _fields_by_name(rows, positions, len(header)), list(positions)


def _fields_by_name(rows: Rows, positions: dict[str, int], width: int) -> Rows:
    for line, fields in rows:
        if isinstance(fields, Bad):
            yield line, fields
        elif len(fields) != width:
            separator = " (is there a separator inside a text?)" if len(fields) > width else ""
            yield line, Bad(f"{len(fields)} columns where the first line has {width}{separator}")
        else:
            yield line, {column: fields[position] for column, position in positions.items()}


def _csv_rows(lines: Iterator[str]) -> Rows:
    csv.field_size_limit(2**31 - 1)  # a document may be longer than the 128 KiB that csv allows by default
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            open_quote = "unexpected end" in str(error)
            reason = (
                f"a quote is opened here and never closed up to the end of the file, line {reader.line_num}"
                if open_quote
                else f"not a csv record ({error})"
            )
            yield line, Bad(f'{reason}; write a quote inside a quoted field twice (""), or save the file as .tsv')
            continue
        if fields:  # a blank line is no record
            yield line, fields


def _tsv_rows(lines: Iterator[str]) -> Rows:
    for line, content in enumerate(lines, 1):
        content = content.rstrip("\n").removesuffix("\r")
        if content:
            yield line, content.split("\t")


def _txt_rows(lines: Iterator[str]) -> Rows:
    # Blank lines are rows here: between documents they are the only boundary.
    for line, content in enumerate(lines, 1):
        yield line, [content.rstrip("\n").removesuffix("\r")]


def _jsonl_rows(lines: Iterator[str]) -> Rows:
    for line, content in enumerate(lines, 1):
        if not content.strip():
            continue
        try:
            value = json.loads(content)
        except json.JSONDecodeError as error:
            yield line, Bad(f"not JSON ({error.msg} at character {error.colno}); each line is one JSON object")
            continue
        yield (
            line,
            value if isinstance(value, dict) else Bad(f"a JSON {listing([type(value).__name__])}, not an object"),
        )


_FORMATS: dict[str, Callable[[Iterator[str]], Rows]] = {
    ".csv": _csv_rows,
    ".tsv": _tsv_rows,
    ".jsonl": _jsonl_rows,
    ".txt": _txt_rows,
}
