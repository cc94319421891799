"""Many texts through the ``tokenizers`` library: arrays of ids, places of tokens, and errors that name the row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple
from unicodedata import category

import numpy as np
import tokenizers

__all__ = ["Encoded", "EncodedSpans", "batches", "paired", "token_spans", "whole_spans", "without_start"]

# Rows handed to the library at once: its answers take some hundred bytes a token until they are copied out.
ROWS_AT_ONCE = 4096


class Encoded(NamedTuple):
    """Token ids of many rows, end to end. Row i is ``ids[offsets[i]:offsets[i + 1]]``.

    Args:
        ids: int32 (tokens,).
        segment_ids: int32 (tokens,), 0 for the first text with its special tokens, 1 for the second.
        offsets: int64 (rows + 1,), the first is 0.
    """

    ids: np.ndarray
    segment_ids: np.ndarray
    offsets: np.ndarray


class EncodedSpans(NamedTuple):
    """Token ids of many rows and the places in the texts they come from.

    Args:
        ids, segment_ids, offsets: as in `Encoded`.
        spans: int32 (tokens, 2), the first character of the text that the token stands for and the one after the last;
            white space at the ends is left out. Both are 0 for special tokens. A character that became several tokens
            belongs to each of them.
        text_ids: int8 (tokens,), 0 for a token of the text, 1 for one of its pair, -1 for a special token.
        rows: int64 (rows,), the number of the text a row comes from: a long text may give several rows.
    """

    ids: np.ndarray
    segment_ids: np.ndarray
    offsets: np.ndarray
    spans: np.ndarray
    text_ids: np.ndarray
    rows: np.ndarray


def paired(texts: Sequence[str], pairs: Sequence[str] | None) -> Sequence:
    """Returns the rows as the library takes them, one string or a pair of strings each."""
    if isinstance(texts, (str, bytes)) or isinstance(pairs, (str, bytes)):
        raise TypeError("encode takes a sequence of texts; put the single text into a list")
    if pairs is None:
        return texts
    if len(pairs) != len(texts):
        raise ValueError(f"{len(texts)} texts but {len(pairs)} pairs: every row needs both")
    return list(zip(texts, pairs, strict=True))


def batches(encode: Callable[[list], list], rows: Sequence) -> Iterator[tuple[list, list[tokenizers.Encoding]]]:
    """Yields rows and what the library makes of them, some thousand at a time."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = list(rows[start : start + ROWS_AT_ONCE])
        try:
            yield batch, encode(batch)
        except Exception as error:  # the library raises plain Exception, too
            raise _blame(encode, batch, start, error) from error


def token_spans(encoding: tokenizers.Encoding, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns `EncodedSpans.spans` and `text_ids` of one row."""
    text_ids = np.array([-1 if text is None else text for text in encoding.sequence_ids], np.int8)
    spans = np.array(encoding.offsets, np.int32).reshape(-1, 2)
    spans[text_ids < 0] = 0
    for number, text in enumerate(texts):
        inside = text_ids == number
        start, end = spans[inside].T
        places = np.arange(len(text) + 1, dtype=np.int32)
        blank = np.array([character.isspace() for character in text], bool)
        # The next character from here on, and the last one before here, that is no white space.
        following = np.minimum.accumulate(np.where(np.append(blank, False), len(text), places)[::-1])[::-1]
        preceding = np.maximum.accumulate(np.append(np.int32(0), np.where(blank, 0, places[1:])))
        start = np.minimum(following[start], end)
        end = np.maximum(preceding[end], start)
        # The library leaves out marks that were joined with their letter; they belong to the letter's token unless
        # they are tokens themselves.
        mark = np.array(
            [category(character)[0] == "M" or "\u1160" <= character <= "\u11ff" for character in text], bool
        )
        marks_end = np.minimum.accumulate(np.where(np.append(mark, False), len(text), places)[::-1])[::-1]
        starts = np.append(np.sort(start), len(text))
        next_start = starts[np.searchsorted(starts, end)]
        end = np.where(end > start, np.minimum(marks_end[end], next_start), end)
        spans[inside] = np.stack([start, end], axis=-1)
    return spans, text_ids


def without_start(row: str | tuple[str, str], normalized: Callable[[str], str]) -> str | tuple[str, str]:
    """A row whose texts begin after the control characters of which the normalizer makes nothing.

    Of such characters at the beginning of a text the library loses count, so they stay away from it.
    """
    if isinstance(row, tuple):
        return tuple(without_start(text, normalized) for text in row)
    count = 0
    if isinstance(row, str):
        while category(row[count : count + 1] or "a") in ("Cc", "Cf") and not normalized(row[count]):
            count += 1
    return row[count:] if count else row


def whole_spans(
    encoding: tokenizers.Encoding,
    row: str | tuple[str, str],
    whole: str | tuple[str, str],
    space_ids: list[int],
) -> tuple[np.ndarray, np.ndarray]:
    """Returns `EncodedSpans.spans`, counted in the whole row, and `text_ids` of what `without_start` left of it."""
    parts, wholes = (texts if isinstance(texts, tuple) else (texts,) for texts in (row, whole))
    spans, text_ids = token_spans(encoding, parts)
    for text, (part, full) in enumerate(zip(parts, wholes, strict=True)):
        spans[text_ids == text] += len(full) - len(part)
    # "▁" stands for a space, which the library may take for the letter after it.
    spaces = np.isin(encoding.ids, space_ids)
    spans[spaces, 1] = spans[spaces, 0]
    return spans, text_ids


def _blame(encode: Callable[[list], list], rows: list, start: int, error: Exception) -> Exception:
    """The error that names the first row the library cannot take."""
    for number, row in enumerate(rows, start):
        for text in row if isinstance(row, tuple) else (row,):
            if not isinstance(text, str):
                return TypeError(f"row {number} is {type(text).__name__}, not a string: {text!r}")
            try:
                text.encode()
            except UnicodeEncodeError as broken:
                return ValueError(
                    f"row {number} holds a lone surrogate {text[broken.start]!r} at character {broken.start}, which is "
                    "no character; clean the text first"
                )
        try:
            encode([row])
        except Exception as broken:
            return ValueError(f"row {number}: {broken}; the text that is not cut may leave no room for the other")
    return error
