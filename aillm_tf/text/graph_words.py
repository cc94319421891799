"""BPE and Unigram as TensorFlow ops: text -> segments between added tokens -> words -> tokens.

Most words of a batch are there several times, and most distinct ones are a token as they are. So only distinct words
are looked at, those that the host makes one token of are looked up whole, and what is left goes to the model
(`aillm_tf.text.graph_bpe`, `aillm_tf.text.graph_unigram`). Nothing is kept from one call to the next.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import tensorflow as tf

from aillm_tf.text.graph_characters import Characters, encode, ragged
from aillm_tf.text.graph_normalize import APART, Normalizer
from aillm_tf.text.graph_split import Splitter

# What the host's rules for added tokens strip: Unicode's white space, as RE2 spells it.
WHITE_SPACE = r"[\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]*"


class Made(NamedTuple):
    """Tokens of words; those of word i are ``values[starts[i]:starts[i] + lengths[i]]``.

    Args:
        values: int32 (tokens,).
        starts: int64 (words,).
        lengths: int64 (words,).
    """

    values: tf.Tensor
    starts: tf.Tensor
    lengths: tf.Tensor


def string_table(ids: Mapping[bytes, int]) -> tf.lookup.StaticHashTable:
    """Strings to numbers, -1 for others."""
    # A table cannot be empty. No word is that one byte.
    ids = {**ids, APART: -1}
    initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(list(ids)), tf.constant([*ids.values()], tf.int32))
    return tf.lookup.StaticHashTable(initializer, default_value=-1)


def growing_array() -> tf.TensorArray:
    """For what each round of a loop finds, int64 (any number,); together with ``concat``."""
    return tf.TensorArray(tf.int64, 1, dynamic_size=True, infer_shape=False, element_shape=[None])


class WordTokens(tf.Module):
    """Texts to tokens, without the special tokens around them.

    Args:
        description: a tokenizer.json.
        extracted: the added tokens that are found in texts, as in its "added_tokens".
        model: (words,) string to `Made`.
        whole: the words that are one token, with their ids.
    """

    def __init__(
        self, description: Mapping, extracted: Sequence[Mapping], model: tf.Module, whole: Mapping[bytes, int]
    ):
        super().__init__()
        self._normalize = Normalizer(description["normalizer"])
        self._split = Splitter(description["pre_tokenizer"])
        self._model = model
        self._whole = string_table(whole)
        self._pattern = _added_pattern(extracted, description)
        self._added = string_table({token["content"].encode(): token["id"] for token in extracted})

    def __call__(self, text: tf.Tensor) -> tf.RaggedTensor:
        """(texts,) string to (texts, tokens) int32."""
        if self._pattern is None:
            return self._tokens(text, tf.ones_like(text, tf.bool))
        some = tf.reduce_any(tf.strings.regex_full_match(text, rf"\C*(?:{self._pattern})\C*"))
        count = tf.size(text, tf.int64)
        segments, splits, added = tf.cond(
            some,
            lambda: self._segments(text),
            lambda: (text, tf.range(count + 1), tf.fill([count], -1)),
        )
        number = tf.range(tf.size(segments, tf.int64))
        first = number == tf.gather(splits, tf.searchsorted(splits, number, side="right") - 1)
        tokens = self._tokens(segments, first)
        lengths = tf.cast(added >= 0, tf.int64)
        alone = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(added, added >= 0), lengths, validate=False)
        tokens = tf.concat([tokens, alone], axis=1)
        return ragged(tokens.values, tf.gather(tokens.row_splits, splits))

    def _segments(self, text: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Text between added tokens, and an empty text in the place of each of these, with its id (-1 for text)."""
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        parted = tf.strings.regex_replace(text, self._pattern, APART + rb"\1\2\3\4" + APART)
        pieces = tf.strings.split(parted, APART)  # (texts, pieces); every second one is an added token
        number = tf.range(tf.size(pieces.values, tf.int64)) - tf.gather(pieces.row_starts(), pieces.value_rowids())
        odd = number % 2 == 1
        added = tf.where(odd, self._added.lookup(pieces.values), -1)
        return tf.where(odd, "", pieces.values), pieces.row_splits, added

    def _tokens(self, text: tf.Tensor, first: tf.Tensor) -> tf.RaggedTensor:
        words = self._split(self._normalize(text), first)
        begins = tf.where(words.starts)[:, 0]
        count = tf.concat([[0], tf.cumsum(tf.cast(words.starts, tf.int64))], 0)
        ends = tf.concat([begins, [tf.size(words.starts, tf.int64)]], 0)
        strings = encode(Characters(words.characters.codes, ends))
        tokens = self._words(strings)
        rows = tf.gather(count, words.characters.splits)  # (texts + 1,), of words
        return ragged(tokens.values, tf.gather(tokens.row_splits, rows))

    def _words(self, words: tf.Tensor) -> tf.RaggedTensor:
        """(words,) string to (words, tokens) int32."""
        distinct, which = tf.unique(words, out_idx=tf.int64)
        ids = self._whole.lookup(distinct)
        known = ids >= 0
        made = self._model(tf.boolean_mask(distinct, ~known))
        # One array for both kinds: tokens of the words that the model made, then those of the known ones.
        values = tf.concat([made.values, tf.boolean_mask(ids, known)], 0)
        rank = tf.cumsum(tf.cast(known, tf.int64), exclusive=True)
        other = tf.where(~known, tf.range(tf.size(rank, tf.int64)) - rank, 0)
        starts = tf.where(known, tf.size(made.values, tf.int64) + rank, tf.gather(_padded(made.starts), other))
        lengths = tf.where(~known, tf.gather(_padded(made.lengths), other), 1)
        starts, lengths = tf.gather(starts, which), tf.gather(lengths, which)
        chosen = tf.ragged.range(starts, starts + lengths)
        return chosen.with_values(tf.gather(values, chosen.values))


def spell_unknown(
    ids: tf.Tensor, unknown: tf.Tensor, codes: tf.Tensor, byte_ids: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Puts the byte tokens of its UTF-8 in the place of each unknown character.

    Args:
        ids: (tokens,).
        unknown: bool (tokens,).
        codes: int32 (tokens,), the characters of the unknown ones.
        byte_ids: (256,) tokens of the bytes.

    Returns:
        The new ids (more tokens,), and bool (tokens, columns) which of the columns of each old token they are from.
    """
    lead = tf.where(codes < 0x800, 0xC0 + codes // 64, 0xE0 + codes // 64**2)
    lead = tf.where(codes < 0x10000, lead, 0xF0 + codes // 64**3)
    columns = [(tf.where(codes < 0x80, codes, lead), codes >= 0)]
    for place, least in ((64**2, 0x10000), (64, 0x800), (1, 0x80)):
        columns.append((0x80 + codes // place % 64, codes >= least))
    spelled = [tf.gather(byte_ids, byte) for byte, _ in columns]
    table = tf.stack([ids, *spelled], 1)
    kept = tf.stack([~unknown, *(unknown & there for _, there in columns)], 1)
    return tf.boolean_mask(table, kept), kept


def _padded(values: tf.Tensor) -> tf.Tensor:
    """With one more, so that there is one to gather."""
    return tf.concat([values, [0]], 0)


def _added_pattern(extracted: Sequence[Mapping], description: Mapping) -> str | None:
    """An RE2 pattern for added tokens, the longest first; one of its four groups holds the token."""
    if not extracted:
        return None
    for token in extracted:
        if token["single_word"] or (token["normalized"] and description["normalizer"] is not None):
            raise NotImplementedError(
                f"the graph does not know the added token {token['content']!r}, which is single_word, or normalized "
                "beside a normalizer"
            )
    groups = []
    for left, right in ((False, False), (True, False), (False, True), (True, True)):
        contents = [token["content"] for token in extracted if (token["lstrip"], token["rstrip"]) == (left, right)]
        # A group that cannot match keeps the numbers of the others.
        words = "|".join(map(re.escape, sorted(contents, key=len, reverse=True))) or r"[^\x{0}-\x{10ffff}]"
        groups.append(f"{WHITE_SPACE if left else ''}({words}){WHITE_SPACE if right else ''}")
    return "|".join(groups)
