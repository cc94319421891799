"""TFRecord shards whose records all have one size, so that row i lies at a place one can compute.

A record is a tf.train.Example with three strings of raw little-endian numbers: "token_ids" (row length), uint16 or
int32; "starts", a bit for each position, set where a document begins; "tokens", uint32, how many positions are no
padding. Any TFRecord reader reads them; this file writes and reads whole blocks of them in numpy.

Notable here: the records' checksums (masked CRC-32C) are computed for a block of rows at once, column by column.

Reference:
    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import functools
import hashlib
import json
from typing import NamedTuple

import numpy as np


def vocabulary_hash(tokenizer) -> str:
    """sha256 of the tokens in the order of their ids: equal for tokenizers whose ids mean the same."""
    return hashlib.sha256(
        json.dumps(tokenizer.vocabulary, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ).hexdigest()


class Layout(NamedTuple):
    """Where what stands in a record.

    Args:
        length: tokens of a row.
        dtype: of an id, "<u2" or "<i4".
    """

    length: int
    dtype: str

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each feature."""
        return {"token_ids": self.length * np.dtype(self.dtype).itemsize, "starts": -(-self.length // 8), "tokens": 4}

    @property
    def record(self) -> int:
        """Bytes of a record, with TFRecord's frame."""
        return len(self.frame)

    @property
    def frame(self) -> np.ndarray:
        """(record,) uint8, a record with zeros in place of the numbers and of the last checksum."""
        return _frame(self)[0]

    @property
    def places(self) -> dict[str, slice]:
        """Bytes of each feature in a record."""
        return _frame(self)[1]


@functools.cache
def _frame(layout: Layout) -> tuple[np.ndarray, dict[str, slice]]:
    entries, offset, places = b"", 0, {}
    for name, size in layout.sizes.items():
        feature = _field(1, _field(1, bytes(size)))  # a Feature with a BytesList of one
        entry = _field(1, _field(1, name.encode()) + _field(2, feature))  # of the map in Features
        places[name] = slice(offset + len(entry) - size, offset + len(entry))
        entries, offset = entries + entry, offset + len(entry)
    example = _field(1, entries)
    head = len(example) - len(entries) + 12
    places = {name: slice(place.start + head, place.stop + head) for name, place in places.items()}
    length = np.frombuffer(np.array([len(example)], "<u8").tobytes(), np.uint8)
    frame = length.tobytes() + checksums(length[None]).tobytes() + example + bytes(4)
    return np.frombuffer(frame, np.uint8), places


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    size, head = len(payload), [number << 3 | 2]
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + payload


@functools.cache
def _crc_table() -> np.ndarray:
    """(65536,) uint32: CRC-32C of two bytes."""
    crc = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        crc = (crc >> np.uint32(1)) ^ np.where(crc & np.uint32(1), np.uint32(0x82F63B78), np.uint32(0))
    return crc


def checksums(rows: np.ndarray) -> np.ndarray:
    """Masked CRC-32C of each row: (rows, bytes) uint8 to (rows,) "<u4".

    Example:
        >>> hex(checksums(np.frombuffer(b"123456789", np.uint8)[None])[0])
        '0xc78ab0e5'
    """
    table, half = _crc_table(), np.uint32(16)
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    even = rows.shape[1] // 2 * 2
    words = np.ascontiguousarray(np.ascontiguousarray(rows[:, :even]).view("<u2").T)
    for word in words:
        crc = table[(crc ^ word) & np.uint32(0xFFFF)] ^ (crc >> half)
    if rows.shape[1] > even:
        crc = table[((crc ^ rows[:, even]) & np.uint32(0xFF)) << np.uint32(8)] ^ (crc >> np.uint32(8))
    crc = ~crc
    return ((crc >> np.uint32(15) | crc << np.uint32(17)) + np.uint32(0xA282EAD8)).astype("<u4")


def records(layout: Layout, token_ids: np.ndarray, starts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Rows to records.

    Args:
        layout: of the shard.
        token_ids: (rows, length) ids.
        starts: (rows, length) bool, where a document begins.
        tokens: (rows,) positions that are no padding.

    Returns:
        (rows, record) uint8, what a shard holds.
    """
    made = np.tile(layout.frame, (len(token_ids), 1))
    raw = {
        "token_ids": np.ascontiguousarray(token_ids, layout.dtype).view(np.uint8),
        "starts": np.packbits(starts, axis=1, bitorder="little"),
        "tokens": np.ascontiguousarray(tokens, "<u4").reshape(-1, 1).view(np.uint8),
    }
    for name, place in layout.places.items():
        made[:, place] = raw[name]
    made[:, -4:] = checksums(made[:, 12:-4]).reshape(-1, 1).view(np.uint8)
    return made


def sound(layout: Layout, raw: np.ndarray) -> np.ndarray:
    """(rows,) bool, which records have the frame and the checksum that they should: (rows, record) uint8."""
    numbers = np.zeros(layout.record, bool)
    for place in layout.places.values():
        numbers[place] = True
    numbers[-4:] = True
    framed = (raw[:, ~numbers] == layout.frame[~numbers]).all(axis=1)
    return framed & (checksums(raw[:, 12:-4]) == np.ascontiguousarray(raw[:, -4:]).view("<u4")[:, 0])


def columns(layout: Layout, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Records to what a model reads.

    Args:
        layout: of the shard.
        raw: (rows, record) uint8.

    Returns:
        token_ids, packed_ids (1, 2, 3 ... for the documents, 0 at padding), positions (from 0 in each document) and
        valid (1 where there is a token), each (rows, length) int32.
    """
    ids = np.ascontiguousarray(raw[:, layout.places["token_ids"]]).view(layout.dtype).astype(np.int32)
    bits = np.ascontiguousarray(raw[:, layout.places["starts"]])
    starts = np.unpackbits(bits, axis=1, count=layout.length, bitorder="little")
    at = np.arange(layout.length, dtype=np.int32)
    valid = (at < token_counts(layout, raw)[:, None]).astype(np.int32)
    positions = (at - np.maximum.accumulate(np.where(starts, at, 0), axis=1)) * valid
    return ids, np.cumsum(starts, axis=1, dtype=np.int32) * valid, positions, valid


def token_counts(layout: Layout, raw: np.ndarray) -> np.ndarray:
    """(rows,) int32, the positions of each record that are no padding."""
    return np.ascontiguousarray(raw[:, layout.places["tokens"]]).view("<u4")[:, 0].astype(np.int32)
