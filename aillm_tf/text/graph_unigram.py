"""Unigram as TensorFlow ops: of all ways to cut a word into pieces, the one with the highest sum of scores.

Two loops, over all words at once. The first walks from every character down a trie of the pieces and finds all pieces
in the words. The second goes from left to right and keeps the best way to reach each character (Viterbi). Sums are
float64, added in the host's order; of equal sums the one whose last piece is longer wins, as there.
``tensorflow_text.FastSentencepieceTokenizer`` adds in float32, so that it may choose another one of equal ways.

Reference:
    Kudo, "Subword Regularization", 2018, https://arxiv.org/abs/1804.10959
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from aillm_tf.text.graph_characters import Characters, decode, encode, number_table
from aillm_tf.text.graph_words import Made, growing_array, spell_unknown, string_table

LETTERS = 2**21  # more than there are code points
MARK = "▁"
UNKNOWN_PENALTY = 10.0  # below the lowest score, as in SentencePiece


class BestPieces(tf.Module):
    """Words to tokens.

    Args:
        model: the "model" of a tokenizer.json; pieces that no text may become are empty.
        other_side: Marian: ids of pieces for the other side of a translation, which unknown ones are where they match.
        size: ids from here on are of pieces that are unknown in the end.

    Raises:
        NotImplementedError: for a vocabulary without an unknown token.
    """

    def __init__(self, model: Mapping, other_side: Mapping[str, int], size: int):
        super().__init__()
        self.size, self.unit = size, "UTF8_CHAR"
        pieces = model["vocab"]
        if model["unk_id"] is None:
            raise NotImplementedError("the graph needs a Unigram vocabulary with an unknown token (unk_id)")
        scores = np.array([score for _, score in pieces], np.float64)
        self._unknown = model["unk_id"]
        self._unknown_score = tf.constant(scores.min() - UNKNOWN_PENALTY, tf.float64)
        self._scores = tf.constant(scores)
        children, piece_of = _trie([piece for piece, _ in pieces])
        self._children = number_table(np.fromiter(children, np.int64), np.fromiter(children.values(), np.int64), -1)
        self._piece_of = tf.constant(piece_of, tf.int32)
        finally_ = list(range(len(pieces)))
        for index in finally_[size:]:
            finally_[index] = other_side.get(pieces[index][0].lstrip(MARK), self._unknown)
        self._finally = tf.constant(finally_, tf.int32)
        self._other_side = string_table({piece.encode(): i for piece, i in other_side.items()}) if other_side else None
        self._bytes = None
        if model["byte_fallback"]:
            ids = {piece: index for index, (piece, _) in enumerate(pieces)}
            found = [ids.get(f"<0x{byte:02X}>", -1) for byte in range(256)]
            if -1 in found:
                raise NotImplementedError(f"the graph needs all 256 byte tokens; {256 - found.count(-1)} are there")
            self._bytes = tf.constant(found, tf.int32)

    def __call__(self, words: tf.Tensor) -> Made:
        """(words,) string to their tokens."""
        characters = decode(words)
        count = tf.size(characters.codes, tf.int64)
        lengths = characters.splits[1:] - characters.splits[:-1]
        word = tf.repeat(tf.range(tf.size(lengths, tf.int64)), lengths)
        root = tf.gather(characters.splits, word)  # of each place, the first one of its word
        end, length, piece = self._pieces(characters.codes, tf.gather(characters.splits[1:], word))
        longest = tf.reduce_max(tf.concat([length, [1]], 0))
        # Each place's pieces that end there, by their length; what no piece spells is an unknown character.
        pieces = tf.tensor_scatter_nd_update(tf.fill([count, longest], -1), tf.stack([end, length - 1], 1), piece)
        pieces = tf.concat([tf.where(pieces[:, :1] < 0, self._unknown, pieces[:, :1]), pieces[:, 1:]], 1)
        back = self._best_ways(pieces, lengths, word, root)
        on_way = self._trace(back, characters.splits, lengths, root)

        chosen = tf.where(on_way)[:, 0]
        ids = tf.gather_nd(pieces, tf.stack([chosen, tf.gather(back, chosen) - 1], 1))
        word, unknown = tf.gather(word, chosen), ids == self._unknown
        again = unknown[1:] & unknown[:-1] & (word[1:] == word[:-1])
        alone = ~tf.concat([[False], again], 0)[: tf.size(ids)]
        run = tf.cumsum(tf.cast(alone, tf.int32)) - 1  # unknown characters side by side are one
        runs, begins = tf.reduce_sum(tf.cast(alone, tf.int32)), tf.gather(characters.splits, word)
        firsts = tf.gather(tf.math.unsorted_segment_min(chosen - tf.gather(back, chosen) + 1 - begins, run, runs), run)
        lasts = tf.gather(tf.math.unsorted_segment_max(chosen + 1 - begins, run, runs), run)
        if self._bytes is None:
            ids = tf.gather(self._finally, ids)
            if self._other_side is not None:
                ids = self._translated(ids, unknown, alone, characters.codes, chosen, chosen - tf.gather(back, chosen))
            ids, word, firsts, lasts = (tf.boolean_mask(values, alone) for values in (ids, word, firsts, lasts))
        else:
            ids, kept = spell_unknown(ids, unknown, tf.gather(characters.codes, chosen), self._bytes)
            columns, kept = tf.shape(kept)[1], tf.reshape(kept, [-1])
            word, firsts, lasts = (tf.boolean_mask(tf.repeat(v, columns), kept) for v in (word, firsts, lasts))
        tokens = tf.math.unsorted_segment_sum(tf.ones_like(word), word, tf.size(lengths))
        return Made(ids, tf.cumsum(tokens, exclusive=True), tokens, firsts, lasts)

    def _translated(
        self,
        ids: tf.Tensor,
        unknown: tf.Tensor,
        kept: tf.Tensor,
        codes: tf.Tensor,
        ends: tf.Tensor,
        before: tf.Tensor,
    ) -> tf.Tensor:
        """Looks unknown tokens up among the pieces of the other side, by the characters they are made of."""
        run = tf.cumsum(tf.cast(kept, tf.int32)) - 1
        stop = tf.gather(tf.math.unsorted_segment_max(ends, run, tf.reduce_sum(tf.cast(kept, tf.int32))), run) + 1
        asked = unknown & kept
        places = tf.ragged.range(tf.boolean_mask(before + 1, asked), tf.boolean_mask(stop, asked))
        spelled = encode(Characters(tf.gather(codes, places.values), places.row_splits))
        found = self._other_side.lookup(tf.strings.regex_replace(spelled, f"^{MARK}+", ""))
        at = tf.where(asked)
        return tf.tensor_scatter_nd_update(ids, at, tf.where(found >= 0, found, self._unknown))

    def _pieces(self, codes: tf.Tensor, stop: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """All pieces in the words: the place each ends at, its length in characters, its id.

        Args:
            codes: (places,) characters of the words.
            stop: (places,) where each place's word ends.
        """

        def more(step, place, state, ends, found):
            return tf.size(place) > 0

        def walk(step, place, state, ends, found):
            letter = tf.cast(tf.gather(codes, place), tf.int64)
            state = self._children.lookup(state * LETTERS + letter)
            there = state >= 0
            place, state = tf.boolean_mask(place, there), tf.boolean_mask(state, there)
            piece = tf.gather(self._piece_of, state)
            ended = piece >= 0
            ends = ends.write(step, tf.boolean_mask(place, ended))
            # One number for length and piece.
            found = found.write(step, tf.cast(step + 1, tf.int64) * LETTERS + tf.cast(piece[ended], tf.int64))
            goes_on = place + 1 < tf.gather(stop, place)
            return step + 1, tf.boolean_mask(place + 1, goes_on), tf.boolean_mask(state, goes_on), ends, found

        place = tf.range(tf.size(codes, tf.int64))
        any_shape, flat = tf.TensorShape(None), tf.TensorShape([None])
        steps, _, _, ends, found = tf.while_loop(
            more,
            walk,
            (0, place, tf.zeros_like(place), growing_array(), growing_array()),
            (tf.TensorShape([]), flat, flat, any_shape, any_shape),
        )
        nothing = tf.zeros([0], tf.int64)
        ends, found = tf.cond(steps > 0, lambda: (ends.concat(), found.concat()), lambda: (nothing, nothing))
        return ends, found // LETTERS, tf.cast(found % LETTERS, tf.int32)

    def _best_ways(self, pieces: tf.Tensor, lengths: tf.Tensor, word: tf.Tensor, root: tf.Tensor) -> tf.Tensor:
        """Of each place, the length of the last piece of the best way that ends there, int64 (places,)."""
        # Longer words first, and time before word: the words that still go on are then the first ones of each step.
        rank = tf.math.invert_permutation(tf.argsort(lengths, direction="DESCENDING"))
        time = tf.range(tf.size(word, tf.int64)) - root
        steps = tf.reduce_max(tf.concat([lengths, [0]], 0))
        active = tf.math.bincount(tf.cast(time, tf.int32), dtype=tf.int64)  # (steps,)
        begins = tf.concat([[0], tf.cumsum(active)], 0)
        packed = tf.gather(begins, time) + tf.cast(tf.gather(rank, word), tf.int64)
        scores = tf.where(pieces >= 0, tf.gather(self._scores, tf.maximum(pieces, 0)), tf.constant(-np.inf, tf.float64))
        unknown = tf.where(pieces[:, :1] == self._unknown, self._unknown_score, scores[:, :1])
        scores = tf.concat([unknown, scores[:, 1:]], 1)
        scores = tf.gather(scores, tf.math.invert_permutation(packed))  # (places by time, longest)
        spans = tf.range(1, tf.shape(scores, tf.int64)[1] + 1)[tf.newaxis]

        def step(now, before, back):
            here = tf.gather(active, now)
            ways = before[:here] + scores[begins[now] : begins[now] + here]  # (words that go on, longest)
            best = tf.reduce_max(ways, 1, keepdims=True)
            back = back.write(tf.cast(now, tf.int32), tf.reduce_max(tf.where(ways == best, spans, 0), 1))
            return now + 1, tf.concat([best, before[:here, :-1]], 1), back

        # Column k: the score of the best way that ends k + 1 places back; before the word it is 0.
        before = tf.fill([tf.size(lengths), tf.shape(scores)[1] - 1], tf.constant(-np.inf, tf.float64))
        before = tf.concat([tf.zeros([tf.size(lengths), 1], tf.float64), before], 1)
        out = tf.TensorArray(tf.int64, tf.cast(steps, tf.int32), infer_shape=False, element_shape=[None])
        shapes = (tf.TensorShape([]), tf.TensorShape([None, None]), tf.TensorShape(None))
        _, _, back = tf.while_loop(
            lambda now, before, back: now < steps, step, (tf.constant(0, tf.int64), before, out), shapes
        )
        back = tf.cond(steps > 0, back.concat, lambda: tf.zeros([0], tf.int64))
        return tf.gather(back, packed)

    @staticmethod
    def _trace(back: tf.Tensor, splits: tf.Tensor, lengths: tf.Tensor, root: tf.Tensor) -> tf.Tensor:
        """bool (places,): a piece of the best way through the word ends here."""
        count = tf.size(back, tf.int64)
        place = tf.range(count)
        before = tf.where(place - back < root, place, place - back)  # where the piece before ends
        ends = tf.boolean_mask(splits[1:] - 1, lengths > 0)
        on_way = tf.scatter_nd(ends[:, tf.newaxis], tf.ones_like(ends), [count])
        longest = tf.reduce_max(tf.concat([lengths, [0]], 0))

        # Marks spread from the ends of the words along the way, twice as far in every round.
        def spread(reach, on_way, jump):
            return (
                2 * reach,
                tf.maximum(on_way, tf.math.unsorted_segment_max(on_way, jump, count)),
                tf.gather(jump, jump),
            )

        _, on_way, _ = tf.while_loop(
            lambda reach, on_way, jump: reach < longest, spread, (tf.constant(1, tf.int64), on_way, before)
        )
        return on_way > 0


def _trie(pieces: Sequence[str]) -> tuple[dict[int, int], list[int]]:
    """Children by parent * LETTERS + letter, and the piece that ends at each node, -1 for none; the root is 0."""
    children: dict[int, int] = {}
    piece_of = [-1]
    for index, piece in enumerate(pieces):
        node = 0
        for letter in piece:
            key = node * LETTERS + ord(letter)
            node = children.get(key)
            if node is None:
                node = children[key] = len(piece_of)
                piece_of.append(-1)
        if piece:
            piece_of[node] = index
    return children, piece_of
