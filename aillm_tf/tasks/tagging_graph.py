"""What a tagger does between tokens and entities, as TensorFlow ops: the same on the host and in an export.

tokens of texts -> `unit_features` -> overlapping windows (`Windows`) -> labels of the windows -> `entities_of`.
A unit is what has a label in the end: a word of raw text, or a token where tokens are given.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from aillm_tf.data.tagged_rows import LabelIds
from aillm_tf.text.graph_alignment import WordAlignment
from aillm_tf.text.graph_characters import ragged


def unit_features(
    align: WordAlignment,
    text: tf.Tensor,
    ids: tf.Tensor,
    starts: tf.Tensor,
    ends: tf.Tensor,
    splits: tf.Tensor,
    units: tuple[tf.Tensor, tf.Tensor, tf.Tensor] | None = None,
    *,
    every_piece: bool,
) -> dict[str, tf.Tensor]:
    """What `TokenClassifier.answer_tensors` reads, from texts and their tokens without special ones.

    Args:
        align: finds the words.
        text: (texts,) string.
        ids, starts, ends: (tokens,) of all texts.
        splits: (texts + 1,) of the tokens.
        units: starts, ends (units,) and splits (texts + 1,) of given units; None: the words are the units.
        every_piece: the further tokens of a word have labels too.

    Returns:
        "token_ids" and "words" (texts, tokens) int32; "lengths" (texts,) int32, tokens; and of the units, (texts,
        units) int32: "units", the token that each is labelled at, -1 for none; "goes_on", 1 where that label began in
        the unit before; "starts" and "ends", in characters, or the number of the given unit and the next one; and
        "unit_counts" (texts,) int32.
    """
    splits = tf.cast(splits, tf.int64)
    words = align(text, starts, ends, splits)
    if units is None:
        tokens, own, unit_splits = words.tokens, (words.starts, words.ends), words.splits
        goes_on = tf.zeros_like(tokens, tf.bool)
    else:
        word, goes_on = align.speakers(words, *units)
        unit_splits = tf.cast(units[2], tf.int64)
        tokens = tf.where(word >= 0, tf.gather(tf.concat([words.tokens, [0]], 0), tf.maximum(word, 0)), -1)
    counts = unit_splits[1:] - unit_splits[:-1]
    row = tf.repeat(tf.range(tf.size(counts, tf.int64)), counts)
    if units is not None:
        number = tf.range(tf.size(row, tf.int64)) - tf.gather(unit_splits, row)
        own = (number, number + 1)
    local = tf.where(tokens >= 0, tokens - tf.gather(splits, row), -1)
    flags = tf.ones_like(words.begins) if every_piece else words.begins

    def dense(values, splits):
        table = ragged(tf.cast(values, tf.int32), splits).to_tensor()
        # One column at least: there is nothing to go over in none.
        return tf.pad(table, [[0, 0], [0, tf.maximum(0, 1 - tf.shape(table)[1])]])

    return {
        "token_ids": dense(ids, splits),
        "words": dense(flags, splits),
        "lengths": tf.cast(splits[1:] - splits[:-1], tf.int32),
        "units": dense(local, unit_splits),
        "goes_on": dense(goes_on, unit_splits),
        "starts": dense(own[0], unit_splits),
        "ends": dense(own[1], unit_splits),
        "unit_counts": tf.cast(counts, tf.int32),
    }


class Windows(NamedTuple):
    """Rows that fit a model, cut out of texts of any length.

    Args:
        token_ids, valid: (windows, length) int32, with special tokens.
        words: (windows, room) int32, the flags of the text's part of the rows, which begins behind `front` tokens.
        firsts: (windows,) int32, the place in its text at which each begins.
        first_window: (texts,) int32.
        counts: (texts,) int32, windows of a text.
    """

    token_ids: tf.Tensor
    valid: tf.Tensor
    words: tf.Tensor
    firsts: tf.Tensor
    first_window: tf.Tensor
    counts: tf.Tensor


def cut_windows(
    features: dict[str, tf.Tensor], around: tuple[list[int], list[int]], pad: int, room: int, overlap: int
) -> Windows:
    """Windows of texts, as `aillm_tf.data.tagged_rows.windows` cuts them for training.

    Args:
        features: of `unit_features`.
        around: special tokens before and behind a text.
        pad: id that fills up rows.
        room: tokens of a window, special ones not counted.
        overlap: tokens that neighbouring windows share.
    """
    ids, lengths = features["token_ids"], features["lengths"]
    step = room - overlap
    counts = 1 + tf.maximum(0, -(-(lengths - room) // step))
    first_window = tf.cumsum(counts, exclusive=True)
    text = tf.repeat(tf.range(tf.size(counts)), counts)
    number = tf.range(tf.size(text)) - tf.gather(first_window, text)
    length = tf.gather(lengths, text)
    firsts = tf.minimum(number * step, tf.maximum(length - room, 0))
    size = tf.minimum(length - firsts, room)[:, tf.newaxis]  # (windows, 1)
    width = tf.shape(ids)[1]
    front, back = (tf.constant([*part, pad], tf.int32) for part in around)
    place = tf.range(len(around[0]) + tf.minimum(width, room) + len(around[1]))[tf.newaxis]
    within = place - len(around[0])  # (1, length), place in the text's part
    source = tf.maximum(tf.minimum(firsts[:, tf.newaxis] + within, width - 1), 0)
    inside = (within >= 0) & (within < size)

    def gathered(values):
        values = tf.pad(values, [[0, 0], [0, 1]])  # one column more, for texts without tokens
        return tf.where(inside, tf.gather(tf.gather(values, text), source, batch_dims=1), 0)

    token_ids = tf.where(inside, gathered(ids), pad)
    behind = within - size
    token_ids = tf.where(within < 0, tf.gather(front, tf.minimum(place, len(around[0]))), token_ids)
    closing = (behind >= 0) & (behind < len(around[1]))
    token_ids = tf.where(closing, tf.gather(back, tf.clip_by_value(behind, 0, len(around[1]))), token_ids)
    valid = tf.cast(behind < len(around[1]), tf.int32)
    part = slice(len(around[0]), len(around[0]) + tf.minimum(width, room))
    return Windows(token_ids, valid, gathered(features["words"])[:, part], firsts, first_window, counts)


def unit_values(features: dict[str, tf.Tensor], cut: Windows, values: tf.Tensor, room: int, overlap: int) -> tf.Tensor:
    """(windows, room) numbers to (texts, units): each from the window in which the unit has most context."""
    token = tf.maximum(features["units"], 0)
    number = (token - overlap // 2) // (room - overlap)
    number = tf.clip_by_value(number, 0, cut.counts[:, tf.newaxis] - 1)
    window = cut.first_window[:, tf.newaxis] + number
    values = tf.pad(values, [[0, 0], [0, 1]])
    return tf.gather_nd(values, tf.stack([window, token - tf.gather(cut.firsts, window)], -1))


def entities_of(
    features: dict[str, tf.Tensor], tags: tf.Tensor, scores: tf.Tensor, labels: LabelIds
) -> dict[str, tf.Tensor]:
    """Entities of texts, as `aillm_tf.data.tags.entities` finds them.

    Args:
        features: of `unit_features`.
        tags, scores: (texts, units), number of the label of each unit and how probable it is.
        labels: what the numbers mean.

    Returns:
        "tags" (texts, units) int32, -1 beyond the units; "counts" (texts,) int32; and (texts, most entities of a text,
        at least 1): "types" int32, "scores" float32 (the mean over the units), "starts", "ends" int32; 0 where a text
        has fewer.
    """
    there = tf.sequence_mask(features["unit_counts"], tf.shape(tags)[1])
    tags = tf.where(features["units"] < 0, labels.outside, tags)
    tags = tf.where(features["goes_on"] > 0, tf.gather(tf.constant(labels.inside), tags), tags)
    rows = tf.where(there)[:, 0]
    flat, score, start, end = (
        tf.boolean_mask(values, there) for values in (tags, scores, features["starts"], features["ends"])
    )
    kind, begins, ends = (tf.gather(tf.constant(of), flat) for of in (labels.type_ids, labels.begins, labels.ends))

    def before(values, fill):
        opens = tf.concat([[True], rows[1:] != rows[:-1]], 0)[: tf.size(rows)]
        return tf.where(opens, fill, tf.concat([[fill], values[:-1]], 0)[: tf.size(values)])

    inside = kind >= 0
    opens = inside & (begins | before(ends, False) | (before(kind, -1) != kind))
    number = tf.cumsum(tf.cast(opens, tf.int32)) - 1
    number, count = tf.boolean_mask(number, inside), tf.reduce_sum(tf.cast(opens, tf.int32))
    columns = {
        "types": tf.boolean_mask(kind, opens),
        "scores": tf.math.unsorted_segment_mean(tf.boolean_mask(score, inside), number, count),
        "starts": tf.boolean_mask(start, opens),
        "ends": tf.math.unsorted_segment_max(tf.boolean_mask(end, inside), number, count),
    }
    counts = tf.math.bincount(
        tf.cast(tf.boolean_mask(rows, opens), tf.int32), minlength=tf.shape(tags)[0], maxlength=tf.shape(tags)[0]
    )
    counts = tf.ensure_shape(counts, [None])
    # A width of 0 is hard to serve and to read.
    width = tf.maximum(tf.reduce_max(tf.concat([counts, [0]], 0)), 1)
    found = {
        name: tf.RaggedTensor.from_row_lengths(values, counts, validate=False).to_tensor(shape=None)
        for name, values in columns.items()
    }
    found = {
        name: tf.ensure_shape(tf.pad(values, [[0, 0], [0, width - tf.shape(values)[1]]]), [None, None])
        for name, values in found.items()
    }
    return {"tags": tf.where(there, tags, -1), "counts": counts, **found}
