"""The noises of encoder-decoders, T5's and BART's, as stateless TensorFlow ops on the tokens of one row.

Every function takes (tokens,) int32 without padding and without the special tokens around a text, and a (2,) int32
seed of which its result is a pure function. A decoder that is given the noised tokens writes the text (BART) or what
is missing in it (T5, prefix): either way source and target together are the whole text.

References:
    Lewis et al., "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
    Comprehension", 2020, section 2.2, https://arxiv.org/abs/1910.13461
    Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", 2020, section
    3.1.4 (span corruption) and 3.2.3 (prefix language modelling), https://arxiv.org/abs/1910.10683
"""

from __future__ import annotations

import tensorflow as tf

from aillm_tf.data.noise_spans import place, poisson_lengths, random_partition, sorted_choice, span_numbers, up_to

SPAN_MEAN = 3.0  # tokens of a span: T5's mean, BART's lambda


def share(tokens: int | tf.Tensor, rate: float) -> tf.Tensor:
    """round(rate * tokens), at least one of them: int32 scalar."""
    count = tf.cast(tf.round(rate * tf.cast(tokens, tf.float64)), tf.int32)
    return tf.minimum(tf.maximum(count, 1), tokens)


def mask(tokens: tf.Tensor, seed: tf.Tensor, *, mask_id: int, rate: float) -> tf.Tensor:
    """BART's token masking: round(rate * n) tokens, chosen at random, become the mask."""
    chosen = sorted_choice(tf.size(tokens), share(tf.size(tokens), rate), seed)
    return tf.tensor_scatter_nd_update(tokens, chosen[:, tf.newaxis], tf.fill(tf.shape(chosen), mask_id))


def delete(tokens: tf.Tensor, seed: tf.Tensor, *, rate: float) -> tf.Tensor:
    """BART's token deletion: round(rate * n) tokens, chosen at random, are taken out."""
    count = tf.size(tokens)
    return tf.gather(tokens, sorted_choice(count, count - share(count, rate), seed))


def infill(tokens: tf.Tensor, seed: tf.Tensor, *, mask_id: int, rate: float, mean: float = SPAN_MEAN) -> tf.Tensor:
    """BART's text infilling: spans of Poisson length become one mask each, a span of length 0 is a mask between tokens.

    Spans are drawn until they make round(rate * n) tokens, the last is cut to fit. The result is no longer than the
    text: masks between tokens that would make it longer, which happens in rows of a few tokens only, are left out.
    """
    length_seed, place_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
    total = tf.size(tokens)
    budget = share(total, rate)
    # more than enough: a run of twenty zeros has the probability 1e-26
    lengths = up_to(poisson_lengths(budget + 20, mean, length_seed), budget)
    empty = tf.cast(lengths == 0, tf.int32)
    room = budget - (tf.size(lengths) - tf.reduce_sum(empty))
    lengths = tf.boolean_mask(lengths, tf.logical_or(lengths > 0, tf.cumsum(empty) <= room))
    starts, lengths = place(lengths, total, place_seed)
    kept = span_numbers(starts, lengths, total) == 0
    # masks and kept tokens in the order of where they stood; a mask before the token at the same place
    places = tf.concat([2 * starts, 2 * tf.boolean_mask(tf.range(total), kept) + 1], 0)
    values = tf.concat([tf.fill(tf.shape(starts), mask_id), tf.boolean_mask(tokens, kept)], 0)
    return tf.gather(values, tf.argsort(places, stable=True))


def permute_sentences(tokens: tf.Tensor, seed: tf.Tensor, *, ends: tf.Tensor) -> tf.Tensor:
    """BART's sentence permutation: sentences in random order.

    Args:
        tokens, seed: see the head of this file.
        ends: (vocabulary,) bool, true at tokens that end a sentence; of several in a row, the last does.
    """
    number = sentence_numbers(tokens, ends)
    key = tf.random.stateless_uniform([tf.size(tokens) + 1], seed, alg="philox")
    return tf.gather(tokens, tf.argsort(tf.gather(key, number), stable=True))


def sentence_numbers(tokens: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """(tokens,) int32: the number of the sentence that a token belongs to, counted from 0."""
    end = tf.gather(ends, tokens)
    last = tf.logical_and(end, tf.logical_not(tf.concat([end[1:], [False]], 0)))
    return tf.cumsum(tf.cast(last, tf.int32), exclusive=True)


def rotate(tokens: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """BART's document rotation: the text begins with a token chosen at random, what stood before it comes last."""
    return tf.roll(tokens, -tf.random.stateless_uniform([], seed, 0, tf.size(tokens), tf.int32, alg="philox"), 0)


def corruption_widths(
    length: int | tf.Tensor, rate: float, mean: float, around: int
) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """Room for the source and the target of span corruption, of any row up to a length.

    Args:
        length: tokens of a row, special ones included.
        rate, mean: as `corrupt_spans` takes them.
        around: special tokens that a row may have, which both sides then get.

    Returns:
        (source, target), ints for an int.
    """
    if not tf.is_tensor(length):
        with tf.init_scope():  # also where a graph is being made, the numbers are known
            return tuple(int(width) for width in corruption_widths(tf.constant(length), rate, mean, around))

    def counts(tokens):
        noise = share(tokens, rate)
        return noise, tf.maximum(tf.cast(tf.round(tf.cast(noise, tf.float64) / mean), tf.int32), 1)

    # a row without its special tokens has more to hide, one with them more to keep
    (least, few), (most, many) = counts(length - around), counts(length)
    return length - least + few, most + many + 1 + around


def corrupt_spans(
    tokens: tf.Tensor, seed: tf.Tensor, *, sentinels: tf.Tensor, rate: float, mean: float = SPAN_MEAN
) -> tuple[tf.Tensor, tf.Tensor]:
    """T5's span corruption: spans become one sentinel each in the source; the target says what each stood for.

    round(rate * n) tokens in round(that / mean) spans, which do not touch. Every way to cut the tokens into spans and
    every place for them are equally likely. T5's own code begins every row with kept tokens and ends it with a span;
    here a row may begin and end either way, so that a model can be asked for gaps anywhere.

    Args:
        tokens, seed: see the head of this file.
        sentinels: (n,) int32, the ids of <extra_id_0>, <extra_id_1>, ...; one more than there may be spans.
        rate: share of the tokens that are taken out.
        mean: tokens of a span on average.

    Returns:
        source: the kept tokens, with a sentinel for every span.
        target: every sentinel followed by what it stands for, and the next sentinel at the end, as in figure 2 of the
            paper.

    Example:
        >>> source, target = corrupt_spans(tf.range(10, 20), tf.constant([0, 1]), sentinels=tf.range(90, 95), rate=0.3)
        >>> len(source), len(target)
        (8, 5)
    """
    length_seed, place_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
    total, most = tf.size(tokens), tf.size(sentinels) - 1
    noise = share(total, rate)
    spans = tf.cast(tf.round(tf.cast(noise, tf.float64) / mean), tf.int32)
    spans = tf.maximum(tf.minimum(tf.minimum(spans, total - noise + 1), most), 1)
    lengths = random_partition(noise, spans, length_seed)
    starts, lengths = place(lengths, total, place_seed, apart=True)
    inside = span_numbers(starts, lengths, total) > 0
    at = tf.range(total)

    def joined(marks: tf.Tensor, wanted: tf.Tensor) -> tf.Tensor:
        places = tf.concat([2 * marks, 2 * tf.boolean_mask(at, wanted) + 1], 0)
        values = tf.concat([sentinels[: tf.size(marks)], tf.boolean_mask(tokens, wanted)], 0)
        return tf.gather(values, tf.argsort(places, stable=True))

    return joined(starts, tf.logical_not(inside)), joined(tf.concat([starts, [total]], 0), inside)


def split_prefix(tokens: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Prefix language modelling: the source is the beginning, the target what follows; cut anywhere within the row."""
    cut = tf.random.stateless_uniform([], seed, 1, tf.maximum(tf.size(tokens), 2), tf.int32, alg="philox")
    return tokens[:cut], tokens[cut:]
