"""Masking for masked language models, as stateless TensorFlow ops on one example at a time.

Notable here:
- The number of masked tokens is exact, not binomial, so that the number of predictions is a static shape.
- One formula serves tokens, whole words and spans of words: a token is a word of one piece where whole words are not
  asked for.
- The same seed gives the same noise on every machine: the generator is named, not chosen by device.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from aillm_tf.data.noise_spans import geometric_lengths, place, span_numbers, up_to

BERT_FATES = (0.8, 0.1)


def predictions_per_row(length: int | tf.Tensor, rate: float = 0.15) -> int | tf.Tensor:
    """The number of predictions that a row of a length has room for: ceil(rate * length), int32 for a tensor.

    Example:
        >>> predictions_per_row(128)
        20
    """
    # 0.15 * 20 is 3 whatever the last bit of the product says.
    if tf.is_tensor(length):
        return tf.cast(tf.math.ceil(rate * tf.cast(length, tf.float64) - 1e-9), tf.int32)
    return math.ceil(rate * length - 1e-9)


def mask_tokens(
    token_ids: tf.Tensor,
    real: tf.Tensor,
    seed: tf.Tensor,
    *,
    mask_id: int,
    vocab_size: int,
    special: tf.Tensor,
    continuation: tf.Tensor | None = None,
    continues: tf.Tensor | None = None,
    spans: bool = False,
    rate: float = 0.15,
    fates: tuple[float, float] = BERT_FATES,
    max_predictions: int | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Choose tokens to predict and hide them: 80 % become the mask, 10 % a random token, 10 % stay.

    Of n tokens that may be masked, round(rate * n) are chosen, at least one and at most
    ``max_predictions``. With whole words, words are taken in random order as long as all their pieces fit into that
    number; if not even the shortest fits, that one is taken, and if it exceeds ``max_predictions``, none is. Spans of
    SpanBERT's lengths are taken in random order until there are as many tokens; the last one is cut.

    Args:
        token_ids: (length,) int32.
        real: (length,) bool or int, nonzero at tokens and zero at padding.
        seed: (2,) int32; the result is a pure function of the arguments.
        mask_id: id of the mask token.
        vocab_size: ids that a random token is drawn from, less the special ones.
        special: (vocab_size or more,) bool, true at ids that are neither masked nor drawn.
        continuation: (vocab_size or more,) bool, true at ids that continue the word before them; given, whole words are
            masked. Each piece of a word draws its own 80/10/10.
        continues: (length,) bool or int, the same for the tokens of this row, where their ids do not tell (Chinese).
        spans: mask spans of words (of tokens, where neither is given); all tokens of a span share their 80/10/10.
        rate: share of the tokens to choose, above 0 and at most 1.
        fates: shares of the chosen tokens that become the mask and a random token; the others stay.
        max_predictions: predictions to make room for; None: :func:`predictions_per_row` of the length.

    Returns:
        noised: (length,) int32, equal to ``token_ids`` where nothing was chosen.
        positions: (max_predictions,) int32, ascending, then 0.
        targets: (max_predictions,) int32, the ids that stood at the positions, then 0.
        weights: (max_predictions,) float32, 1 at predictions, then 0.

    Raises:
        ValueError: the rate is out of range, or a table is shorter than vocab_size.

    Example:
        >>> noised, positions, targets, weights = mask_tokens(
        ...     tf.constant([2, 7, 8, 9, 3, 0]), tf.constant([1, 1, 1, 1, 1, 0]), tf.constant([0, 1]),
        ...     mask_id=4, vocab_size=10, special=tf.range(10) < 5)
        >>> int(tf.reduce_sum(weights)), positions.shape
        (1, TensorShape([1]))

    Reference:
        Devlin et al., "BERT", 2019, section 3.1; whole-word masking: the note of May 31st, 2019 in
        https://github.com/google-research/bert; spans: Joshi et al., "SpanBERT", 2020, section 3.1
    """
    if not 0 < rate <= 1:
        raise ValueError(f"rate is a share above 0 and at most 1, not {rate}")
    if continuation is not None and continues is not None:
        raise ValueError("give continuation (by id) or continues (by token), not both")
    ordinary = _ordinary_ids(special, vocab_size)
    special = _table("special", special, vocab_size)
    token_ids = tf.convert_to_tensor(token_ids, tf.int32)
    length = tf.shape(token_ids)[0]
    if max_predictions is None:
        static = token_ids.shape[0]
        max_predictions = predictions_per_row(length if static is None else static, rate)
    maskable = tf.logical_and(tf.cast(real, tf.bool), tf.logical_not(tf.gather(special, token_ids)))
    if continuation is not None:
        continues = tf.gather(_table("continuation", continuation, vocab_size), token_ids)
    word = None
    if continues is not None or spans:
        follows = tf.zeros_like(maskable) if continues is None else tf.cast(continues, tf.bool)
        word = tf.cumsum(tf.cast(tf.logical_not(tf.logical_and(follows, maskable)), tf.int32))
    choice_seed, fate_seed, random_seed = tf.unstack(tf.random.split(seed, 3, alg="philox"))
    fate = tf.random.stateless_uniform([length], fate_seed, alg="philox")
    if spans:
        number = _choose_spans(maskable, word, choice_seed, rate, max_predictions)
        chosen, fate = number > 0, tf.gather(fate, tf.maximum(number - 1, 0))
    else:
        chosen = _choose(maskable, word, choice_seed, rate, max_predictions)

    drawn = tf.random.stateless_uniform([length], random_seed, 0, tf.size(ordinary), tf.int32, alg="philox")
    masked, random = fates
    hidden = tf.where(fate < masked, mask_id, tf.where(fate < masked + random, tf.gather(ordinary, drawn), token_ids))

    positions = tf.cast(tf.where(chosen)[:, 0], tf.int32)
    targets = tf.gather(token_ids, positions)
    weights = tf.ones_like(positions, tf.float32)
    padding = [[0, max_predictions - tf.size(positions)]]
    padded = [tf.pad(values, padding) for values in (positions, targets, weights)]
    if isinstance(max_predictions, int):
        padded = [tf.ensure_shape(values, [max_predictions]) for values in padded]
    return tf.where(chosen, hidden, token_ids), *padded


def few_masks(token_ids: tf.Tensor, real: tf.Tensor, seed: tf.Tensor, masks: int) -> tf.Tensor:
    """A seed for masking that is one of a few, which depend on the tokens of the row only.

    Args:
        token_ids, real: as `mask_tokens` takes them.
        seed: (2,) int32, fresh every epoch; it draws which of the masks it is.
        masks: how many there are; 1 is static masking.

    Returns:
        (2,) int32.
    """
    at = tf.range(tf.size(token_ids), dtype=tf.int64)
    # room for vocabularies and rows of millions within int64
    terms = tf.cast(token_ids + 1, tf.int64) * ((at * 7919 + 104729) % 1000003)
    content = tf.reduce_sum(tf.where(tf.cast(real, tf.bool), terms, 0)) % (2**31 - 1)
    which = tf.random.stateless_uniform([], seed, 0, masks, tf.int32, alg="philox")
    return tf.stack([tf.cast(content, tf.int32), which])


def _table(name: str, values: tf.Tensor, vocab_size: int) -> tf.Tensor:
    values = tf.convert_to_tensor(values, tf.bool)
    if values.shape.rank != 1 or (values.shape[0] is not None and values.shape[0] < vocab_size):
        raise ValueError(f"{name} has the shape {values.shape}; it needs one entry for each of {vocab_size} ids")
    return values


def _choose(
    maskable: tf.Tensor, word: tf.Tensor | None, seed: tf.Tensor, rate: float, most: int | tf.Tensor
) -> tf.Tensor:
    """Choose words in random order while they fit: (length,) bool.

    Args:
        maskable: (length,) bool.
        word: (length,) int32 in 0..length, the word each token belongs to; None: each token is a word.
        seed: (2,) int32.
        rate: share of the maskable tokens.
        most: tokens that may be chosen.
    """
    pieces = tf.cast(maskable, tf.int32)
    words = tf.size(pieces) + 1
    size = pieces if word is None else tf.math.unsorted_segment_sum(pieces, word, words)
    tokens = tf.reduce_sum(size)
    budget = tf.cast(tf.round(rate * tf.cast(tokens, tf.float64)), tf.int32)  # half to even, as Python
    shortest = tf.reduce_min(tf.where(size > 0, size, tf.int32.max))
    budget = tf.minimum(tf.maximum(budget, shortest), most)

    order = tf.argsort(tf.random.stateless_uniform(tf.shape(size), seed, alg="philox"))
    size = tf.gather(size, order)

    def fits(taken, left):
        return tf.logical_and(tf.logical_not(taken), tf.logical_and(size > 0, size <= left))

    def take(taken, left):
        # As far as the words that fit one by one also fit together; the others are looked at again with what is left.
        sizes = tf.where(fits(taken, left), size, 0)
        together = tf.logical_and(sizes > 0, tf.cumsum(sizes) <= left)
        return tf.logical_or(taken, together), left - tf.reduce_sum(tf.where(together, sizes, 0))

    taken, left = take(tf.zeros_like(size, tf.bool), budget)
    if word is not None:
        taken, _ = tf.while_loop(lambda taken, left: tf.reduce_any(fits(taken, left)), take, (taken, left))
    taken = tf.scatter_nd(order[:, tf.newaxis], taken, tf.shape(size))  # by word again
    return tf.logical_and(maskable, taken if word is None else tf.gather(taken, word))


def _choose_spans(
    maskable: tf.Tensor, word: tf.Tensor, seed: tf.Tensor, rate: float, most: int | tf.Tensor
) -> tf.Tensor:
    """Choose spans of words: (length,) int32, the number of a token's span from 1, 0 where it is not chosen."""
    length_seed, place_seed, order_seed = tf.unstack(tf.random.split(seed, 3, alg="philox"))
    has_pieces = tf.math.unsorted_segment_max(tf.cast(maskable, tf.int32), word, tf.size(word) + 1) > 0
    words = tf.reduce_sum(tf.cast(has_pieces, tf.int32))
    # twice as many words as are wanted on average: those drawn may have few pieces
    enough = tf.minimum(2 * predictions_per_row(words, rate), words)
    starts, lengths = place(up_to(geometric_lengths(enough, length_seed), enough), words, place_seed)
    # words without a piece that may be masked (special tokens) are not among those that were placed
    nth = tf.maximum(tf.cumsum(tf.cast(has_pieces, tf.int32)) - 1, 0)
    of_words = tf.concat([span_numbers(starts, lengths, words), [0]], 0)  # one entry even where there are no words
    number = tf.where(maskable, tf.gather(of_words, tf.gather(nth, word)), 0)
    # spans are taken in random order until there are enough tokens; the last one is cut
    budget = tf.cast(tf.round(rate * tf.reduce_sum(tf.cast(maskable, tf.float64))), tf.int32)
    key = tf.random.stateless_uniform([tf.size(starts) + 1], order_seed, alg="philox")
    order = tf.argsort(tf.where(number > 0, tf.gather(key, number), 2.0), stable=True)
    rank = tf.scatter_nd(order[:, tf.newaxis], tf.range(tf.size(order)), tf.shape(order))
    return tf.where(rank < tf.minimum(tf.maximum(budget, 1), most), number, 0)


def _ordinary_ids(special: tf.Tensor, vocab_size: int) -> tf.Tensor:
    """The ids below vocab_size that are not special: int32, a constant of the graph where the table is known."""
    # Asked before the table is converted: inside a graph an eager tensor would become a capture of unknown value, and
    # every example would pass over the vocabulary again.
    known = tf.get_static_value(special) if tf.is_tensor(special) else np.asarray(special, bool)
    if known is None:
        return tf.cast(tf.where(tf.logical_not(special[:vocab_size]))[:, 0], tf.int32)
    return tf.constant(np.flatnonzero(~known[:vocab_size]), tf.int32)
