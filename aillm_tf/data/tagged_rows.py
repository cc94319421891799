"""Tagged sentences as rows of token ids with a label at the first token of every word.

Notable here:
- A sentence longer than a row becomes several that overlap. Every word is learned and scored in one of them, the one
  in which it has most context on its shorter side.
- A token of the corpus ("It's") may be several words (`aillm_tf.text.graph_alignment`). Those of entities are all
  learned, so that raw text is read as it was trained; of the others, if so wanted, only the first, which says what the
  token is when it is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from aillm_tf.data.conll import Tagged
from aillm_tf.data.pipeline import Ragged
from aillm_tf.data.tags import OUTSIDE, split_tag
from aillm_tf.text.graph_alignment import word_alignment
from aillm_tf.text.tokenizer import Tokenizer


class Pieces(NamedTuple):
    """Tokens of texts without special tokens; those of text i are ``splits[i]`` to ``splits[i + 1]``.

    Args:
        ids: int32 (tokens,).
        starts, ends: int32 (tokens,), characters of its text that a token stands for.
        splits: int64 (texts + 1,).
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    splits: np.ndarray


def pieces_of(tokenizer: Tokenizer, texts: Sequence[str]) -> Pieces:
    """Tokenize texts of any length."""
    encoded = tokenizer.encode_spans(texts)
    inside = encoded.text_ids >= 0
    before = np.concatenate([[0], np.cumsum(inside)])
    starts, ends = encoded.spans[inside].T
    return Pieces(encoded.ids[inside], starts, ends, before[encoded.offsets])


def special_tokens_around(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids that stand before and behind a single text."""
    encoded = tokenizer.encode_spans(["a"])
    inside = np.flatnonzero(encoded.text_ids >= 0)
    if not len(inside):
        raise ValueError("this tokenizer makes nothing of the text 'a': where its special tokens stand is not known")
    return encoded.ids[: inside[0]].tolist(), encoded.ids[inside[-1] + 1 :].tolist()


class LabelIds:
    """Numbers of tags, and what they are: arrays by number.

    Args:
        labels: tags of IOB2 or BIOES, by number.

    Attributes: ``types`` (names of types), ``type_ids`` (-1 for O), ``outside`` (number of O), ``begins`` (B and S),
    ``ends`` (E and S), ``inside`` and ``begin``, the number of the tag of the same type that continues or begins an
    entity, and ``continues`` (never the first of an entity).
    """

    def __init__(self, labels: Sequence[str]):
        self.labels = list(labels)
        parts = [split_tag(label) for label in labels]
        if OUTSIDE not in self.labels or len(set(self.labels)) != len(self.labels) or len(self.labels) < 2:
            raise ValueError(f"labels of entities are different tags and one of them is O, not {self.labels}")
        self.outside = self.labels.index(OUTSIDE)
        self.types = sorted({kind for _, kind in parts} - {""})
        self.type_ids = np.array([self.types.index(kind) if kind else -1 for _, kind in parts], np.int32)
        self.begins = np.array([prefix in ("B", "S") for prefix, _ in parts])
        self.ends = np.array([prefix in ("E", "S") for prefix, _ in parts])
        self._numbers = {part: number for number, part in enumerate(parts)}
        self.inside = np.array([self._number("I", kind) for _, kind in parts], np.int32)
        self.begin = np.array([self._number("B", kind) for _, kind in parts], np.int32)
        self.continues = (self.type_ids >= 0) & ~self.begins & (self.begin != np.arange(len(parts)))

    def _number(self, prefix: str, kind: str) -> int:
        """Of a tag; of another one of its type where a head has only these (only I- in IOB1, say)."""
        if not kind:
            return self.outside
        there = [self._numbers[p, kind] for p in (prefix, "B", "I", "S", "E") if (p, kind) in self._numbers]
        return there[0]

    def numbers(self, tags: Sequence[str]) -> np.ndarray:
        """The numbers of IOB2 tags; that of O for a type that no label has."""
        found = [split_tag(tag) for tag in tags]
        return np.array([self._number(p, kind if kind in self.types else "") for p, kind in found], np.int32)

    def follows(self) -> np.ndarray:
        """bool (labels, labels): column may stand behind row."""
        allowed = np.ones((len(self.labels), len(self.labels)), bool)
        for number in np.flatnonzero(self.continues):
            allowed[:, number] = (self.type_ids == self.type_ids[number]) & ~self.ends
        return allowed


class TaggedRows(NamedTuple):
    """Rows for a `Dataset`, and where in them each token of the corpus is scored.

    Args:
        columns: "token_ids"; "words", 1 where a label is predicted; "targets", 1 + the number of the label where it is
            learned and scored in this row, else 0, as in padding; and "opens" (rows,), 1 where a row begins its
            sentence.
        sentences: (rows,) the sentence of each row.
        rows, places: (corpus tokens,) where the label of each is predicted; row -1: nowhere, the tokenizer makes
            nothing of it.
        goes_on: bool (corpus tokens,), the label is that of a word which began in the token before.
        splits: (sentences + 1,), of the corpus tokens.
    """

    columns: dict[str, Ragged | np.ndarray]
    sentences: np.ndarray
    rows: np.ndarray
    places: np.ndarray
    goes_on: np.ndarray
    splits: np.ndarray

    def tags(self, predicted: np.ndarray, labels: LabelIds) -> list[list[str]]:
        """Tags of the sentences, from label numbers (rows, length)."""
        found = np.where(self.rows < 0, labels.outside, predicted[self.rows, self.places])
        found = np.where(self.goes_on, labels.inside[found], found)
        names = np.array(labels.labels, object)[found]
        return [part.tolist() for part in np.split(names, self.splits[1:-1])]


def tagged_rows(
    rows: Tagged,
    tokenizer: Tokenizer,
    labels: LabelIds,
    max_length: int,
    overlap: int,
    every_piece: bool = False,
    outside_once: bool = False,
) -> TaggedRows:
    """Tokenize sentences and give their tokens labels.

    Args:
        rows: the sentences.
        tokenizer: of the model.
        labels: of the model.
        max_length: tokens of a row, special ones counted.
        overlap: tokens that neighbouring rows of a long sentence share.
        every_piece: the further tokens of a word have labels too.
        outside_once: the further words of a token that is outside of entities are not learned.
    """
    pieces = pieces_of(tokenizer, rows.texts)
    unit_splits = np.cumsum([0, *map(len, rows.spans)])
    spans = np.concatenate([np.zeros((0, 2), np.int64), *rows.spans])
    with tf.device("CPU:0"):
        align = word_alignment()
        words = align(tf.constant(rows.texts, tf.string), *map(tf.constant, pieces[1:]))
        spoken, goes_on = align.speakers(words, *map(tf.constant, (spans[:, 0], spans[:, 1], unit_splits)))
    begins, tokens, firsts, _, _, splits, bases = (part.numpy() for part in words)
    spoken, goes_on = spoken.numpy(), goes_on.numpy()
    tags = np.concatenate([np.zeros(0, np.int32), *map(labels.numbers, rows.tags)])

    # The label of a word is that of the token its first character is in.
    text = np.repeat(np.arange(len(bases)), np.diff(splits))  # of each word
    unit = np.searchsorted(spans[:, 0] + np.repeat(bases, np.diff(unit_splits)), firsts + bases[text], "right") - 1
    again = np.append(False, unit[1:] == unit[:-1])
    label = np.where(again, labels.inside[tags[unit]], tags[unit]).astype(np.int32)
    kind = labels.type_ids[label]
    before = np.where(np.append(True, text[1:] != text[:-1]), -1, np.append(-1, kind[:-1]))
    label = np.where(kind != before, labels.begin[label], label)

    flags, targets = begins.astype(np.int32), np.full(len(begins), -1, np.int32)
    # those of addresses and @names teach that rare words are outside, and recall falls
    targets[tokens] = np.where(outside_once & again & (label == labels.outside), -1, label)
    if every_piece:
        word = np.cumsum(begins) - 1
        piece_text = np.repeat(np.arange(len(bases)), np.diff(pieces.splits))
        inside = (word >= 0) & ~begins
        inside[inside] = text[word[inside]] == piece_text[inside]
        targets[inside] = labels.inside[label[word[inside]]]
        flags = (targets >= 0).astype(np.int32)

    around = special_tokens_around(tokenizer)
    cut = windows(pieces.splits, max_length - sum(map(len, around)), overlap)
    columns = _columns(pieces, flags, targets, around, cut)
    columns["opens"] = (cut.firsts == pieces.splits[cut.texts]).astype(np.int32)
    piece = np.where(spoken < 0, 0, tokens[spoken] if len(tokens) else 0)
    row = np.where(spoken < 0, -1, cut.owner[piece]) if len(cut.owner) else np.full(len(spoken), -1)
    place = np.where(row < 0, 0, len(around[0]) + piece - cut.firsts[row])
    return TaggedRows(columns, cut.texts, row, place, goes_on, unit_splits)


class Windows(NamedTuple):
    """Stretches of tokens that overlap. Stretch i is ``firsts[i]`` to ``lasts[i]``.

    Args:
        firsts, lasts: (windows,), counted over the tokens of all texts.
        texts: (windows,) the text of each.
        owner: (tokens,) the window in which each token is to be looked at.
    """

    firsts: np.ndarray
    lasts: np.ndarray
    texts: np.ndarray
    owner: np.ndarray


def windows(splits: np.ndarray, room: int, overlap: int) -> Windows:
    """Cut texts into stretches of at most `room` tokens; `aillm_tf.tasks.tagging_graph` has the same in a graph.

    Example:
        >>> cut = windows(np.array([0, 10]), room=6, overlap=2)
        >>> cut.firsts.tolist(), cut.lasts.tolist(), cut.owner.tolist()
        ([0, 4], [6, 10], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    """
    step, lengths = room - overlap, np.diff(splits)
    counts = 1 + np.maximum(0, -(-(lengths - room) // step))
    texts = np.repeat(np.arange(len(lengths)), counts)
    first_window = np.cumsum(counts) - counts
    number = np.arange(len(texts)) - first_window[texts]
    # The last one reaches back as far as it can.
    firsts = np.minimum(number * step, np.maximum(lengths - room, 0)[texts])
    lasts = np.minimum(firsts + room, lengths[texts])
    text = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(text)) - splits[text]
    own = np.clip((place - overlap // 2) // step, 0, counts[text] - 1)
    return Windows(firsts + splits[texts], lasts + splits[texts], texts, first_window[text] + own)


def _columns(pieces: Pieces, flags, targets, around: tuple[list[int], list[int]], cut: Windows) -> dict[str, Ragged]:
    """Windows with special tokens around them; a target counts in its own window only."""
    front, back = (len(part) for part in around)
    lengths = cut.lasts - cut.firsts
    offsets = np.concatenate([[0], np.cumsum(lengths + front + back)])
    row = np.repeat(np.arange(len(lengths)), lengths + front + back)
    within = np.arange(offsets[-1]) - offsets[row] - front
    inside = (within >= 0) & (within < lengths[row])
    token = (cut.firsts[row] + within)[inside]
    ids = np.zeros(len(row), np.int32)
    ids[within < 0] = np.tile(np.array(around[0], np.int32), len(lengths))
    ids[within >= lengths[row]] = np.tile(np.array(around[1], np.int32), len(lengths))
    ids[inside] = pieces.ids[token]
    words, labels = np.zeros(len(row), np.int32), np.zeros(len(row), np.int32)
    words[inside] = flags[token]
    labels[inside] = np.where(cut.owner[token] == row[inside], 1 + targets[token], 0)
    columns = {"token_ids": ids, "words": words, "targets": labels}
    return {name: Ragged(column, offsets.astype(np.int64)) for name, column in columns.items()}
