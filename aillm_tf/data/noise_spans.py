"""Spans of noise: how long they are and where they stand, as stateless TensorFlow ops on one row.

Notable here:
- Lengths are drawn first and placed after, so that they have exactly the distribution they are drawn from; spans that
  are placed one by one and refused where they overlap favour the short ones.
- Every arrangement of the spans between the tokens that are kept is equally likely, and found without a loop.
"""

from __future__ import annotations

import tensorflow as tf

GEOMETRIC, LONGEST = 0.2, 10  # SpanBERT: span lengths in words, 3.8 on average


def geometric_lengths(count: int | tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Lengths as SpanBERT draws them: P(n) proportional to 0.2 * 0.8 ** (n - 1), n = 1 ... 10.

    Args:
        count: how many.
        seed: (2,) int32.

    Returns:
        (count,) int32.

    Reference:
        Joshi et al., "SpanBERT: Improving Pre-training by Representing and Predicting Spans", 2020, section 3.1,
        https://arxiv.org/abs/1907.10529
    """
    uniform = tf.cast(tf.random.stateless_uniform([count], seed, alg="philox"), tf.float64)
    # the inverse of the distribution function, renormalised over 1 ... LONGEST
    share = uniform * (1.0 - (1.0 - GEOMETRIC) ** LONGEST)
    drawn = 1.0 + tf.floor(tf.math.log1p(-share) / tf.math.log(tf.constant(1.0 - GEOMETRIC, tf.float64)))
    return tf.minimum(tf.cast(drawn, tf.int32), LONGEST)


def poisson_lengths(count: int | tf.Tensor, mean: float, seed: tf.Tensor) -> tf.Tensor:
    """Lengths as BART draws them: Poisson, also 0.

    Args:
        count: how many.
        mean: of the distribution.
        seed: (2,) int32.

    Returns:
        (count,) int32.
    """
    # the inverse of the distribution function, as a table: the same draws on every version of TensorFlow
    numbers = tf.range(int(mean + 12 * mean**0.5) + 12, dtype=tf.float64)
    log = numbers * tf.math.log(tf.constant(mean, tf.float64)) - mean - tf.math.lgamma(numbers + 1.0)
    uniform = tf.cast(tf.random.stateless_uniform([count], seed, alg="philox"), tf.float64)
    return tf.searchsorted(tf.cumsum(tf.exp(log)), uniform, side="right")


def up_to(drawn: tf.Tensor, budget: tf.Tensor) -> tf.Tensor:
    """The first of the drawn lengths that together make the budget, the last of them cut to fit: int32.

    Example:
        >>> up_to(tf.constant([3, 0, 4, 5]), tf.constant(5)).numpy().tolist()
        [3, 0, 2]
    """
    before = tf.cumsum(drawn, exclusive=True)
    return tf.boolean_mask(tf.minimum(drawn, budget - before), before < budget)


def random_partition(total: tf.Tensor, parts: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A number as a sum of parts of at least 1, every such sum equally likely: (parts,) int32.

    Args:
        total: at least `parts`.
        parts: at least 1.
        seed: (2,) int32.
    """
    cuts = sorted_choice(total - 1, parts - 1, seed) + 1
    edges = tf.concat([[0], cuts, [total]], 0)
    return edges[1:] - edges[:-1]


def sorted_choice(total: tf.Tensor, count: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """`count` different numbers of 0 ... total - 1, every set equally likely: int32, ascending."""
    drawn = tf.random.stateless_uniform([total], seed, alg="philox")
    return tf.sort(tf.argsort(drawn)[:count])


def place(lengths: tf.Tensor, total: tf.Tensor, seed: tf.Tensor, *, apart: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
    """Put spans among the tokens of a row, every arrangement equally likely.

    Args:
        lengths: (spans,) int32, in any order; a span of length 0 stands between two tokens.
        total: tokens of the row, at least the sum of the lengths.
        seed: (2,) int32.
        apart: at least one token stands between two spans; then there may be no more spans than tokens that are kept,
            and one.

    Returns:
        starts: (spans,) int32, ascending.
        lengths: (spans,) int32, in the order of the starts.

    Example:
        >>> starts, lengths = place(tf.constant([2, 1]), tf.constant(3), tf.constant([0, 0]))
        >>> starts.numpy().tolist() in ([0, 1], [0, 2])
        True
    """
    order_seed, place_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
    spans, kept = tf.size(lengths), total - tf.reduce_sum(lengths)
    order = tf.argsort(tf.random.stateless_uniform([spans], order_seed, alg="philox"))
    lengths = tf.gather(lengths, order)
    # how many of the tokens that are kept stand before each span
    if apart:
        before = sorted_choice(kept + 1, spans, place_seed)
    else:
        before = sorted_choice(kept + spans, spans, place_seed) - tf.range(spans)
    return before + tf.cumsum(lengths, exclusive=True), lengths


def span_numbers(starts: tf.Tensor, lengths: tf.Tensor, total: tf.Tensor) -> tf.Tensor:
    """(total,) int32: the number of the span that a token is in, counted from 1; 0 where it is in none."""
    numbers = tf.repeat(tf.range(1, tf.size(lengths) + 1), lengths)
    within = tf.range(tf.size(numbers)) - tf.repeat(tf.cumsum(lengths, exclusive=True), lengths)
    at = tf.repeat(starts, lengths) + within
    return tf.scatter_nd(at[:, tf.newaxis], numbers, [total])
