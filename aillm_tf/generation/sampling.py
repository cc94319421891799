"""One token from scores: the likeliest, or drawn, with the filters that leave only likely ones.

Draws come from a key of each row and the number of the token, hashed: no state, so a row draws the same whatever
else is in its batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from aillm_tf.generation.options import GenerationOptions

GOLDEN = 0x9E3779B9  # 2^32 / golden ratio, an odd number without a pattern in its bits


def choose(
    scores: tf.Tensor,
    options: GenerationOptions,
    numbers: Mapping[str, tf.Tensor],
    uniform: tf.Tensor | None,
) -> tf.Tensor:
    """The next token of every row.

    Args:
        scores: (rows, vocabulary) float32.
        options: says which filters there are; a temperature of 0 takes the likeliest token.
        numbers: their sizes, see `aillm_tf.generation.loop.numbers_of`.
        uniform: (rows,) float64 in (0, 1), the draws; not looked at without a temperature.

    Returns:
        (rows,) int32.
    """
    likeliest = tf.argmax(scores, axis=-1, output_type=tf.int32)
    if not options.temperature:
        return likeliest
    kept, ids = candidates(scores, options, numbers)
    place = draw(kept, uniform)
    drawn = place if ids is None else tf.gather(ids, place, axis=1, batch_dims=1)
    return tf.where(numbers["temperature"] > 0.0, drawn, likeliest)  # an export that takes the number may be given 0


def candidates(scores: tf.Tensor, options: GenerationOptions, numbers: Mapping[str, tf.Tensor]):
    """What tokens are drawn from.

    Returns:
        Scores (rows, candidates) float32, -inf for what was left out, and the tokens that they are of, (rows,
        candidates) int32, or None: all, in their order.
    """
    scores = scores / tf.maximum(numbers["temperature"], 1e-6)
    ids = None
    if options.top_k:
        scores, ids = tf.math.top_k(scores, min(options.top_k, scores.shape[-1] or options.top_k))
    if options.top_p < 1.0:
        every = scores
        # an export that takes the number may be given 1, which leaves all: nothing is sorted then
        scores = tf.cond(numbers["top_p"] < 1.0, lambda: top_p(every, numbers["top_p"]), lambda: every)
    if options.min_p:
        scores = min_p(scores, numbers["min_p"])
    if options.typical_p < 1.0:
        scores = typical_p(scores, numbers["typical_p"])
    return scores, ids


def top_p(scores: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Leaves the fewest likeliest tokens whose probabilities sum to `share` or more."""
    ordered = tf.sort(scores, axis=-1, direction="DESCENDING")
    before = tf.cumsum(tf.nn.softmax(ordered), axis=-1, exclusive=True)
    least = tf.reduce_min(tf.where(before < share, ordered, float("inf")), axis=-1, keepdims=True)
    return tf.where(scores < least, float("-inf"), scores)


def min_p(scores: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Leaves the tokens that are at least `share` times as likely as the likeliest."""
    least = tf.reduce_max(scores, axis=-1, keepdims=True) + tf.math.log(share)
    return tf.where(scores < least, float("-inf"), scores)


def typical_p(scores: tf.Tensor, share: tf.Tensor) -> tf.Tensor:
    """Leaves the tokens whose surprise is nearest to the entropy and whose probabilities sum to `share` or more."""
    log_p = tf.nn.log_softmax(scores)
    p = tf.exp(log_p)
    entropy = -tf.reduce_sum(tf.where(p > 0.0, p * log_p, 0.0), axis=-1, keepdims=True)
    distance = tf.where(p > 0.0, tf.abs(-log_p - entropy), float("inf"))
    order = tf.argsort(distance, axis=-1)
    before = tf.cumsum(tf.gather(p, order, axis=1, batch_dims=1), axis=-1, exclusive=True)
    ordered = tf.gather(distance, order, axis=1, batch_dims=1)
    furthest = tf.reduce_max(tf.where(before < share, ordered, 0.0), axis=-1, keepdims=True)
    return tf.where(distance > furthest, float("-inf"), scores)


def draw(scores: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """A place from softmax(scores), the inverse of its cumulative distribution at `uniform`.

    Args:
        scores: (rows, candidates) float32.
        uniform: (rows,) float64 in (0, 1).

    Returns:
        (rows,) int32.
    """
    p = tf.exp(scores - tf.reduce_max(scores, axis=-1, keepdims=True))
    return draw_from(tf.cast(p, tf.float64), uniform)


def draw_from(weights: tf.Tensor, uniform: tf.Tensor) -> tf.Tensor:
    """A place with probability in proportion to its weight, (rows, candidates) float64 -> (rows,) int32."""
    below = tf.cumsum(weights, axis=-1)
    return tf.reduce_sum(tf.cast(below <= uniform[:, None] * below[:, -1:], tf.int32), axis=-1)


def row_keys(seed: tf.Tensor, tokens: tf.Tensor, valid: tf.Tensor) -> tf.Tensor:
    """The key from which a row draws: of the seed and of what it goes on from.

    Args:
        seed: scalar or (rows,) int32.
        tokens: (rows, places) int32.
        valid: (rows, places) bool; what is not valid has no influence, however much of it there is.

    Returns:
        (rows,) uint32.
    """
    places = tf.range(tf.shape(tokens)[1])
    mixed = _mix(_unsigned(tokens) + _mix(_unsigned(places) + GOLDEN)[None])
    summed = tf.reduce_sum(tf.where(valid, tf.cast(mixed, tf.int64), 0), axis=1)
    seed = tf.broadcast_to(_unsigned(seed), tf.shape(summed))
    return _mix(_mix(seed + GOLDEN) + tf.cast(summed & 0xFFFFFFFF, tf.uint32))


def uniforms(keys: tf.Tensor, counter: tf.Tensor) -> tf.Tensor:
    """Numbers in (0, 1), each from its key and counter alone.

    Args:
        keys: uint32, any shape, see `row_keys`.
        counter: int32, broadcastable to that; another one gives another number.

    Returns:
        float64 in the shape of both.
    """
    bits = _mix(_mix(_unsigned(counter) * GOLDEN + keys) + (keys ^ GOLDEN))
    return (tf.cast(bits, tf.float64) + 0.5) / 2.0**32


def _unsigned(x) -> tf.Tensor:
    return tf.bitcast(tf.cast(x, tf.int32), tf.uint32)


def _mix(x: tf.Tensor) -> tf.Tensor:
    """The finalizer of MurmurHash3 (Appleby 2011): every bit of the result depends on every bit of x."""
    shift = tf.bitwise.right_shift
    x = (x ^ shift(x, tf.constant(16, tf.uint32))) * tf.constant(0x85EBCA6B, tf.uint32)
    x = (x ^ shift(x, tf.constant(13, tf.uint32))) * tf.constant(0xC2B2AE35, tf.uint32)
    return x ^ shift(x, tf.constant(16, tf.uint32))
