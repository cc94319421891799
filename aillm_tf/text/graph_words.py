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

from aillm_tf.text.graph_characters import Characters, decode, encode, ragged
from aillm_tf.text.graph_normalize import APART, Normalizer
from aillm_tf.text.graph_places import Places
from aillm_tf.text.graph_split import Splitter

# What the host's rules for added tokens strip: Unicode's white space, as RE2 spells it.
WHITE_SPACE = r"[\t-\r \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]*"


class Made(NamedTuple):
    """Tokens of words; those of word i are ``values[starts[i]:starts[i] + lengths[i]]``.

    Args:
        values: int32 (tokens,).
        starts: int64 (words,).
        lengths: int64 (words,).
        firsts: int64 (tokens,), the first unit of its word that the token stands for; units are characters, or bytes
            where the model's ``unit`` says so.
        lasts: int64 (tokens,), the unit behind the last one.
    """

    values: tf.Tensor
    starts: tf.Tensor
    lengths: tf.Tensor
    firsts: tf.Tensor
    lasts: tf.Tensor


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
        model: (words,) string to `Made`; its ``unit`` is "UTF8_CHAR" or "BYTE".
        whole: the words that are one token, with their ids.
        spaces: tokens that stand for a space alone.
    """

    def __init__(
        self,
        description: Mapping,
        extracted: Sequence[Mapping],
        model: tf.Module,
        whole: Mapping[bytes, int],
        spaces: Sequence[int],
    ):
        super().__init__()
        self._places = Places(spaces)
        self._normalize = Normalizer(description["normalizer"])
        self._split = Splitter(description["pre_tokenizer"])
        self._model = model
        self._whole = string_table(whole)
        self._pattern = _added_pattern(extracted, description)
        self._added = string_table({token["content"].encode(): token["id"] for token in extracted})

    def __call__(self, text: tf.Tensor) -> tf.RaggedTensor:
        """(texts,) string to (texts, tokens) int32."""
        if self._pattern is None:
            return self._tokens(self._normalize(text), tf.ones_like(text, tf.bool))[0]
        count = tf.size(text, tf.int64)
        segments, splits, added = tf.cond(
            self._some_added(text),
            lambda: self._segments(text, rb"\1\2\3\4")[:3],
            lambda: (text, tf.range(count + 1), tf.fill([count], -1)),
        )
        tokens, _, _ = self._tokens(self._normalize(segments), _first_of(splits))
        tokens = _beside(tokens, added, added)
        return ragged(tokens.values, tf.gather(tokens.row_splits, splits))

    def with_offsets(self, text: tf.Tensor) -> dict[str, tf.RaggedTensor]:
        """As the call, {"token_ids", "starts", "ends"}: the token stands for the characters text[start:end]."""
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        whole = decode(text)
        if self._pattern is None:
            segments, splits = text, tf.range(tf.size(text, tf.int64) + 1)
            added, first = tf.fill([tf.size(text)], -1), tf.ones_like(text, tf.bool)
            begins = whole.splits
        else:
            # White space that goes with an added token stays in its segment, so that lengths add up.
            segments, splits, added, contents = self._segments(text, rb"\0")
            first = _first_of(splits)
            lengths = tf.cast(tf.strings.length(contents, unit="UTF8_CHAR"), tf.int64)
            begins = tf.concat([[0], tf.cumsum(lengths)], 0)
        characters = decode(segments)
        sizes = characters.splits[1:] - characters.splits[:-1]
        place = tf.range(tf.size(characters.codes, tf.int64)) - tf.repeat(characters.splits[:-1] - begins[:-1], sizes)
        characters = characters._replace(places=tf.stack([place, place + 1], 1))
        tokens, starts, ends = self._tokens(self._normalize.with_places(characters), first)
        columns = [_beside(tokens, added, added), _beside(starts, begins[:-1], added), _beside(ends, begins[1:], added)]
        splits = tf.gather(columns[0].row_splits, splits)
        ids, starts, ends = (column.values for column in columns)
        starts, ends = self._places(whole, ids, starts, ends, splits)
        found = {"token_ids": ids, "starts": tf.cast(starts, tf.int32), "ends": tf.cast(ends, tf.int32)}
        return {name: ragged(column, splits) for name, column in found.items()}

    def _some_added(self, text: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(tf.strings.regex_full_match(text, rf"\C*(?:{self._pattern})\C*"))

    def _segments(self, text: tf.Tensor, kept: bytes) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Text between added tokens, and an empty text in the place of each of these.

        Args:
            text: (texts,) string.
            kept: what of an added token with the white space that goes with it is kept in the last part of the answer.

        Returns:
            The segments, where those of each text begin, the id of the added token (-1 for text), and the segments
            with added tokens in their places.
        """
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        parted = tf.strings.regex_replace(text, self._pattern, APART + kept + APART)
        pieces = tf.strings.split(parted, APART)  # (texts, pieces); every second one is an added token
        number = tf.range(tf.size(pieces.values, tf.int64)) - tf.gather(pieces.row_starts(), pieces.value_rowids())
        odd = number % 2 == 1
        contents = tf.strings.regex_replace(pieces.values, self._pattern, r"\1\2\3\4")
        added = tf.where(odd, self._added.lookup(contents), -1)
        return tf.where(odd, "", pieces.values), pieces.row_splits, added, pieces.values

    def _tokens(
        self, characters: Characters, first: tf.Tensor
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor | None, tf.RaggedTensor | None]:
        """Segments to tokens; with places, also the first character each stands for and the one after the last."""
        words = self._split(characters, first)
        characters = words.characters
        begin = tf.where(words.starts)[:, 0]
        count = tf.concat([[0], tf.cumsum(tf.cast(words.starts, tf.int64))], 0)
        ends = tf.concat([begin, [tf.size(words.starts, tf.int64)]], 0)
        strings = encode(Characters(characters.codes, ends))
        tokens, firsts, lasts = self._words(strings)
        rows = tf.gather(count, characters.splits)  # (segments + 1,), of words
        splits = tf.gather(tokens.row_splits, rows)
        ids = ragged(tokens.values, splits)
        if characters.places is None:
            return ids, None, None
        letter = tf.range(tf.size(characters.codes, tf.int64))
        if self._model.unit == "BYTE":
            more = (tf.cast(characters.codes >= least, tf.int64) for least in (0x80, 0x800, 0x10000))
            letter = tf.repeat(letter, 1 + sum(more))
        sizes = tf.cast(tf.strings.length(strings, unit=self._model.unit), tf.int64)
        base = tf.gather(tf.cumsum(sizes, exclusive=True), tokens.value_rowids())
        start = tf.gather(characters.places[:, 0], tf.gather(letter, base + firsts))
        end = tf.gather(characters.places[:, 1], tf.gather(letter, base + lasts - 1))
        return ids, ragged(start, splits), ragged(end, splits)

    def _words(self, words: tf.Tensor) -> tuple[tf.RaggedTensor, tf.Tensor, tf.Tensor]:
        """(words,) string to (words, tokens) int32, and the units of its word that each token stands for."""
        distinct, which = tf.unique(words, out_idx=tf.int64)
        ids = self._whole.lookup(distinct)
        known = ids >= 0
        made = self._model(tf.boolean_mask(distinct, ~known))
        # One array for both kinds: tokens of the words that the model made, then those of the known ones.
        values = tf.concat([made.values, tf.boolean_mask(ids, known)], 0)
        sizes = tf.cast(tf.strings.length(tf.boolean_mask(distinct, known), unit=self._model.unit), tf.int64)
        firsts, lasts = tf.concat([made.firsts, tf.zeros_like(sizes)], 0), tf.concat([made.lasts, sizes], 0)
        rank = tf.cumsum(tf.cast(known, tf.int64), exclusive=True)
        other = tf.where(~known, tf.range(tf.size(rank, tf.int64)) - rank, 0)
        starts = tf.where(known, tf.size(made.values, tf.int64) + rank, tf.gather(_padded(made.starts), other))
        lengths = tf.where(~known, tf.gather(_padded(made.lengths), other), 1)
        starts, lengths = tf.gather(starts, which), tf.gather(lengths, which)
        chosen = tf.ragged.range(starts, starts + lengths)
        tokens = chosen.with_values(tf.gather(values, chosen.values))
        return tokens, tf.gather(firsts, chosen.values), tf.gather(lasts, chosen.values)


def _first_of(splits: tf.Tensor) -> tf.Tensor:
    """bool (segments,): the first of its text."""
    number = tf.range(splits[-1])
    return number == tf.gather(splits, tf.searchsorted(splits, number, side="right") - 1)


def _beside(tokens: tf.RaggedTensor, alone: tf.Tensor, added: tf.Tensor) -> tf.RaggedTensor:
    """(segments, tokens) with ``alone`` (segments,) behind them where a segment is an added token."""
    lengths = tf.cast(added >= 0, tf.int64)
    values = tf.cast(tf.boolean_mask(alone, added >= 0), tokens.dtype)
    return tf.concat([tokens, tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)], axis=1)


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
