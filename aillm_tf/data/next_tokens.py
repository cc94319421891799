"""Documents of tokens as rows for next-token prediction: every token but the first of a document is a target once.

Column "targets" is "token_ids" one token on: of a window that is cut out of a document, the last input's target is
known too, and no token is lost between windows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from aillm_tf.data.files import format_of, text_lines, undecodable
from aillm_tf.data.packing import pack
from aillm_tf.data.pipeline import Ragged
from aillm_tf.data.rows import around, texts_of
from aillm_tf.data.sources import Uri


def read_texts(
    rows: Uri | Iterable[str], *, whole: bool = False, encoding_errors: str = "strict", **reading
) -> list[str]:
    """The texts of a source.

    Args:
        rows: see `aillm_tf.data.rows.texts_of`.
        whole: a txt file is one text with its line breaks, not a text a line.
        encoding_errors, **reading: see there.
    """
    if whole and isinstance(rows, (str, os.PathLike)) and format_of(Path(rows)) == ".txt" and Path(rows).is_file():
        text = "".join(text_lines(Path(rows), str(rows), errors=encoding_errors))
        broken = undecodable(text)
        if broken:
            raise ValueError(f"{rows}: {broken}")
        return [text]
    return texts_of(rows, encoding_errors=encoding_errors, **reading)


def documents(tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray, bool]:
    """Texts as tokens, each between the token that begins texts and the one that ends them.

    What the tokenizer does not put there itself is added: before a text <s>, else the end token, as GPT-2 was trained;
    after it </s>. A tokenizer without such tokens adds none.

    Returns:
        Flat ids (tokens,) int32, offsets (texts + 1,) int64, and whether all begin with such a token.
    """
    encoded = tokenizer.encode(texts)
    ids, offsets = encoded.ids, encoded.offsets
    before, after = around(tokenizer)
    begin = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    begun = before[:1] in ([begin], [tokenizer.cls_id])
    if not begun and begin is not None:
        ids, offsets, begun = np.insert(ids, offsets[:-1], begin), offsets + np.arange(len(offsets)), True
    if tokenizer.eos_id is not None and after[-1:] != [tokenizer.eos_id]:
        ids, offsets = np.insert(ids, offsets[1:], tokenizer.eos_id), offsets + np.arange(len(offsets))
    return ids.astype("int32"), offsets, begun


def joined(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Documents one after the other, with one token between two of them where the same begins and ends a text."""
    starts = offsets[1:-1]
    return np.delete(ids, starts[ids[starts] == ids[starts - 1]])


def windows(ids: np.ndarray, offsets: np.ndarray, length: int, stride: int | None = None) -> tuple[dict, np.ndarray]:
    """Documents as rows of at most `length` tokens.

    Args:
        ids, offsets: flat tokens of the documents, and where each begins.
        length: tokens of a row.
        stride: targets of every row after the first of its document; the tokens before them are in the row as context
            only, with "target_weights" 0. None: `length`, rows do not overlap.

    Returns:
        Columns "token_ids", "targets" and, where rows overlap, "target_weights"; and the document of every row.

    Raises:
        ValueError: a stride of 0 or more than the length, or no document has two tokens.

    Example:
        >>> columns, of = windows(np.arange(6), np.array([0, 6]), length=4, stride=2)
        >>> [columns[name].values.tolist() for name in ("token_ids", "targets", "target_weights")]
        [[0, 1, 2, 3, 1, 2, 3, 4], [1, 2, 3, 4, 2, 3, 4, 5], [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0]]
    """
    overlap = stride is not None
    stride = stride if overlap else length
    if not 1 <= stride <= length:
        raise ValueError(f"stride {stride}: give 1 to {length}, the tokens of a row")
    inputs = np.maximum(np.diff(offsets) - 1, 0)  # of each document: every token but the last
    counts = np.where(inputs > 0, 1 + np.maximum(0, -(-(inputs - length) // stride)), 0)
    if not counts.sum():
        raise ValueError("no text has two tokens: there is nothing to predict")
    of = np.repeat(np.arange(len(counts)), counts)
    number = np.arange(len(of)) - np.repeat(np.cumsum(counts) - counts, counts)  # of the row within its document
    end = np.minimum(length + number * stride, inputs[of])
    scored = np.where(number > 0, length + (number - 1) * stride, 0)  # the first input whose target counts
    begin = np.maximum(end - length, 0) if overlap else scored
    sizes = end - begin
    rows = np.concatenate([[0], np.cumsum(sizes)])
    within = np.arange(rows[-1]) - np.repeat(rows[:-1] - begin, sizes)  # place in the document
    at = within + np.repeat(offsets[of], sizes)
    columns = {"token_ids": Ragged(ids[at], rows), "targets": Ragged(ids[at + 1], rows)}
    if overlap:
        columns["target_weights"] = Ragged((within >= np.repeat(scored, sizes)).astype("float32"), rows)
    return columns, of


def packed(columns: dict, length: int) -> dict:
    """Several rows in one, by best fit, with "packed_ids" (1, 2, 3 ... in a row) and "positions" (from 0 in each).

    Args:
        columns: of rows of at most `length` tokens; numbers of a row are added up.
        length: tokens of the new rows.
    """
    offsets = columns["token_ids"].offsets
    sizes = np.diff(offsets)
    pieces = pack(sizes, length)
    order, row = pieces.document, pieces.row
    sizes = sizes[order]
    rows = np.concatenate([[0], np.cumsum(np.bincount(row, weights=sizes).astype("int64"))])
    positions = np.arange(rows[-1]) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    at = positions + np.repeat(offsets[order], sizes)
    number = np.arange(len(row)) - np.searchsorted(row, row) + 1
    made = {
        name: Ragged(column.values[at], rows)
        if isinstance(column, Ragged)
        else np.bincount(row, weights=column[order]).astype(column.dtype)
        for name, column in columns.items()
    }
    made["packed_ids"] = Ragged(np.repeat(number, sizes).astype("int32"), rows)
    return {**made, "positions": Ragged(positions.astype("int32"), rows)}


def random_blocks(stream: np.ndarray, length: int) -> tuple[dict, Callable]:
    """Blocks of one long text, cut elsewhere in every epoch.

    Args:
        stream: (tokens,) int32.
        length: tokens of a row; row i begins up to half a row before or after token i * length.

    Returns:
        Columns and the `noise` of a `Dataset`.

    Raises:
        ValueError: there is no whole row.
    """
    rows = (len(stream) - 1) // length
    if rows < 1:
        raise ValueError(
            f"{len(stream)} tokens are less than a row of {length}: give more text or a smaller max_length"
        )
    begins = np.arange(rows + 1) * length
    columns = {"token_ids": Ragged(stream, begins), "begin": begins[:-1].astype("int32")}
    last, stream = len(stream) - 1 - length, tf.constant(stream)

    def noise(example: dict, seed, _) -> dict:
        shift = tf.random.stateless_uniform((), seed, -(length // 2), length - length // 2, tf.int32)
        begin = tf.clip_by_value(example.pop("begin") + shift, 0, last)
        parts = {"token_ids": tf.slice(stream, [begin], [length]), "targets": tf.slice(stream, [begin + 1], [length])}
        return {**example, **parts}

    return columns, noise


def random_prefix(example: dict, seed, length) -> dict:
    """The `noise` of a prefix language model: a random part of the row from its start is given, the rest is predicted.

    Adds "prefix" (length,) int32, 1 at the tokens that all others see, and takes the loss off their targets.
    """
    count = tf.reduce_sum(example["valid"])
    given = tf.random.stateless_uniform((), seed, 1, tf.maximum(count, 2), tf.int32)
    prefix = tf.cast(tf.range(length) < given, tf.int32)
    weights = example.get("target_weights", tf.cast(example["valid"], tf.float32))
    return {
        **example,
        "prefix": prefix,
        # the last token of the prefix has the first one after it as its target
        "target_weights": tf.where(tf.range(length) < given - 1, 0.0, weights),
    }
