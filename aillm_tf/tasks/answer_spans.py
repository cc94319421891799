"""From scores of tokens to answers: the best spans of each window, and of all windows of a question.

All spans within the length limit are compared, not only those between some likely starts and ends.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.data.windows import MAY_END, MAY_START

LOW = -1e9  # the score of what cannot be; the sum of two real ones comes nowhere near
TIE = 1e-4  # spans whose scores differ by less are equally good: the first one in the context is the answer
ROWS_AT_ONCE = 32  # windows computed at once, whatever the length of a context
WIDE = ("scores", "starts", "ends")  # what there are several of for every window


def candidates(logits, role, max_answer_length: int, n_best: int) -> dict:
    """The best spans of every window.

    Args:
        logits: (windows, length, 2) float32, of starting and of ending an answer.
        role: (windows, length) int32, what an answer may do at a token.
        max_answer_length: tokens that a span may have.
        n_best: spans of a window.

    Returns:
        "scores" (windows, n_best) float32, those of no span below LOW / 2; "starts" and "ends" (windows, n_best)
        int32, first and last token; "null" (windows,) float32, the score of no answer.
    """
    length = ops.shape(logits)[1]
    start = ops.where(ops.equal(role, MAY_START), logits[..., 0], LOW)
    end = ops.where(ops.greater_equal(role, MAY_END), logits[..., 1], LOW)
    end = ops.pad(end, [[0, 0], [0, max_answer_length]], constant_values=LOW)
    reach = ops.expand_dims(ops.arange(length), 1) + ops.expand_dims(ops.arange(max_answer_length), 0)
    spans = ops.expand_dims(start, -1) + ops.take(end, reach, axis=1)  # (windows, length, max_answer_length)
    spans = ops.reshape(spans, (ops.shape(logits)[0], length * max_answer_length))
    # a short row may have fewer spans than are asked for
    spans = ops.pad(spans, [[0, 0], [0, n_best]], constant_values=2 * LOW)
    scores, index = ops.top_k(spans, n_best)
    starts = ops.cast(index // max_answer_length, "int32")
    ends = ops.minimum(starts + ops.cast(index % max_answer_length, "int32"), length - 1)
    starts = ops.minimum(starts, length - 1)
    return {"scores": scores, "starts": starts, "ends": ends, "null": logits[:, 0, 0] + logits[:, 0, 1]}


def best_answers(
    found: dict, example, examples: tf.Tensor | int, *, unanswerable: bool, threshold: float
) -> dict[str, tf.Tensor]:
    """What questions are answered, out of the candidates of all their windows.

    Args:
        found: as `candidates` has it, but "starts" and "ends" in characters, the end exclusive.
        example: (windows,) int64, the question of each; not descending.
        examples: number of questions.
        unanswerable: whether having no answer takes a share of the probability.
        threshold: of "no_answer", above which a question is not answered.

    Returns:
        "start", "end" (questions,) int32 of the best span, 0 where there is none at all; "no_answer" (questions,)
        float32, the probability that there is no answer rather than this one; "silent" (questions,) bool, whether not
        to answer; "score" (questions,) float32, the probability of the best span among the n best and no answer, or
        where silent that of no answer; "n_best_starts", "n_best_ends", "n_best_shares" (questions, n_best), best first.
    """
    examples, n_best = tf.cast(examples, tf.int64), found["scores"].shape[1]

    def by_question(values, fill):
        rows = tf.RaggedTensor.from_value_rowids(values, example, nrows=examples, validate=False)
        dense = rows.to_tensor(fill)  # (questions, windows, n_best)
        shape = tf.shape(dense)
        dense = tf.reshape(dense, [shape[0], shape[1] * n_best])
        return tf.pad(dense, [[0, 0], [0, n_best]], constant_values=fill)

    scores, index = tf.math.top_k(by_question(found["scores"], LOW), n_best)
    starts, ends = (tf.gather(by_question(found[name], 0), index, batch_dims=1) for name in ("starts", "ends"))
    real = scores > LOW / 2
    best = scores[:, 0]
    place = tf.cast(starts, tf.int64) * (1 << 31) + tf.cast(ends, tf.int64)
    place = tf.where(real & (scores >= best[:, tf.newaxis] - TIE), place, tf.int64.max)
    chosen = tf.argmin(place, axis=1)[:, tf.newaxis]
    null = tf.math.unsorted_segment_min(found["null"], example, examples)
    rivals = tf.where(real, scores, -np.inf)
    no_answer = tf.zeros_like(best)
    if unanswerable:
        no_answer = tf.sigmoid(null - best)
        rivals = tf.concat([rivals, null[:, tf.newaxis]], axis=1)
    shares = tf.where(real, tf.exp(scores - tf.reduce_logsumexp(rivals, axis=1, keepdims=True)), 0.0)
    start, end, share = (tf.gather(values, chosen, batch_dims=1)[:, 0] for values in (starts, ends, shares))
    none = ~real[:, 0]
    no_answer = tf.where(none, 1.0, no_answer)
    silent = none | (no_answer > threshold)
    return {
        "start": tf.where(none, 0, start),
        "end": tf.where(none, 0, end),
        "no_answer": no_answer,
        "silent": silent,
        "score": tf.where(silent, no_answer, share),
        "n_best_starts": starts,
        "n_best_ends": ends,
        "n_best_shares": shares,
    }


def in_chunks(function: Callable, rows: dict[str, tf.Tensor], n_best: int) -> dict[str, tf.Tensor]:
    """`function(rows)`, which gives `candidates`, on some rows at a time: memory does not grow with their number.

    Args:
        function: from columns of some rows to candidates.
        rows: columns (rows, length) of all rows.
        n_best: candidates of a row.
    """
    count = tf.shape(rows["token_ids"])[0]
    chunks = (count + ROWS_AT_ONCE - 1) // ROWS_AT_ONCE
    size = tf.maximum((count + chunks - 1) // tf.maximum(chunks, 1), 1)

    def cut(column):
        column = tf.pad(column, [[0, chunks * size - count], [0, 0]])
        return tf.reshape(column, [chunks, size, tf.shape(column)[1]])

    spec = {name: tf.TensorSpec((None, n_best), tf.float32 if name == "scores" else tf.int32) for name in WIDE}
    spec["null"] = tf.TensorSpec((None,), tf.float32)
    columns = {name: cut(column) for name, column in rows.items()}
    found = tf.map_fn(function, columns, fn_output_signature=spec, parallel_iterations=1)
    joined = {name: tf.reshape(found[name], [chunks * size, n_best]) for name in WIDE}
    joined["null"] = tf.reshape(found["null"], [chunks * size])
    return {name: column[:count] for name, column in joined.items()}
