"""Words of texts and the tokens that begin them, as TensorFlow ops, on the host and in exports alike.

A word, for a task that labels words, is as small as can be told without knowing the language: white space and
punctuation bound it, a symbol or a character of a script without spaces is one of its own. So "It's here." has the same
words as the tokens "It", "'s", "here", "." have, and a model trained on tokens reads raw text as it was trained.
A word is labelled at the token in which its first character lies. Where a token holds several words ("▁U.S.", a UTF-8
byte of an emoji), the first of them speaks for all.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from aillm_tf.text.graph_characters import CODE_POINTS, CharacterTable, decode, matching, starts_of
from aillm_tf.text.words import UNSPACED

LETTER, BLANK, ALONE, MARK = 0, 1, 2, 3
SKIN_TONES = range(0x1F3FB, 0x1F400)
JOINER = 0x200D  # joins emoji into one


class Words(NamedTuple):
    """Words of texts.

    Args:
        begins: bool (tokens,), the token begins a word.
        tokens: int64 (words,), the number of the token that begins each word.
        firsts: int64 (words,), the word's first character in its text.
        starts: int64 (words,), the first character that is also one of the token.
        ends: int64 (words,), the character after the last one of the word's tokens.
        splits: int64 (texts + 1,); the words of text i are ``splits[i]`` to ``splits[i + 1]``.
        bases: int64 (texts,), characters of all texts before each.
    """

    begins: tf.Tensor
    tokens: tf.Tensor
    firsts: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor
    splits: tf.Tensor
    bases: tf.Tensor


class WordAlignment(tf.Module):
    """Finds words in texts and the tokens that begin them."""

    def __init__(self):
        super().__init__()
        unspaced = np.zeros(CODE_POINTS, bool)
        for first, last in UNSPACED:
            unspaced[first : last + 1] = True
        marks = matching(r"\p{M}").copy()
        marks[[*SKIN_TONES, JOINER]] = True
        kinds = np.full(CODE_POINTS, LETTER, np.int32)
        kinds[matching(r"\p{P}") | matching(r"\p{S}") | unspaced] = ALONE
        kinds[marks] = MARK
        kinds[[code for code in range(0x10000) if chr(code).isspace()]] = BLANK  # as `Tokenizer.encode_spans` has it
        self._kinds, self._unspaced = CharacterTable(kinds), CharacterTable(unspaced)

    def word_starts(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Where words begin, by the characters alone.

        Args:
            text: (texts,) string.

        Returns:
            bool (characters,) of all texts end to end, and where the characters of each text begin, int64 (texts + 1,).
        """
        characters = decode(text)
        opens = starts_of(characters)
        kind = self._kinds(characters.codes)
        before = tf.where(opens, BLANK, tf.concat([[BLANK], kind[:-1]], 0)[: tf.size(kind)])
        # A mark goes with what is before it; behind a space there is nothing to go with.
        kind = tf.where((kind == MARK) & (before == BLANK), LETTER, kind)
        plain = kind != MARK
        at = tf.boolean_mask(kind, plain)
        number = tf.cumsum(tf.cast(plain, tf.int32))  # of the plain characters up to here
        before = tf.gather(tf.concat([[BLANK], at], 0), number - tf.cast(plain, tf.int32))
        before = tf.where(opens, BLANK, before)
        return ((kind == ALONE) | ((kind == LETTER) & (before != LETTER))), characters.splits

    def __call__(self, text: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor, splits: tf.Tensor) -> Words:
        """Words and their tokens.

        Args:
            text: (texts,) string.
            starts, ends: (tokens,) characters of its text that each token stands for, special tokens left out.
            splits: (texts + 1,); the tokens of text i are ``splits[i]`` to ``splits[i + 1]``.
        """
        flags, characters = self.word_starts(text)
        bases = characters[:-1]
        splits = tf.cast(splits, tf.int64)
        base = tf.repeat(bases, splits[1:] - splits[:-1])
        first, last = tf.cast(starts, tf.int64) + base, tf.cast(ends, tf.int64) + base
        # A word belongs to the first token that reaches behind its first character; a token that stands for a space
        # alone has no place and reaches nowhere.
        some = last > first
        last = tf.where(some, last, 0)
        reached = tf.maximum(tf.concat([[0], _running_maximum(last)[:-1]], 0)[: tf.size(last)], base)
        count = tf.concat([[0], tf.cumsum(tf.cast(flags, tf.int64))], 0)
        begins = some & (tf.gather(count, tf.maximum(last, reached)) > tf.gather(count, reached))
        tokens = tf.where(begins)[:, 0]
        places = tf.where(flags)[:, 0]
        # The first in the token itself; one before it, of a character that became nothing, only where there is none.
        own = tf.gather(count, tf.maximum(first, reached))
        number = tf.where(own < tf.gather(count, tf.maximum(last, reached)), own, tf.gather(count, reached))
        firsts = tf.gather(places, tf.gather(number, tokens))
        word = tf.cumsum(tf.cast(begins, tf.int64)) - 1
        # Tokens before the first word of all have none.
        stops = tf.math.unsorted_segment_max(last, word, tf.size(tokens))
        before = tf.concat([[0], tf.cumsum(tf.cast(begins, tf.int64))], 0)
        own = tf.gather(base, tokens)
        return Words(
            begins,
            tokens,
            firsts - own,
            tf.maximum(firsts, tf.gather(first, tokens)) - own,
            stops - own,
            tf.gather(before, splits),
            bases,
        )

    def speakers(
        self, words: Words, starts: tf.Tensor, ends: tf.Tensor, splits: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The word that says the label of each unit, where units (tokens of a corpus) are given.

        Args:
            words: of the texts.
            starts, ends: (units,) characters of its text that each unit is.
            splits: (texts + 1,) units of the texts.

        Returns:
            int64 (units,), the number of the word, -1 where a unit has none, being nothing for the tokenizer; and bool
            (units,), the word began in an earlier unit already and goes on in this one.
        """
        splits = tf.cast(splits, tf.int64)
        lengths = splits[1:] - splits[:-1]
        base = tf.repeat(words.bases, lengths)
        start, end = tf.cast(starts, tf.int64) + base, tf.cast(ends, tf.int64) + base
        own = tf.repeat(words.bases, words.splits[1:] - words.splits[:-1])
        first, stop = words.firsts + own, words.ends + own
        count = tf.size(first, tf.int64)
        low, high = tf.repeat(words.splits[:-1], lengths), tf.repeat(words.splits[1:], lengths)
        at = tf.searchsorted(first, start, side="right", out_type=tf.int64) - 1
        first, stop = tf.concat([first, [-1]], 0), tf.concat([stop, [-1]], 0)
        here = (at >= low) & (tf.gather(stop, tf.maximum(at, 0)) > start)
        exact = (at >= low) & (tf.gather(first, tf.maximum(at, 0)) == start)
        later = tf.minimum(at + 1, count)
        next_ = (at + 1 < high) & (tf.gather(first, later) < end)
        word = tf.where(exact | here, at, tf.where(next_, later, -1))
        return word, here & ~exact

    def join(self, tokens: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """`aillm_tf.text.words.join_tokens` for (texts, tokens) strings: text, and starts and ends (all tokens,)."""
        values = tf.strings.unicode_transcode(tokens.values, "UTF-8", "UTF-8", errors="replace")
        rows, splits = tokens.value_rowids(), tf.cast(tokens.row_splits, tf.int64)
        characters = decode(values)
        lengths = characters.splits[1:] - characters.splits[:-1]
        unspaced = tf.concat([self._unspaced(characters.codes), [0]], 0) == 1
        first, last = (
            tf.gather(unspaced, place) & (lengths > 0)
            for place in (characters.splits[:-1], tf.maximum(characters.splits[1:] - 1, 0))
        )
        count = tokens.nrows()
        by_character = (tf.math.unsorted_segment_max(lengths, rows, count) <= 1) & (
            tf.math.unsorted_segment_max(tf.cast(first, tf.int32), rows, count) == 1
        )
        opens = tf.concat([[True], rows[1:] != rows[:-1]], 0)[: tf.size(rows)]
        before = tf.concat([[False], last[:-1]], 0)[: tf.size(last)]
        space = ~opens & ~tf.gather(by_character, rows) & ~(before & first)
        text = tf.strings.unsorted_segment_join(
            tf.strings.join([tf.where(space, " ", ""), values]), tf.cast(rows, tf.int32), tf.cast(count, tf.int32)
        )
        stops = tf.cumsum(lengths + tf.cast(space, tf.int64))
        base = tf.gather(tf.concat([[0], stops], 0), tf.gather(splits, rows))
        return text, stops - lengths - base, stops - base


@functools.cache
def word_alignment() -> WordAlignment:
    """The one that the host uses."""
    with tf.device("CPU:0"):
        return WordAlignment()


def words_of(texts: Sequence[str]) -> list[np.ndarray]:
    """The words of raw texts.

    Args:
        texts: strings.

    Returns:
        For each text (words, 2) int64: the first character of a word, and the one after its last.

    Example:
        >>> [[text[start:end] for start, end in words] for text in ["It's 東京."] for words in words_of([text])]
        [['It', "'", 's', '東', '京', '.']]
    """
    with tf.device("CPU:0"):
        flags, splits = (part.numpy() for part in word_alignment().word_starts(tf.constant(list(texts), tf.string)))
    found = []
    for text, (begin, end) in zip(texts, itertools.pairwise(splits), strict=True):
        starts = np.flatnonzero(flags[begin:end])
        stops = [first + len(text[first:last].rstrip()) for first, last in itertools.pairwise([*starts, len(text)])]
        found.append(np.stack([starts, np.array(stops, np.int64)], 1))
    return found


def _running_maximum(values: tf.Tensor) -> tf.Tensor:
    """The greatest value up to each place, of (n,) integers that rarely fall."""

    def spread(reach, values):
        shifted = tf.concat([values[:reach], values[:-reach]], 0)
        return 2 * reach, tf.maximum(values, shifted)

    falls = tf.reduce_any(values[1:] < values[:-1])
    size = tf.size(values)
    _, values = tf.while_loop(
        lambda reach, values: falls & (reach < size),
        spread,
        (1, values),
        (tf.TensorShape([]), tf.TensorShape([None])),
    )
    return values
