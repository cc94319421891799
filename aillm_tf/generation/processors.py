"""What changes the scores of the next token before one is chosen: penalties, bans and tokens that are forced.

Each is a function of scores (rows, vocabulary) float32 and of the `History`. They are applied in the order of
transformers: to logits where one token is taken or drawn, to log-probabilities in beam search.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import tensorflow as tf

from aillm_tf.generation.options import GenerationOptions

BANNED = float("-inf")


class History(NamedTuple):
    """What stands before the next token.

    Attributes:
        tokens: (rows, capacity) int32, prompt and new tokens, each in the place of its position; -1 in free places.
        length: (rows,) int32, tokens so far.
        count: (rows,) int32, new tokens among them.
    """

    tokens: tf.Tensor
    length: tf.Tensor
    count: tf.Tensor

    def append(self, token: tf.Tensor, where: tf.Tensor) -> History:
        """The history with one more token in the rows where `where`, (rows,) bool."""
        here = tf.range(tf.shape(self.tokens)[1])[None] == self.length[:, None]
        more = tf.cast(where, tf.int32)
        tokens = tf.where(here & where[:, None], token[:, None], self.tokens)
        return History(tokens, self.length + more, self.count + more)

    def last(self, count: int) -> tf.Tensor:
        """The last `count` tokens, (rows, count) int32; -1 before the first."""
        places = self.length[:, None] - count + tf.range(count)[None]
        found = tf.gather(self.tokens, tf.maximum(places, 0), axis=1, batch_dims=1)
        return tf.where(places >= 0, found, -1)


def process(scores: tf.Tensor, history: History, options: GenerationOptions, numbers: Mapping[str, tf.Tensor]):
    """Scores of the next token after all that `options` asks for.

    Args:
        scores: (rows, vocabulary) float32.
        history: see there.
        options: says which penalties there are.
        numbers: how large they are, see `aillm_tf.generation.loop.numbers_of`.

    Returns:
        (rows, vocabulary) float32; -inf for tokens that must not come.
    """
    if options.repetition_penalty != 1.0:
        scores = repetition_penalty(scores, history, numbers["repetition_penalty"])
    if options.no_repeat_ngram_size:
        scores = no_repeat_ngram(scores, history, options.no_repeat_ngram_size)
    for word in options.bad_words_ids:
        scores = bad_word(scores, history, word)
    if options.min_new_tokens and options.stop_ids:
        early = history.count < numbers["min_new_tokens"]
        scores = ban(scores, options.stop_ids, early)
    if options.forced_bos_token_id is not None:
        scores = force(scores, options.forced_bos_token_id, history.length == 1)
    if options.forced_eos_token_id is not None:
        scores = force(scores, options.forced_eos_token_id, history.count == numbers["max_new_tokens"] - 1)
    if options.suppress_tokens:
        scores = ban(scores, options.suppress_tokens, tf.ones_like(history.count, tf.bool))
    return scores


def seen(history: History, vocabulary) -> tf.Tensor:
    """Which tokens have occurred, (rows, vocabulary) bool."""
    return _marked(history.tokens, history.tokens >= 0, vocabulary)


def repetition_penalty(scores: tf.Tensor, history: History, penalty: tf.Tensor) -> tf.Tensor:
    """Scores of tokens that occurred are divided by the penalty, or multiplied by it where they are negative."""
    lower = tf.where(scores < 0, scores * penalty, scores / penalty)
    return tf.where(seen(history, tf.shape(scores)[1]), lower, scores)


def no_repeat_ngram(scores: tf.Tensor, history: History, size: int) -> tf.Tensor:
    """Bans the tokens that followed the last `size - 1` tokens before."""
    tokens, capacity = history.tokens, tf.shape(history.tokens)[1]
    starts = tf.maximum(capacity - size + 1, 0)  # n-grams that fit
    same = tf.ones((tf.shape(tokens)[0], starts), tf.bool)
    tail = history.last(size - 1)
    for i in range(size - 1):
        same &= tokens[:, i : i + starts] == tail[:, i : i + 1]
    following = tokens[:, size - 1 : size - 1 + starts]  # -1 where nothing followed yet
    return tf.where(_marked(following, same & (following >= 0), tf.shape(scores)[1]), BANNED, scores)


def bad_word(scores: tf.Tensor, history: History, word: tuple[int, ...]) -> tf.Tensor:
    """Bans the last token of a word whose other tokens are the last ones of the history."""
    begun = tf.reduce_all(history.last(len(word) - 1) == tf.constant(word[:-1], tf.int32, (1, len(word) - 1)), axis=1)
    return ban(scores, word[-1:], begun)


def ban(scores: tf.Tensor, ids: tuple[int, ...], rows: tf.Tensor) -> tf.Tensor:
    """Bans tokens in the rows where `rows`, (rows,) bool."""
    return tf.where(_is_one_of(ids, tf.shape(scores)[1])[None] & rows[:, None], BANNED, scores)


def force(scores: tf.Tensor, token: int, rows: tf.Tensor) -> tf.Tensor:
    """Makes one token certain in the rows where `rows`, (rows,) bool."""
    only = tf.where(_is_one_of((token,), tf.shape(scores)[1]), 0.0, BANNED)
    return tf.where(rows[:, None], only[None], scores)


def _is_one_of(ids: tuple[int, ...], vocabulary) -> tf.Tensor:
    return tf.reduce_any(tf.range(vocabulary)[None] == tf.constant(ids, tf.int32)[:, None], axis=0)


def _marked(tokens: tf.Tensor, where: tf.Tensor, vocabulary) -> tf.Tensor:
    """Which tokens stand where `where`, (rows, vocabulary) bool, for tokens and where (rows, places)."""
    rows, places = tf.shape(tokens)[0], tf.shape(tokens)[1]
    # one place more than there are tokens, for what is not counted
    column = tf.where(where, tokens, vocabulary)
    indices = tf.stack([tf.repeat(tf.range(rows), places), tf.reshape(column, [-1])], axis=1)
    counted = tf.scatter_nd(indices, tf.ones([rows * places], tf.int32), tf.stack([rows, vocabulary + 1]))
    return counted[:, :vocabulary] > 0
