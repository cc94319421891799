"""A question beside each window of its context: rows that fit a model, out of contexts of any length.

Notable here: TensorFlow ops throughout, so that training data, `answer` and an export cut windows by the same code; and
a context is tokenized once, whatever number of questions ask about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from aillm_tf.data.squad import Questions
from aillm_tf.text.tokenizer import Tokenizer

MAY_END, MAY_START = 1, 2  # roles of tokens, 0 for the others; what may start an answer may end it too


class Tokens(NamedTuple):
    """Texts as tokens, without special tokens, and the characters that they stand for.

    Args:
        ids: (texts, tokens) int32, ragged.
        starts, ends: (tokens of all texts,) int32, the first character and the one after the last.
    """

    ids: tf.RaggedTensor
    starts: tf.Tensor
    ends: tf.Tensor


class Part(NamedTuple):
    """A part of a row: a special token, or one of the two texts where token is None.

    Args:
        token: its id.
        text: 0 for the question, 1 for the context.
        segment: id of the segment.
    """

    token: int | None
    text: int
    segment: int


class Windows(NamedTuple):
    """Rows of [CLS] question [SEP] window [SEP], or whatever a tokenizer puts around pairs.

    Args:
        token_ids, segment_ids: (rows, longest) int32, padded.
        lengths: (rows,) int64, tokens of a row.
        example: (rows,) int64, the index of its question.
        lead: (rows,) int64, where in the row the window begins.
        first: (rows,) int64, the first token of the window, counted over the tokens of all contexts.
        count: (rows,) int64, tokens of the window.
        role: (rows, longest) int32. MAY_END for tokens of the context that stand for something to be seen, MAY_START
            for those of them that have more context around them in this window than in any other.
    """

    token_ids: tf.Tensor
    segment_ids: tf.Tensor
    lengths: tf.Tensor
    example: tf.Tensor
    lead: tf.Tensor
    first: tf.Tensor
    count: tf.Tensor
    role: tf.Tensor

    def gather(self, column: tf.Tensor) -> tf.Tensor:
        """A number of every token of all contexts -> (rows, longest), 0 where there is no token of the context.

        Args:
            column: (tokens of all contexts,) int.
        """
        within = tf.range(tf.shape(self.token_ids, tf.int64)[1])[tf.newaxis] - self.lead[:, tf.newaxis]
        inside = (within >= 0) & (within < self.count[:, tf.newaxis])
        column = tf.concat([column, tf.zeros([1], column.dtype)], 0)  # contexts may have no token at all
        return tf.where(inside, tf.gather(column, tf.where(inside, self.first[:, tf.newaxis] + within, 0)), 0)


def tokens_of(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
    """Tokenizes on the host."""
    encoded = tokenizer.encode_spans(texts)
    inside = encoded.text_ids == 0
    splits = np.concatenate([[0], np.cumsum(inside)])[encoded.offsets]
    ids = tf.RaggedTensor.from_row_splits(encoded.ids[inside], splits, validate=False)
    return Tokens(ids, *(tf.constant(edge) for edge in encoded.spans[inside].T))


def pair_layout(tokenizer: Tokenizer) -> tuple[Part, ...]:
    """What stands in a row of two texts, in order.

    Raises:
        ValueError: no special token stands first, or the texts are not there once each, in order.
    """
    encoded = tokenizer.encode_spans(["a"], ["a"])
    parts: list[Part] = []
    for token, segment, text in zip(encoded.ids, encoded.segment_ids, encoded.text_ids, strict=True):
        part = Part(int(token), 0, int(segment)) if text < 0 else Part(None, int(text), int(segment))
        if part.token is not None or part not in parts:
            parts.append(part)
    if parts[0].token is None or [part.text for part in parts if part.token is None] != [0, 1]:
        raise ValueError(
            "question answering needs a tokenizer that puts a special token first ([CLS], which stands for no answer), "
            f"then the question, then the context; this one puts {parts}"
        )
    return tuple(parts)


def question_room(layout: tuple[Part, ...], max_length: int, max_question_length: int) -> int:
    """Tokens of a question that are kept: never more than half of a row."""
    special = sum(part.token is not None for part in layout)
    return min(max_question_length, (max_length - special) // 2)


def make_windows(
    questions: tf.RaggedTensor,
    contexts: Tokens,
    context_of: tf.Tensor | np.ndarray,
    layout: tuple[Part, ...],
    *,
    max_length: int,
    max_question_length: int,
    stride: int,
    pad: int,
) -> Windows:
    """Puts questions beside windows of their contexts.

    Args:
        questions: (questions, tokens) int32, without special tokens.
        contexts: their contexts, each once.
        context_of: (questions,) int64, the context of each question.
        layout: of `pair_layout`.
        max_length: tokens of a row at most.
        max_question_length: tokens of a question that are kept, see `question_room`.
        stride: tokens that two neighbouring windows share; never more than half of a window.
        pad: id that fills up rows.

    Returns:
        :class:`Windows`, those of a question one after the other. A question whose context has no token has one.
    """
    special = sum(part.token is not None for part in layout)
    context_of = tf.cast(context_of, tf.int64)
    question_length = tf.minimum(questions.row_lengths(), question_room(layout, max_length, max_question_length))
    context_length = tf.gather(contexts.ids.row_lengths(), context_of)
    room = max_length - special - question_length  # (questions,)
    step = room - tf.minimum(tf.cast(stride, tf.int64), room // 2)
    windows = 1 + tf.maximum(context_length - room + step - 1, 0) // step
    example = tf.repeat(tf.range(tf.size(windows, tf.int64)), windows)  # (rows,)
    number = tf.range(tf.size(example, tf.int64)) - tf.gather(tf.cumsum(windows, exclusive=True), example)
    offset = number * tf.gather(step, example)
    count = tf.minimum(tf.gather(room, example), tf.gather(context_length, example) - offset)
    first = tf.gather(contexts.ids.row_starts(), tf.gather(context_of, example)) + offset

    kept = tf.gather(question_length, example)
    lengths = kept + count + special
    longest = tf.reduce_max(tf.concat([lengths, [special]], 0))
    position = tf.range(longest)[tf.newaxis]  # (1, longest)
    token_ids = tf.fill([tf.size(example), tf.cast(longest, tf.int32)], pad)
    segment_ids = tf.zeros_like(token_ids)
    sources = (
        (questions.flat_values, tf.gather(questions.row_starts(), example), kept),
        (contexts.ids.flat_values, first, count),
    )
    start = tf.zeros_like(kept)  # (rows,), of the part in its row
    lead = start
    for part in layout:
        values, begin, length = sources[part.text]
        if part.token is not None:
            length = tf.ones_like(kept)
        elif part.text:
            lead = start
        within = position - start[:, tf.newaxis]  # (rows, longest), place in the part
        inside = (within >= 0) & (within < length[:, tf.newaxis])
        if part.token is not None:
            ids = tf.constant(part.token, tf.int32)
        else:
            padded = tf.concat([values, [pad]], 0)
            ids = tf.gather(padded, tf.where(inside, begin[:, tf.newaxis] + within, 0))
        token_ids = tf.where(inside, ids, token_ids)
        segment_ids = tf.where(inside, part.segment, segment_ids)
        start += length

    within = position - lead[:, tf.newaxis]
    inside = (within >= 0) & (within < count[:, tf.newaxis])
    # BERT's measure, in hundredths: the shorter side of the context around a token, and a little for a long window.
    around = 100 * tf.minimum(within, count[:, tf.newaxis] - 1 - within) + count[:, tf.newaxis]
    # the first of several windows that are as good
    measure = around * tf.constant(1 << 31, tf.int64) - number[:, tf.newaxis]
    bases = tf.gather(tf.cumsum(context_length, exclusive=True), example)
    token = tf.where(inside, bases[:, tf.newaxis] + offset[:, tf.newaxis] + within, 0)
    measure = tf.where(inside, measure, tf.int64.min)
    best = tf.math.unsorted_segment_max(
        tf.reshape(measure, [-1]), tf.reshape(token, [-1]), tf.reduce_sum(context_length) + 1
    )
    owned = inside & (measure == tf.gather(best, token))
    windows = Windows(token_ids, segment_ids, lengths, example, lead, first, count, tf.where(owned, MAY_START, MAY_END))
    # a token that stands for nothing but a space is no end of an answer
    shown = windows.gather(tf.cast(contexts.ends > contexts.starts, tf.int32))
    return windows._replace(role=shown * windows.role)


def answer_tokens(questions: Questions, contexts: Tokens) -> np.ndarray:
    """The tokens of each question's first answer that is in its context.

    Args:
        questions: with their answers.
        contexts: `questions.contexts` as tokens.

    Returns:
        (questions, 2) int64, the first and the last token, counted over all contexts; -1 where there is no answer, -2
        where none of them can be learned.
    """
    splits, starts, ends = contexts.ids.row_splits.numpy(), contexts.starts.numpy(), contexts.ends.numpy()
    targets = np.full((len(questions), 2), -1, np.int64)
    for row, (answers, context) in enumerate(zip(questions.answers, questions.context_of, strict=True)):
        if not answers:
            continue
        targets[row] = -2
        low, high = splits[context], splits[context + 1]
        shown = low + np.flatnonzero(ends[low:high] > starts[low:high])
        for text, start in answers:
            over = shown[(ends[shown] > start) & (starts[shown] < start + len(text))] if start >= 0 else ()
            if len(over):
                targets[row] = over[0], over[-1]
                break
    return targets


def row_targets(windows: Windows, targets: np.ndarray) -> dict[str, np.ndarray]:
    """Where in each row the answer starts and ends.

    Args:
        windows: as arrays.
        targets: (rows, 2), of the question of each, as `answer_tokens` has it.

    Returns:
        "start" and "end" (rows,) int32: 0, the first token, where the window does not hold all of the answer;
        "learned" (rows,) float32, 0 where there is an answer that cannot be learned.
    """
    start, end = targets.T
    holds = (start >= windows.first) & (end < windows.first + windows.count)
    shift = windows.lead - windows.first
    return {
        "start": np.where(holds, start + shift, 0).astype(np.int32),
        "end": np.where(holds, end + shift, 0).astype(np.int32),
        "learned": (start > -2).astype(np.float32),
    }
