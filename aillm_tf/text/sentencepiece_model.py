"""SentencePiece model files (spiece.model, tokenizer.model, source.spm, ...), read without the sentencepiece library.

The file is one protocol buffer: pieces with scores and types, how they were trained, how text is normalised. Its wire
format is a run of (field number, value) records, so that a few lines read the fields a tokenizer needs.

Reference:
    https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
    https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

__all__ = ["NORMAL", "UNKNOWN", "SentencePieceModel", "read_sentencepiece"]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
# Field numbers of the messages.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
PIECE, SCORE, TYPE = 1, 2, 3
MODEL_TYPE, SUFFIX, BYTE_FALLBACK, UNK_ID = 3, 24, 35, 40
CHARSMAP, DUMMY_PREFIX, EXTRA_SPACES = 2, 3, 4


@dataclasses.dataclass(frozen=True)
class SentencePieceModel:
    """What a SentencePiece file says.

    Args:
        pieces: (text, score, type) by id; types are NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE.
        kind: "unigram" or "bpe".
        unk_id: id of the unknown piece.
        byte_fallback: characters without a piece become pieces of their bytes.
        charsmap: the compiled normalisation table, empty for none.
        dummy_prefix: a space is put before the text.
        single_spaces: runs of spaces become one, spaces at the ends go.
    """

    pieces: tuple[tuple[str, float, int], ...]
    kind: str
    unk_id: int
    byte_fallback: bool
    charsmap: bytes
    dummy_prefix: bool
    single_spaces: bool

    def of_type(self, *types: int) -> list[str]:
        """Returns the texts of the pieces of these types, by id."""
        return [text for text, _, kind in self.pieces if kind in types]


def read_sentencepiece(data: bytes, name: str) -> SentencePieceModel:
    """Reads a SentencePiece model.

    Args:
        data: the file's bytes.
        name: the file, for messages.

    Raises:
        ValueError: the bytes are no SentencePiece model, or one of a kind other than Unigram and BPE.

    Example:
        >>> from pathlib import Path
        >>> model = read_sentencepiece(Path("spiece.model").read_bytes(), "spiece.model")  # doctest: +SKIP
        >>> model.kind, len(model.pieces)  # doctest: +SKIP
        ('unigram', 32000)
    """
    try:
        fields = list(_fields(data))
        pieces = tuple(_piece(value) for field, value in fields if field == PIECES)
        trainer = _message(fields, TRAINER)
        normalizer = _message(fields, NORMALIZER)
        kind = MODEL_TYPES[trainer.get(MODEL_TYPE, 1)]
        charsmap = bytes(normalizer.get(CHARSMAP, b""))
    except (ValueError, KeyError, TypeError, struct.error, RecursionError) as error:
        raise ValueError(f"{name}: not a SentencePiece model, or cut off ({error})") from error
    if not pieces:
        raise ValueError(f"{name}: a SentencePiece model without a piece; it is empty, cut off or another kind of file")
    if kind not in ("unigram", "bpe"):
        raise ValueError(f"{name}: a SentencePiece model of kind {kind!r}; known are unigram and bpe")
    if trainer.get(SUFFIX, 0):
        raise ValueError(f"{name}: a SentencePiece model that marks the ends of words; only marks at starts are known")
    unknown = [index for index, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN]
    return SentencePieceModel(
        pieces=pieces,
        kind=kind,
        unk_id=unknown[0] if unknown else trainer.get(UNK_ID, 0),
        byte_fallback=bool(trainer.get(BYTE_FALLBACK, 0)),
        charsmap=charsmap,
        dummy_prefix=bool(normalizer.get(DUMMY_PREFIX, 1)),
        single_spaces=bool(normalizer.get(EXTRA_SPACES, 1)),
    )


def _message(fields: list[tuple[int, int | bytes]], number: int) -> dict[int, int | bytes]:
    return {field: value for part, data in fields if part == number for field, value in _fields(data)}


def _piece(data: bytes) -> tuple[str, float, int]:
    fields = dict(_fields(data))
    return fields[PIECE].decode("utf-8"), struct.unpack("<f", fields.get(SCORE, bytes(4)))[0], fields.get(TYPE, NORMAL)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields (field number, value) of a message; numbers are int, everything else is bytes."""
    if not isinstance(data, bytes):
        raise ValueError("a message is expected where a number is")
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire)
            if wire == 2:
                size, at = _varint(data, at)
            if size is None or at + size > len(data):
                raise ValueError(f"broken record at byte {at}")
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError(f"broken number at byte {at}")
        value |= (data[at] & 0x7F) << shift
        shift += 7
        at += 1
        if data[at - 1] < 0x80:
            return value, at
