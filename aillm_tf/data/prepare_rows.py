"""Token ids to shards: pack the documents of a split into rows and write them, one finished shard after the other."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from aillm_tf.data.packing import Pieces, pack
from aillm_tf.data.prepare_parts import quiet
from aillm_tf.data.prepare_tokens import Around, Tokens
from aillm_tf.data.shard_files import Layout, records
from aillm_tf.files import atomic_file, write_atomic

SHARD = 256 << 20  # bytes of a shard, about
_BLOCK = 2048  # rows made at a time


def lengths_file(split: str) -> str:
    """The file with the tokens of every row of a split, so that opening it reads no row."""
    return f"{split}-lengths.npy"


def write_split(
    folder: Path, work: Path, split: str, documents: np.ndarray, tokens: Tokens, ends: Around, layout: Layout,
    pad_id: int, progress: bool,
) -> dict[str, Any]:  # fmt: skip
    """Pack and write a split, shards that are done excepted.

    Args:
        folder: of the shards.
        work: the work folder, which remembers what was written.
        split: "train" or "validation".
        documents: (documents,) int64 the documents in their order; one may stand there several times.
        tokens: their ids.
        ends: special tokens; those of every piece are put around it here.
        layout: of the rows.
        pad_id: fills a row.
        progress: whether to draw a bar.

    Returns:
        What the manifest says of the split.
    """
    around = len(ends.before) + len(ends.after) if ends.every_piece else 0
    documents = documents[tokens.lengths[documents] > 0]
    lengths = tokens.lengths[documents]
    pieces = pack(lengths, layout.length, around)
    edges = np.searchsorted(pieces.row, np.arange(int(pieces.row[-1]) + 2 if len(pieces.row) else 1))
    rows = len(edges) - 1
    writer = _Rows(pieces, edges, documents, tokens, ends, layout, pad_id)
    each = max(_BLOCK, SHARD // layout.record)
    count = -(-rows // each)
    shards = []
    with tqdm(total=rows, desc=f"write {split}", unit="row", disable=quiet(progress)) as bar:
        for shard in range(count):
            name = f"{split}-{shard:05d}-of-{count:05d}.tfrecord"
            first, last = shard * each, min(rows, (shard + 1) * each)
            done = work / f"{name}.json"
            if not done.is_file():
                digest = hashlib.sha256()
                with atomic_file(folder / name) as file:
                    for begin in range(first, last, _BLOCK):
                        block = writer.make(begin, min(last, begin + _BLOCK)).data
                        file.write(block)
                        digest.update(block)
                        bar.update(min(last, begin + _BLOCK) - begin)
                entry = {"name": name, "rows": last - first, "bytes": (last - first) * layout.record}
                write_atomic(done, json.dumps({**entry, "sha256": digest.hexdigest()}))
            else:
                bar.update(last - first)
            shards.append(json.loads(done.read_text()))
    filled = np.diff(np.concatenate([[0], np.cumsum(pieces.count + around)])[edges])
    with atomic_file(folder / lengths_file(split)) as file:
        np.save(file, filled.astype(np.int32))
    held, size = int(filled.sum()), int(tokens.parts.sizes[documents].sum())
    return {
        "documents": len(documents),
        "rows": rows,
        "tokens": held,
        "segments": len(pieces.row),
        "cut_documents": int((np.bincount(pieces.document, minlength=1) > 1).sum()),
        "bytes": size,
        "bytes_per_token": size / max(held, 1),
        "filled": held / max(rows * layout.length, 1),
        "rows_by_fill": np.histogram(filled / layout.length, np.linspace(0, 1, 11))[0].tolist(),
        "shards": shards,
    }


class _Rows:
    """Makes rows by number."""

    def __init__(
        self, pieces: Pieces, edges: np.ndarray, documents: np.ndarray, tokens: Tokens, ends: Around, layout: Layout,
        pad_id: int,
    ):  # fmt: skip
        self.edges, self.layout, self.pad_id = edges, layout, pad_id
        owner = documents[pieces.document]
        self.part = np.searchsorted(tokens.parts.first, owner, "right") - 1
        self.at = tokens.offsets[owner] + pieces.start
        self.count, self.files = pieces.count, tokens.open()
        none = ends.before[:0]
        self.before, self.after = (ends.before, ends.after) if ends.every_piece else (none, none)

    def make(self, first: int, last: int) -> np.ndarray:
        """(rows, record) uint8."""
        shape = (last - first, self.layout.length)
        ids, starts = np.full(shape, self.pad_id, self.layout.dtype), np.zeros(shape, bool)
        filled = np.zeros(last - first, np.int64)
        for row in range(first, last):
            line, at = ids[row - first], 0
            for piece in range(self.edges[row], self.edges[row + 1]):
                begin, count = self.at[piece], int(self.count[piece])
                starts[row - first, at] = True
                for values in (self.before, self.files[self.part[piece]][begin : begin + count], self.after):
                    line[at : at + len(values)] = values
                    at += len(values)
            filled[row - first] = at
        return records(self.layout, ids, starts, filled)
