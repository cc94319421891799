"""Texts to rows of tokens for pretraining: long texts become several rows, and nothing is lost."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Iterable, Mapping

import numpy as np

from aillm_tf.data.pipeline import Ragged
from aillm_tf.data.sources import Uri, read_table
from aillm_tf.data.tables import listing

SENTENCE_ENDS = tuple(".!?。！？…")


def texts_of(
    rows: Uri | Iterable[str], *, text: str = "text", on_bad: str = "raise", encoding_errors: str = "strict"
) -> list[str]:
    """The texts of a source that are not empty.

    Args:
        rows: a source with a text column (see `aillm_tf.data.sources`), or the texts themselves.
        text: name or number of the column.
        on_bad: "raise" at a bad row, or "skip" it and count.
        encoding_errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.

    Raises:
        ValueError: a bad row; names the file and line.
        TypeError: a mapping, whose keys would be taken for texts.
    """
    if isinstance(rows, Mapping):
        raise TypeError(f"give a source or texts, not a mapping with the keys {listing(rows)}")
    if isinstance(rows, (str, os.PathLike)):
        rows = read_table(rows, columns=[text], on_bad=on_bad, errors=encoding_errors).columns[text]
    return [row for row in rows if row.strip()]


def around(tokenizer) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after a text.

    Example:
        >>> from aillm_tf.text.train import train_tokenizer
        >>> around(train_tokenizer(["a b c", "a b c"], vocab_size=16))
        ([2], [3])
    """
    empty, some = (tokenizer.encode([text]).ids.tolist() for text in ("", "a"))
    before = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(empty, some, strict=False))))
    return empty[:before], empty[before:]


def split_rows(offsets: np.ndarray, max_length: int, before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut rows longer than `max_length` into pieces, each between the same special tokens; nothing is lost.

    Args:
        offsets: (rows + 1,) where the rows begin in their flat array.
        max_length: tokens of a piece at most.
        before, after: special tokens at either end of a row, which every piece gets.

    Returns:
        where: (tokens,) int64, which element of the flat array stands at each place of the new one.
        offsets: (pieces + 1,) int64.

    Example:
        >>> where, offsets = split_rows(np.array([0, 6]), 4, 1, 1)
        >>> where.tolist(), offsets.tolist()
        ([0, 1, 2, 5, 0, 3, 4, 5], [0, 4, 8])
    """
    if np.diff(offsets).max(initial=0) <= max_length:
        return np.arange(offsets[-1]), offsets
    room = max_length - before - after
    if room < 1:
        raise ValueError(f"max_length {max_length} leaves no room beside {before + after} special tokens")
    pieces = []
    for start, end in itertools.pairwise(offsets):
        if end - start <= max_length:
            pieces.append(np.arange(start, end))
            continue
        head, tail = np.arange(start, start + before), np.arange(end - after, end)
        for at in range(start + before, end - after, room):
            pieces.append(np.concatenate([head, np.arange(at, min(at + room, end - after)), tail]))
    return np.concatenate(pieces), np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])])


def long_enough(rows: Ragged, tokens: int) -> Ragged:
    """The rows of at least so many tokens."""
    counts = np.diff(rows.offsets)
    kept = counts >= tokens
    return Ragged(rows.values[np.repeat(kept, counts)], np.concatenate([[0], np.cumsum(counts[kept])]))


def sentence_ends(tokenizer, rows: int) -> np.ndarray:
    """Which tokens end a sentence: those whose last character is one of . ! ? 。 ！ ？ …

    A rule without a segmenter: an abbreviation ("Dr.") ends a sentence too.

    Args:
        tokenizer: whose vocabulary it is.
        rows: of the table, at least the vocabulary.

    Returns:
        (rows,) bool.
    """
    ends = np.zeros(rows, bool)
    ends[: len(tokenizer.vocabulary)] = [token.endswith(SENTENCE_ENDS) for token in tokenizer.vocabulary]
    ends[tokenizer.special_ids] = False
    return ends


def is_chinese(character: str) -> bool:
    """Whether a character is a Chinese ideograph."""
    return "CJK" in unicodedata.name(character, "") and "IDEOGRAPH" in unicodedata.name(character, "")
