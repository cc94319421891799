"""The places of tokens, set right as `Tokenizer.encode_spans` does it: without white space at the ends, with marks."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import category

import numpy as np
import tensorflow as tf

from aillm_tf.text.graph_characters import CODE_POINTS, Characters, CharacterTable

PLAIN, BLANK, MARK = 0, 1, 2


class Places(tf.Module):
    """Sets places right.

    Args:
        spaces: tokens that stand for spaces alone.
    """

    def __init__(self, spaces: Sequence[int]):
        super().__init__()
        kinds = np.zeros(CODE_POINTS, np.int32)
        for code in range(CODE_POINTS):
            character = chr(code)
            if character.isspace():
                kinds[code] = BLANK
            elif category(character)[0] == "M" or 0x1160 <= code <= 0x11FF:
                kinds[code] = MARK
        self._kinds = CharacterTable(kinds)
        self._spaces = tf.constant([*spaces, -1], tf.int32)

    def __call__(
        self, whole: Characters, ids: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor, splits: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Places within the texts.

        Args:
            whole: the texts as they are.
            ids: (tokens,) of all texts.
            starts, ends: int64 (tokens,), counted over the characters of all texts.
            splits: int64 (texts + 1,) of the tokens.
        """
        kinds = self._kinds(whole.codes)
        size = tf.size(kinds, tf.int64)
        place = tf.range(size)
        blank, mark = kinds == BLANK, kinds == MARK
        starts = tf.minimum(tf.gather(_next(place, ~blank), starts), ends)
        # How many characters up to here are no white space, and where the last of them ends.
        count = tf.concat([[0], tf.cumsum(tf.cast(~blank, tf.int64))], 0)
        after = tf.concat([[0], 1 + tf.boolean_mask(place, ~blank)], 0)
        ends = tf.maximum(tf.gather(after, tf.gather(count, ends)), starts)
        lengths = splits[1:] - splits[:-1]
        limit = tf.repeat(whole.splits[1:], lengths)
        ordered = tf.concat([tf.sort(starts), [size]], 0)
        following = tf.gather(ordered, tf.searchsorted(ordered, ends))
        with_marks = tf.minimum(tf.minimum(tf.gather(_next(place, ~mark), ends), following), limit)
        ends = tf.where(ends > starts, with_marks, ends)
        space = tf.reduce_any(ids[:, tf.newaxis] == self._spaces, 1)
        base = tf.repeat(whole.splits[:-1], lengths)
        return starts - base, tf.where(space, starts, ends) - base


def _next(place: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
    """(n + 1,): from each of n places, and the one behind them, the first one on which a flag is set, or n."""
    count = tf.concat([[0], tf.cumsum(tf.cast(flags, tf.int32))], 0)
    return tf.gather(tf.concat([tf.boolean_mask(place, flags), [tf.size(place, tf.int64)]], 0), count)
