"""Tokenizers as TensorFlow ops, for SavedModels that take strings: the same ids as `Tokenizer.encode`.

The parts of a tokenizer.json become modules, each in a file beside this one: WordPiece with BERT's clean-up
(graph_wordpiece), byte-level and SentencePiece BPE (graph_bpe), Unigram (graph_unigram); their normalizers
(graph_normalize), pre-tokenizers (graph_split) and decoders (graph_decode). Here is what they share: the special tokens
around texts, truncation and padding. A part that the graph does not know is refused by name when the graph is built.

As on the host, literal special tokens in a text ("[SEP]", "</s>") are ordinary text, except the mask token, which is
the mask token. Bytes that are not UTF-8 cannot be given to the host; the graph reads them as
``bytes.decode(errors="replace")`` would.

Known differences: where a normalizer decomposes characters and strips accents (BERT, ALBERT), runs of two or more
combining marks that stay (spacing marks such as U+1D16D U+1D165, and marks newer than the Unicode 8 tables of the
tokenizers library) are put into canonical order by the host and left as they are by the graph. That shows only where
both marks are in the vocabulary; otherwise the word is unknown on both sides. Marian's pieces for the other side of a
translation are found in the graph also behind characters that the normalizer drops, where the host answers unknown.
`mismatches` finds such texts. Places, under SentencePiece's character map (T5, ALBERT, XLM-R): beside a control
character that is dropped, behind a character that became several ("¼"), the tokenizers library counts one off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from aillm_tf.text.graph_bpe import MergeWords, byte_of_letter, words_apart
from aillm_tf.text.graph_decode import Decoder
from aillm_tf.text.graph_unigram import BestPieces
from aillm_tf.text.graph_wordpiece import WordPieceTokens
from aillm_tf.text.graph_words import WordTokens
from aillm_tf.text.tokenizer import Tokenizer

__all__ = ["graph_tokenizer", "mismatches"]

SIDES = ("right", "left")


def graph_tokenizer(tokenizer: Tokenizer, max_length: int, padding_side: str = "right") -> GraphTokenizer:
    """The tokenizer as a tf.Module, to be an attribute of a module that is saved.

    Args:
        tokenizer: WordPiece with BERT's clean-up, byte-level BPE, SentencePiece BPE or Unigram.
        max_length: tokens of a row at most, special tokens counted.
        padding_side: "right", or "left" for models that go on from the last token.

    Returns:
        A module to call with text (batch,) string and, for pairs, a second (batch,) string. It answers
        {"token_ids": (batch, longest) int32, "segment_ids": (batch, longest) int32}, padded with the pad token to the
        longest row of the batch and truncated exactly like `Tokenizer.encode`. Its method ``with_offsets`` adds where
        each token stands in its text, as `Tokenizer.encode_spans` says it; ``tokens_with_offsets`` does that for whole
        texts without special tokens, ``tokens`` without their places, too; ``decode`` turns ids back into text.

    Raises:
        NotImplementedError: for rules that the graph does not know; the rule is named.
        ValueError: for a vocabulary with a token twice, no pad token, or a max_length without room for the special
            tokens.

    Example:
        >>> vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ed", "."]
        >>> tokenize = graph_tokenizer(Tokenizer.from_vocabulary(vocabulary), max_length=16)
        >>> tokenize(tf.constant(["Played.", "play"]))["token_ids"].numpy().tolist()
        [[2, 5, 6, 7, 3], [2, 5, 3, 0, 0]]
    """
    return GraphTokenizer(tokenizer, max_length, padding_side)


def mismatches(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    """The texts whose ids in the graph differ from those on the host: none, but for what the module text names.

    Args:
        tokenizer: a tokenizer that `graph_tokenizer` takes.
        texts: what to compare, e.g. the evaluation data of the model to be exported.
    """
    if tokenizer.pad_id is None:
        tokenizer = tokenizer.with_special_tokens(pad=tokenizer.vocabulary[0])
    encoded = tokenizer.encode(texts)
    lengths = np.diff(encoded.offsets)
    tokenize = graph_tokenizer(tokenizer, max_length=int(lengths.max(initial=2)) + 8)
    call = tf.function(tokenize, input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    different = []
    for start in range(0, len(texts), 1024):
        rows = texts[start : start + 1024]
        answers = call(tf.constant([row.encode() for row in rows]))["token_ids"].numpy()
        for number, (text, answer) in enumerate(zip(rows, answers, strict=True), start):
            expected = encoded.ids[encoded.offsets[number] : encoded.offsets[number + 1]]
            padding = answer[len(expected) :]
            if not np.array_equal(answer[: len(expected)], expected) or (padding != tokenizer.pad_id).any():
                different.append(text)
    return different


class Part(NamedTuple):
    """A part of a row: a special token, or one of the texts where token is None."""

    token: int | None
    text: int
    segment: int


class GraphTokenizer(tf.Module):
    """See `graph_tokenizer`."""

    def __init__(self, tokenizer: Tokenizer, max_length: int, padding_side: str = "right"):
        super().__init__(name="graph_tokenizer")
        if padding_side not in SIDES:
            raise ValueError(f"padding_side={padding_side!r} is not known; choose one of {', '.join(SIDES)}")
        description = json.loads(tokenizer.json)
        self._tokens = _tokens_module(tokenizer, description)
        if tokenizer.pad_id is None:
            raise ValueError(
                "the graph pads the rows of a batch, and this tokenizer has no pad token: name one, as in "
                'tokenizer.with_special_tokens(pad="<|endoftext|>")'
            )
        tokenizer.check_max_length(max_length, pair=False)
        self.max_length = max_length
        self._pad, self._left = tokenizer.pad_id, padding_side == "left"
        self._templates = (_template(description, pair=False), _template(description, pair=True))
        self._decoder = Decoder(tokenizer, description)
        _check_templates(tokenizer, self._templates)

    def __call__(self, text: tf.Tensor, pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        # Strings live on the CPU; without this the integers between would travel to an accelerator and back.
        with tf.device("CPU:0"):
            tokens = [self._tokens(text) for text in ([text] if pair is None else [text, pair])]
            rows = self._rows([{"token_ids": part} for part in tokens])
            return {name: rows[name] for name in ("token_ids", "segment_ids")}

    def with_offsets(self, text: tf.Tensor, pair: tf.Tensor | None = None) -> dict[str, tf.Tensor]:
        """Tokens with their places in the texts.

        Args:
            text: (batch,) string.
            pair: (batch,) string, the second texts, if any.

        Returns:
            As the call, with "starts" and "ends", (batch, longest) int32: the token stands for the characters
            ``text[start:end]`` of its text (of the pair's where segment_ids or the place behind the separator say so);
            0 and 0 for special tokens and padding.

        Raises:
            NotImplementedError: for normalizers that do not say what became of which character (NFC and its kin).
        """
        with tf.device("CPU:0"):
            return self._rows([self.tokens_with_offsets(text) for text in ([text] if pair is None else [text, pair])])

    def tokens(self, text: tf.Tensor) -> tf.RaggedTensor:
        """Ids (texts, tokens) int32 of whole texts without special tokens around them."""
        with tf.device("CPU:0"):
            return self._tokens(text)

    def tokens_with_offsets(self, text: tf.Tensor) -> dict[str, tf.RaggedTensor]:
        """As `with_offsets`, (texts, tokens) int32 each, of whole texts without special tokens around them."""
        with tf.device("CPU:0"):
            return self._tokens.with_offsets(text)

    def decode(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """(batch, tokens) integer ids to (batch,) string, as `Tokenizer.decode` does it."""
        with tf.device("CPU:0"):
            return self._decoder(ids)

    def _rows(self, texts: list[dict[str, tf.RaggedTensor]]) -> dict[str, tf.Tensor]:
        """Puts special tokens around texts, cuts and pads. Columns other than token_ids are 0 beside the texts."""
        template = self._templates[len(texts) - 1]
        special = len(template) - len(texts)
        if self.max_length < max(special, 1):
            raise ValueError(f"max_length={self.max_length} has no room for the {special} special tokens of a row")
        kept = _truncate([text["token_ids"].row_lengths() for text in texts], self.max_length - special)
        lengths = tf.add_n(kept) + special
        # The 0 is for a batch without rows.
        longest = tf.reduce_max(tf.concat([lengths, [0]], 0))
        position = tf.range(longest)[tf.newaxis]  # (1, longest)
        if self._left:
            position -= (longest - lengths)[:, tf.newaxis]  # (batch, longest)
        start = tf.zeros_like(kept[0])[:, tf.newaxis]  # (batch, 1), of the part in its row
        shape = tf.broadcast_dynamic_shape(tf.shape(position), tf.shape(start))
        rows = {name: tf.zeros(shape, tf.int32) for name in (*texts[0], "segment_ids")}
        rows["token_ids"] += self._pad
        for part in template:
            length = tf.ones_like(start) if part.token is not None else kept[part.text][:, tf.newaxis]
            within = position - start  # (batch, longest), place in the part
            inside = (within >= 0) & (within < length)
            if part.segment:
                rows["segment_ids"] = tf.where(inside, part.segment, rows["segment_ids"])
            if part.token is not None:
                rows["token_ids"] = tf.where(inside, part.token, rows["token_ids"])
            else:
                for name, column in texts[part.text].items():
                    values = tf.concat([column.values, [0]], 0)
                    source = column.row_starts()[:, tf.newaxis] + within
                    source = tf.clip_by_value(source, 0, tf.size(values, tf.int64) - 1)
                    rows[name] = tf.where(inside, tf.gather(values, source), rows[name])
            start += length
        return rows


def _truncate(lengths: list[tf.Tensor], room: int) -> list[tf.Tensor]:
    """How many tokens of each text, (batch,) each, stay in a row with room for so many, special tokens not counted.

    Longest first, as the tokenizers library does it: where both texts must be cut they get half of the room each,
    and of an odd room the longer one, or the second of two equal ones, gets one token more.
    """
    if len(lengths) == 1:
        return [tf.minimum(lengths[0], room)]
    first, second = lengths
    shorter, longer = tf.minimum(first, second), tf.maximum(first, second)
    fits = shorter + longer <= room
    only_longer = 2 * shorter <= room
    keep_shorter = tf.where(fits | only_longer, shorter, room // 2)
    keep_longer = tf.where(fits, longer, tf.where(only_longer, room - shorter, room // 2 + room % 2))
    swapped = first > second
    return [tf.where(swapped, keep_longer, keep_shorter), tf.where(swapped, keep_shorter, keep_longer)]


def _tokens_module(tokenizer: Tokenizer, description: Mapping) -> tf.Module:
    """What turns texts into tokens without special tokens around them."""
    if tokenizer.kind == "wordpiece":
        return WordPieceTokens(tokenizer, description)
    # The host's own backend: special tokens have names there that no text holds, so that no text becomes them.
    description = json.loads(tokenizer.backend().to_str())
    structural = set(tokenizer.structural_ids)
    extracted = [token for token in description["added_tokens"] if token["id"] not in structural]
    model = description["model"]
    byte_level = tokenizer.kind == "bpe" and '"ByteLevel"' in json.dumps(description["pre_tokenizer"])
    words = _whole_words(tokenizer.backend().model, model, structural, byte_level)
    if tokenizer.kind == "unigram":
        pieces = [("" if index in structural else piece, score) for index, (piece, score) in enumerate(model["vocab"])]
        own = BestPieces({**model, "vocab": pieces}, tokenizer.other_side, tokenizer.vocab_size)
        words = {word: i for word, i in words.items() if i < own.size}
        return WordTokens(description, extracted, own, words, tokenizer.space_ids)
    if not byte_level:
        description["pre_tokenizer"] = words_apart(description)
    return WordTokens(description, extracted, MergeWords(model, byte_level), words, tokenizer.space_ids)


def _whole_words(host, model: Mapping, structural: set[int], byte_level: bool) -> dict[bytes, int]:
    """The words that the host makes one token of, with their ids."""
    vocab = model["vocab"]
    ids = vocab.items() if isinstance(vocab, dict) else ((piece, index) for index, (piece, _) in enumerate(vocab))
    bytes_of = byte_of_letter()
    words = {}
    for word, index in ids:
        if index in structural or not word or [token.id for token in host.tokenize(word)] != [index]:
            continue
        if not byte_level:
            words[word.encode()] = index
        elif bytes_of.keys() >= set(word):
            words[bytes(bytes_of[letter] for letter in word)] = index
    return words


def _template(description: Mapping, pair: bool) -> list[Part]:
    """The parts of a row, from the post_processor of a tokenizer.json."""
    processors = _flat(description["post_processor"])
    processors = [processor for processor in processors if processor["type"] != "ByteLevel"]
    if len(processors) > 1:
        raise NotImplementedError(f"the graph knows one post-processor; tokenizer.json has {len(processors)}")
    if not processors:
        return [Part(None, text, text) for text in range(2 if pair else 1)]
    processor = processors[0]
    kind = processor["type"]
    if kind == "TemplateProcessing":
        parts = []
        for item in processor["pair" if pair else "single"]:
            (what, value), *_ = item.items()
            if what == "Sequence":
                parts.append(Part(None, "AB".index(value["id"]), value["type_id"]))
            else:
                ids = processor["special_tokens"][value["id"]]["ids"]
                parts += [Part(index, 0, value["type_id"]) for index in ids]
        return parts
    if kind in ("BertProcessing", "RobertaProcessing"):
        cls, sep = (processor[name][1] for name in ("cls", "sep"))
        single = [Part(cls, 0, 0), Part(None, 0, 0), Part(sep, 0, 0)]
        if kind == "BertProcessing":
            return single + ([Part(None, 1, 1), Part(sep, 0, 1)] if pair else [])
        return single + ([Part(sep, 0, 0), Part(None, 1, 0), Part(sep, 0, 0)] if pair else [])
    raise NotImplementedError(f"the graph has no post-processor {kind!r}")


def _flat(processor: Mapping | None) -> list[Mapping]:
    if processor is None:
        return []
    if processor["type"] == "Sequence":
        return [part for inner in processor["processors"] for part in _flat(inner)]
    return [processor]


def _check_templates(tokenizer: Tokenizer, templates: Sequence[Sequence[Part]]) -> None:
    for number, template in enumerate(templates, 1):
        if sorted(part.text for part in template if part.token is None) != list(range(number)):
            raise NotImplementedError("the graph needs every text of a row once; tokenizer.json does otherwise")
        expected = [part.token for part in template if part.token is not None]
        if tokenizer.encode(*([""] for _ in range(number))).ids.tolist() != expected:
            raise NotImplementedError("the graph puts other special tokens around texts than the host does")
