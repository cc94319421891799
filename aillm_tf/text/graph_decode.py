"""Ids back to text as TensorFlow ops: what `Tokenizer.decode` gives, for exports that generate.

A decoder of the ``tokenizers`` library says what each token looks like as the first of a text and after others; both
are tables here. Bytes are joined before they are read as UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import tensorflow as tf
import tokenizers
from tokenizers import models

from aillm_tf.text.graph_bpe import byte_of_letter
from aillm_tf.text.tokenizer import Tokenizer

BROKEN = "\ufffd"


class Decoder(tf.Module):
    """Ids to strings.

    Args:
        tokenizer: whose `decode` to do.
        description: its tokenizer.json.

    Raises:
        NotImplementedError: for a decoder that has no version in the graph.
    """

    def __init__(self, tokenizer: Tokenizer, description: Mapping):
        super().__init__()
        vocabulary, decoder = tokenizer.vocabulary, description["decoder"]
        dropped = set(tokenizer.structural_ids)
        dropped |= {index for index, token in enumerate(vocabulary) if not token}
        self._dropped = tf.constant([index in dropped for index in range(len(vocabulary))])
        self._bytes, self._lossy, self._strip = None, False, None
        spaces = "".join(character for character in map(chr, range(0x110000)) if character.isspace())
        self._blank = f"[{_literal(spaces)}]" if tokenizer.shares_vocabulary else None
        kind = None if decoder is None else decoder["type"]
        if kind is None:
            first, rest = vocabulary, [f" {token}" for token in vocabulary]
        elif kind in ("WordPiece", "Metaspace"):
            first, rest = _looks(decoder, vocabulary)
        elif kind == "ByteLevel":
            first, self._lossy = [_token_bytes(token) for token in vocabulary], True
            rest = first
        elif kind == "Sequence" and _is_fallback(decoder["decoders"]):
            first = rest = list(vocabulary)
            for part in decoder["decoders"]:
                if part["type"] == "Replace":
                    first = rest = [token.replace(part["pattern"]["String"], part["content"]) for token in first]
                elif part["type"] == "Metaspace":
                    first, rest = _looks(part, vocabulary)
                elif part["type"] == "Strip":
                    self._strip = part
            spelled = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
            first, rest = (
                [spelled.get(token, look) for token, look in zip(vocabulary, looks, strict=True)]
                for looks in (first, rest)
            )
            self._bytes = tf.constant([token in spelled for token in vocabulary])
        else:
            raise NotImplementedError(f"the graph has no decoder {decoder!r}")
        self._first, self._rest = tf.constant(first), tf.constant(rest)

    def __call__(self, ids: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
        """(batch, tokens) int ids to (batch,) string."""
        if not isinstance(ids, tf.RaggedTensor):
            ids = tf.RaggedTensor.from_tensor(ids)
        rows, values, count = ids.value_rowids(), tf.cast(ids.values, tf.int32), ids.nrows()
        size = tf.size(self._dropped)
        kept = (values >= 0) & (values < size) & ~tf.gather(self._dropped, tf.clip_by_value(values, 0, size - 1))
        rows, values = tf.boolean_mask(rows, kept), tf.boolean_mask(values, kept)
        opens = tf.concat([[True], rows[1:] != rows[:-1]], 0)[: tf.size(rows)]
        texts = tf.where(opens, tf.gather(self._first, values), tf.gather(self._rest, values))
        if self._bytes is not None:
            texts, rows = self._join_bytes(texts, tf.gather(self._bytes, values), rows, opens)
        whole = tf.strings.unsorted_segment_join(texts, rows, tf.cast(count, tf.int32))
        if self._lossy:
            whole = tf.strings.unicode_transcode(whole, "UTF-8", "UTF-8", errors="replace")
        if self._strip is not None:
            letter = f"(?:{_literal(self._strip['content'])})"
            whole = tf.strings.regex_replace(whole, f"^{letter}{{0,{self._strip['start']}}}", "")
            whole = tf.strings.regex_replace(whole, f"{letter}{{0,{self._strip['stop']}}}$", "")
        if self._blank is not None:
            whole = tf.strings.regex_replace(whole, f"^{self._blank}+|{self._blank}+$", "")
        return whole

    @staticmethod
    def _join_bytes(texts: tf.Tensor, is_byte: tf.Tensor, rows: tf.Tensor, opens: tf.Tensor):
        """Joins byte tokens side by side; each byte of those that are not UTF-8 together is a replacement character."""
        joined = tf.concat([[False], is_byte[1:] & is_byte[:-1]], 0)[: tf.size(is_byte)] & ~opens
        group = tf.cumsum(tf.cast(~joined, tf.int32)) - 1
        count = tf.reduce_sum(tf.cast(~joined, tf.int32))
        whole = tf.strings.unsorted_segment_join(texts, group, count)
        broken = tf.strings.unsorted_segment_join(tf.where(is_byte, BROKEN, texts), group, count)
        fine = whole == tf.strings.unicode_transcode(whole, "UTF-8", "UTF-8", errors="replace")
        return tf.where(fine, whole, broken), tf.boolean_mask(rows, ~joined)


def _is_fallback(parts: list[Mapping]) -> bool:
    """[Replace..., ByteFallback, Fuse, Strip], as Llama 2 and Gemma have it, or [ByteFallback, Metaspace]."""
    kinds = [part["type"] for part in parts]
    replaces = [part for part in parts if part["type"] == "Replace"]
    fused = ["Replace"] * len(replaces) + ["ByteFallback", "Fuse"]
    literal = all("String" in part["pattern"] for part in replaces)
    return kinds == ["ByteFallback", "Metaspace"] or (literal and kinds in (fused, [*fused, "Strip"]))


def _looks(description: Mapping, vocabulary: Sequence[str]) -> tuple[list[str], list[str]]:
    """What each token looks like as the first of a text, and behind another one."""
    whole = {**json.loads(tokenizers.Tokenizer(models.BPE()).to_str()), "decoder": description}
    decode = tokenizers.Tokenizer.from_str(json.dumps(whole)).decoder.decode
    return [decode([token]) for token in vocabulary], [decode(["a", token])[1:] for token in vocabulary]


def _token_bytes(token: str) -> bytes:
    """The bytes that a token of a byte-level vocabulary stands for; an added token stands for its own text."""
    spelled = [byte_of_letter().get(letter) for letter in token]
    return token.encode() if None in spelled else bytes(spelled)


def _literal(text: str) -> str:
    return "".join(f"\\x{{{ord(letter):x}}}" for letter in text)
