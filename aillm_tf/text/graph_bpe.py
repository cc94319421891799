"""Byte-pair encoding as TensorFlow ops, for byte-level vocabularies and SentencePiece's with byte fallback.

All words are merged at once: in every round each word merges its lowest-ranked pair of neighbours, and words that have
none left leave the loop. That gives what merging one pair after the other gives, unless a merge brings about a pair of
lower rank than its own: of such a merge (SentencePiece's vocabularies have some), each word does one a round.

Reference:
    Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016, https://arxiv.org/abs/1508.07909
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from aillm_tf.text.graph_characters import CODE_POINTS, CharacterTable, decode, number_table, ragged
from aillm_tf.text.graph_words import Made, growing_array, spell_unknown

SHIFT, HASTY = 2**32, 2**31
NEVER = np.iinfo(np.int64).max
MARK = "▁"


class MergeWords(tf.Module):
    """Words to tokens.

    Args:
        model: the "model" of a tokenizer.json.
        byte_level: words are bytes, each written as a letter in the vocabulary.

    Raises:
        NotImplementedError: for rules that the graph does not know.
    """

    def __init__(self, model: Mapping, byte_level: bool):
        super().__init__()
        if model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
            raise NotImplementedError(
                "the graph knows BPE without dropout, continuing_subword_prefix and end_of_word_suffix"
            )
        vocab = model["vocab"]
        self.unit = "BYTE" if byte_level else "UTF8_CHAR"
        self._symbols = Bytes(vocab) if byte_level else SentencePieceCharacters(model)
        merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        left = np.array([vocab[first] for first, _ in merges], np.int64)
        right = np.array([vocab[second] for _, second in merges], np.int64)
        made = np.array([vocab[first + second] for first, second in merges], np.int64)
        rank = np.arange(len(merges))
        # Of a pair that is there twice the host keeps the last rank.
        latest = {pair: at for at, pair in enumerate(zip(left.tolist(), right.tolist(), strict=True))}
        last = np.array(sorted(latest.values()), np.int64)
        left, right, made, rank = left[last], right[last], made[last], rank[last]
        # A merge is hasty if its product merges with something at a lower rank: that comes before its own repetition.
        earliest = np.full(max(vocab.values(), default=0) + 1, len(merges))
        np.minimum.at(earliest, left, rank)
        np.minimum.at(earliest, right, rank)
        hasty = earliest[made] < rank
        self._some_hasty = bool(hasty.any())
        self._merges = number_table(left * SHIFT + right, rank * SHIFT + hasty * HASTY + made, NEVER)

    def __call__(self, words: tf.Tensor) -> Made:
        """(words,) string to their tokens."""
        symbols, word, first = self._symbols(words)
        count = tf.size(words, tf.int64)
        size = tf.size(symbols, tf.int64)
        done = (growing_array(), growing_array(), growing_array())  # symbols, words, first units
        order = tf.range(count)

        def more(round_, symbols, word, first, values, order, *done):
            return tf.size(symbols) > 0

        def merge(round_, symbols, word, first, values, order, *done):
            active = tf.size(order, tf.int64)
            best = tf.math.unsorted_segment_min(values, word, active)
            busy = best < NEVER
            merged = (values == tf.gather(best, word)) & (values < NEVER)
            merged = self._apart(merged, best, word)
            kept = ~tf.concat([[False], merged[:-1]], 0)
            symbols = tf.where(merged, values % HASTY, symbols)
            stays = tf.gather(busy, word)
            leaving = kept & ~stays
            found = (symbols, tf.gather(order, word), first)
            done = [array.write(round_, tf.boolean_mask(x, leaving)) for array, x in zip(done, found, strict=True)]
            # Only pairs with a new symbol have to be looked up again.
            kept &= stays
            left, first = tf.boolean_mask(symbols, kept), tf.boolean_mask(first, kept)
            changed = tf.boolean_mask(merged, kept)
            word = tf.gather(tf.cumsum(tf.cast(busy, tf.int64), exclusive=True), tf.boolean_mask(word, kept))
            changed |= tf.concat([changed[1:], [False]], 0)[: tf.size(changed)]
            values = tf.boolean_mask(values, kept)
            at = tf.where(changed)
            values = tf.tensor_scatter_nd_update(values, at, self._pairs(left, word, at[:, 0]))
            return (round_ + 1, left, word, first, values, tf.boolean_mask(order, busy), *done)

        state = (0, symbols, word, first, self._pairs(symbols, word, tf.range(size)), order, *done)
        shapes = (tf.TensorShape([]), *[tf.TensorShape([None])] * 5, *[tf.TensorShape(None)] * 3)
        rounds, *_ = made = tf.while_loop(more, merge, state, shapes)
        nothing = tf.zeros([0], tf.int64)
        symbols, word, first = tf.cond(
            rounds > 0, lambda: tuple(array.concat() for array in made[-3:]), lambda: (nothing,) * 3
        )
        # Words leave the loop in another order, each with all of its symbols.
        starts = tf.math.unsorted_segment_min(tf.range(tf.size(word, tf.int64)), word, count)
        lengths = tf.math.unsorted_segment_sum(tf.ones_like(word), word, count)
        # A token reaches to the next one; the bytes of a character reach over all of it.
        sizes = tf.cast(tf.strings.length(words, unit=self.unit), tf.int64)
        goes_on = tf.concat([word[1:] == word[:-1], [False]], 0)[: tf.size(word)]
        following = tf.concat([first[1:], [0]], 0)[: tf.size(first)]
        last = tf.maximum(tf.where(goes_on, following, tf.gather(sizes, word)), first + 1)
        return Made(tf.cast(symbols, tf.int32), tf.where(lengths > 0, starts, 0), lengths, first, last)

    def _pairs(self, symbols: tf.Tensor, word: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
        """rank * SHIFT + hasty * HASTY + merged symbol of the pairs that start at these places, NEVER for no merge."""
        following = tf.minimum(at + 1, tf.size(symbols, tf.int64) - 1)
        inside = (following > at) & (tf.gather(word, at) == tf.gather(word, following))
        key = tf.gather(symbols, at) * SHIFT + tf.gather(symbols, following)
        return self._merges.lookup(tf.where(inside, key, -1))

    def _apart(self, merged: tf.Tensor, best: tf.Tensor, word: tf.Tensor) -> tf.Tensor:
        """Drops pairs that overlap with the one before them ("aaa"), and all but the first of a word's hasty ones."""
        position = tf.range(tf.size(merged, tf.int64))
        opens = merged & ~tf.concat([[False], merged[:-1]], 0)
        opening = tf.concat([[0], tf.boolean_mask(position, opens)], 0)
        in_run = position - tf.gather(opening, tf.cumsum(tf.cast(opens, tf.int32)))
        apart = merged & (in_run % 2 == 0)
        if not self._some_hasty:
            return apart
        first = tf.math.unsorted_segment_min(tf.where(merged, position, NEVER), word, tf.size(best))
        hasty = best // HASTY % 2 == 1
        return apart & (tf.gather(~hasty, word) | (position == tf.gather(first, word)))


class Bytes(tf.Module):
    """The first symbols of byte-level BPE: the bytes of a word. Bytes that the vocabulary lacks are dropped."""

    def __init__(self, vocab: Mapping[str, int]):
        super().__init__()
        self._ids = tf.constant([vocab.get(letter, -1) for letter in byte_of_letter()], tf.int64)

    def __call__(self, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Symbols, the word of each, and which of its bytes each is."""
        everything = tf.io.decode_raw(tf.strings.reduce_join(words), tf.uint8)
        symbols = tf.gather(self._ids, tf.cast(everything, tf.int32))
        lengths = tf.cast(tf.strings.length(words), tf.int64)
        word = tf.repeat(tf.range(tf.size(words, tf.int64)), lengths)
        place = tf.range(tf.size(word, tf.int64)) - tf.repeat(tf.cumsum(lengths, exclusive=True), lengths)
        known = symbols >= 0
        return tuple(tf.boolean_mask(values, known) for values in (symbols, word, place))


class SentencePieceCharacters(tf.Module):
    """The first symbols of SentencePiece's BPE: characters; of unknown ones the bytes, else the unknown token."""

    def __init__(self, model: Mapping):
        super().__init__()
        vocab = model["vocab"]
        table = np.full(CODE_POINTS, -1, np.int32)
        for token, index in vocab.items():
            if len(token) == 1:
                table[ord(token)] = index
        self._ids = CharacterTable(table)
        fallback = [vocab.get(f"<0x{byte:02X}>", -1) for byte in range(256)] if model["byte_fallback"] else [-1] * 256
        there = [index for index in fallback if index >= 0]
        if there and len(there) < 256:
            raise NotImplementedError(f"the graph needs all 256 byte tokens for byte fallback; {len(there)} are there")
        self._bytes = tf.constant(fallback, tf.int64) if there else None
        self._unknown = -1 if model["unk_token"] is None else vocab[model["unk_token"]]
        self._fuse = model["fuse_unk"]

    def __call__(self, words: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Symbols, the word of each, and the character of that which each begins."""
        characters = decode(words)
        codes = characters.codes
        word = ragged(codes, characters.splits).value_rowids()
        place = tf.range(tf.size(codes, tf.int64)) - tf.gather(characters.splits, word)
        symbols = tf.cast(self._ids(codes), tf.int64)
        unknown = symbols < 0
        if self._bytes is None:
            symbols = tf.where(~unknown, symbols, self._unknown)
            kept = symbols >= 0
            if self._fuse:
                continues = unknown[1:] & unknown[:-1] & (word[1:] == word[:-1])
                kept &= ~tf.concat([[False], continues], 0)[: tf.size(kept)]
            return tuple(tf.boolean_mask(values, kept) for values in (symbols, word, place))
        symbols, kept = spell_unknown(symbols, unknown, codes, self._bytes)
        columns, kept = tf.shape(kept)[1], tf.reshape(kept, [-1])
        return symbols, *(tf.boolean_mask(tf.repeat(values, columns), kept) for values in (word, place))


@functools.lru_cache(maxsize=1)
def byte_of_letter() -> dict[str, int]:
    """The bytes by the letter that stands for each in byte-level vocabularies, in the order of the bytes.

    A byte that prints in Latin-1 is its own letter; the others are letters from U+0100 on.
    """
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return {chr(byte) if byte in prints else chr(next(spare)): byte for byte in range(256)}


def words_apart(description: Mapping) -> Mapping:
    """The pre_tokenizer to use: SentencePiece's BPE has none, and whole texts would go through the merges.

    Where no merge reaches from one word into the mark of the next, words can be merged apart from each other.
    """
    model, given = description["model"], description["pre_tokenizer"]
    products = ("".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"])
    if MARK not in model["vocab"] or any(MARK in product.lstrip(MARK) for product in products):
        return given
    parts = [] if given is None else [given]
    split = {"type": "Split", "pattern": {"String": MARK}, "behavior": "RunMergedWithNext", "invert": False}
    return {"type": "Sequence", "pretokenizers": [*parts, split]}
