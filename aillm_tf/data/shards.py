"""Prepared corpora as data sets: packed rows, read from the disk by their number.

Notable here: rows are read when a batch needs them; any step can be the first one, at once; a shard that is torn,
changed or missing is named when the corpus is opened, before any step is made with it, and left out only where that is
asked for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.prepare_rows import lengths_file
from aillm_tf.data.shard_files import Layout, columns, sound, vocabulary_hash
from aillm_tf.data.sources import OnBad
from aillm_tf.data.tables import listing

logger = logging.getLogger("aillm_tf")

COLUMNS = ("token_ids", "packed_ids", "positions", "valid")
_BLOCK = 4096  # rows looked at together when all are read
_AGAIN = "copy it again, or prepare the corpus again into an empty folder"


def is_prepared(source: Any) -> bool:
    """Whether this names a folder that ``aillm prepare`` finished; ":split" may follow it.

    Example:
        >>> is_prepared("corpus:validation")
        False
    """
    return isinstance(source, (str, os.PathLike)) and (_folder_and_split(source)[0] / "manifest.json").is_file()


def _folder_and_split(source: str | os.PathLike) -> tuple[Path, str]:
    path = Path(source).expanduser()
    folder, _, split = os.fspath(source).rpartition(":")
    if path.exists() or not folder or not Path(folder).expanduser().is_dir():
        return path, "train"
    return Path(folder).expanduser(), split


class ShardDataset(Dataset):
    """Rows of a prepared corpus; see `aillm_tf.data.pipeline.Dataset` for what it does, `open_shards` to make one.

    A batch has "token_ids", "packed_ids" (1, 2, 3 ... for the documents of a row, 0 at padding), "positions" (from 0
    in each document) and "valid", each (batch, row length) int32; "weight" and "row".

    Attributes: ``manifest``; ``split`` (what the manifest says of it: "rows", "tokens", "segments", "bytes", ...);
    ``tokenizer_folder``; ``bytes_per_token`` (UTF-8 bytes of the text for each token, special tokens counted). Where
    harmed rows were skipped, "rows" and "tokens" are those that are left, and "skipped" is shard -> rows left out;
    "segments", "bytes" and ``bytes_per_token`` stay those of all rows.
    """

    def __init__(
        self,
        folder: Path,
        manifest: dict[str, Any],
        split: str,
        keep: tuple[str, ...] | None,
        bad: dict[str, np.ndarray],
        **options,
    ):
        self.folder, self.manifest, self.split = folder, manifest, manifest["splits"][split]
        self.tokenizer_folder = folder / "tokenizer"
        self.bytes_per_token: float = self.split["bytes_per_token"]
        self.layout = Layout(manifest["length"], manifest["dtype"])
        self._keep = COLUMNS if keep is None else keep
        shards = self.split["shards"]
        self._first = np.cumsum([0, *(shard["rows"] for shard in shards)])
        good = [~bad.get(shard["name"], np.zeros(shard["rows"], bool)) for shard in shards]
        self._rows = np.flatnonzero(np.concatenate(good))  # on the disk, of those that are not left out
        lengths = np.load(folder / lengths_file(split))[self._rows]
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        if bad:
            skipped = {name: int(rows.sum()) for name, rows in bad.items()}
            self.split = {**self.split, "rows": len(self._rows), "tokens": int(lengths.sum()), "skipped": skipped}
            self.manifest = {**manifest, "splits": {**manifest["splits"], split: self.split}}
        super().__init__(
            {"token_ids": Ragged(np.zeros(0, np.int32), offsets)},
            max_length=manifest["length"],
            fixed_length=True,
            **options,
        )
        self.columns = {}  # on the disk

    @property
    def fingerprint(self) -> str:
        """A checksum of the data and its order: equal exactly when every batch is."""
        shards = [shard["sha256"] for shard in self.split["shards"]]
        said = [super().fingerprint, shards, self._keep]
        if "skipped" in self.split:
            said.append(hashlib.sha256(self._rows.tobytes()).hexdigest())
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows by number, -1 for one that only fills a batch.

        Args:
            rows: (batch,) int64.

        Returns:
            token_ids, packed_ids, positions, valid: (batch, length) int32.
        """
        raw = np.zeros((len(rows), self.layout.record), np.uint8)
        stored = np.where(rows < 0, -1, self._rows[np.maximum(rows, 0)])
        shard = np.searchsorted(self._first, stored, "right") - 1
        for number in np.unique(shard[rows >= 0]):
            mine = np.flatnonzero(shard == number)
            self._fill(raw, mine, stored[mine] - self._first[number], self.split["shards"][number]["name"])
        found = columns(self.layout, raw)
        found[0][rows < 0] = self.manifest["pad_id"]
        return found

    def _fill(self, raw: np.ndarray, mine: np.ndarray, rows: np.ndarray, name: str) -> None:
        """Reads rows of one shard into raw[mine]."""
        # Not mapped: a page fault on a disk that hangs would stop every thread, and one on a cut file the process.
        with open(self.folder / name, "rb", buffering=0) as file:
            for i, row in zip(mine, rows, strict=True):
                file.seek(row * self.layout.record)
                if file.readinto(raw[i]) != self.layout.record:
                    raise OSError(f"{self.folder / name}: the shard was cut short while it was in use: {_AGAIN}")

    def segments(self) -> Ragged:
        """All documents (those longer than a row, in pieces) with their special tokens, read into memory."""
        ids, counts = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for begin in range(0, len(self), _BLOCK):
            token_ids, _, positions, valid = self.read(np.arange(begin, min(len(self), begin + _BLOCK)))
            inside = valid > 0
            ids.append(token_ids[inside])
            starts = np.flatnonzero(positions[inside] == 0)
            counts.append(np.diff(np.r_[starts, len(ids[-1])]))
        return Ragged(np.concatenate(ids), np.concatenate([[0], np.cumsum(np.concatenate(counts))]))

    def _gather(self, columns: dict, row, lengths, epoch) -> dict:
        values = tf.numpy_function(self.read, [row], [tf.int32] * len(COLUMNS), stateful=False)
        batch = {
            name: tf.ensure_shape(value, (row.shape[0], self.layout.length))
            for name, value in zip(COLUMNS, values, strict=True)
            if name in self._keep
        }
        if "bytes" in self._keep:
            tokens = tf.reduce_sum(values[COLUMNS.index("valid")], axis=1)
            batch["bytes"] = tf.cast(tokens, tf.float32) * self.bytes_per_token
        return self._finish(batch, row, lengths, epoch)


def open_shards(
    source: str | os.PathLike,
    split: str | None = None,
    *,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    noise: Callable | None = None,
    noise_name: str = "",
    keep: tuple[str, ...] | None = None,
    tokenizer=None,
    max_length: int | None = None,
    verify: bool = True,
    on_bad: OnBad = "raise",
) -> ShardDataset:
    """Open a corpus that ``aillm prepare`` wrote.

    Args:
        source: its folder; ":split" may follow it.
        split: "train" (the default) or "validation".
        batch_size: rows of a global batch; or, when it is given,
        tokens_per_batch: rows x length of a global batch.
        shuffle, seed, noise, noise_name: as of `Dataset`; noise sees the columns of a row.
        keep: which of token_ids, packed_ids, positions and valid to give; None: all of them. "bytes", only where it is
            named, is (batch,) float32, the bytes of text of a row, exact over all rows of the split.
        tokenizer: of the model; None: it is not compared with that of the corpus.
        max_length: tokens that a row of the model may have.
        verify: compare every shard with its sha256, which reads it once; False: only with its size.
        on_bad: "raise" at a shard that is missing, torn or corrupt; or "skip" what is harmed, with a warning that
            counts: all rows of a missing or torn shard, and of a corrupt one those whose checksums are wrong.

    Returns:
        :class:`ShardDataset`.

    Raises:
        FileNotFoundError: no prepared corpus, or a shard is missing.
        ValueError: no such split; a shard is torn or changed; another tokenizer; rows that are too long.

    Example:
        >>> data = open_shards("corpus", batch_size=32, shuffle=True)  # doctest: +SKIP
        >>> next(iter(data.batches(first_step=90_000)))["packed_ids"].shape  # doctest: +SKIP
        TensorShape([32, 512])
    """
    folder, named = _folder_and_split(source)
    split = split or named
    if not (folder / "manifest.json").is_file():
        unfinished = (folder / "work").is_dir()
        told = (
            "`aillm prepare` has not finished it: run the same command again"
            if unfinished
            else "no manifest.json there"
        )
        raise FileNotFoundError(f"{folder} is not a prepared corpus: {told}")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if split not in manifest["splits"]:
        raise ValueError(f"{folder} has no split {split!r}; it has: {listing(manifest['splits'])}")
    if not manifest["splits"][split]["rows"]:
        raise ValueError(f"{folder}: nothing was held out for {split!r}: prepare it with validation above 0")
    if max_length is not None and manifest["length"] > max_length:
        raise ValueError(
            f"{folder} has rows of {manifest['length']} tokens, the model takes {max_length}: give max_length="
            f"{manifest['length']}, or prepare the corpus with length={max_length}"
        )
    if tokenizer is not None and vocabulary_hash(tokenizer) != manifest["tokenizer"]["vocabulary"]:
        raise ValueError(
            f"{folder} was tokenized with another vocabulary: take the tokenizer in {folder / 'tokenizer'}, or prepare "
            "the corpus with the tokenizer of the model"
        )
    bad: dict[str, np.ndarray] = {}
    for shard in manifest["splits"][split]["shards"]:
        path = folder / shard["name"]
        fault = _fault(path, shard, verify)
        if fault is None:
            continue
        if on_bad != "skip":
            raise (ValueError if path.is_file() else FileNotFoundError)(
                f'{path}: the shard is {fault}: {_AGAIN}. on_bad="skip" leaves out what is harmed, and counts it'
            )
        harmed = bad[shard["name"]] = _harmed(path, shard, Layout(manifest["length"], manifest["dtype"]))
        logger.warning("%s: the shard is %s. Skipped: %d of its %d rows", path, fault, harmed.sum(), len(harmed))
    if sum(rows.sum() for rows in bad.values()) == manifest["splits"][split]["rows"]:
        raise ValueError(f"{folder}: no row of {split!r} is left, all shards are harmed: {_AGAIN}")
    if batch_size is None and tokens_per_batch is None:
        batch_size = 32
    return ShardDataset(
        folder,
        manifest,
        split,
        keep,
        bad,
        batch_size=None if tokens_per_batch is not None else batch_size,
        tokens_per_batch=tokens_per_batch,
        shuffle=shuffle,
        seed=seed,
        noise=noise,
        noise_name=noise_name,
    )


def _fault(path: Path, shard: dict[str, Any], verify: bool) -> str | None:
    """What is wrong with a shard, or None."""
    if not path.is_file():
        return "missing"
    size = path.stat().st_size
    if size != shard["bytes"]:
        return f"torn, it has {size} bytes of {shard['bytes']}"
    if verify:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
        if digest.hexdigest() != shard["sha256"]:
            return "corrupt, its sha256 is not the manifest's"
    return None


def _harmed(path: Path, shard: dict[str, Any], layout: Layout) -> np.ndarray:
    """(rows,) bool, the rows of a shard that cannot be used."""
    if not path.is_file() or path.stat().st_size != shard["bytes"]:
        return np.ones(shard["rows"], bool)
    raw = np.memmap(path, np.uint8, "r").reshape(-1, layout.record)
    blocks = [~sound(layout, raw[begin : begin + _BLOCK]) for begin in range(0, len(raw), _BLOCK)]
    harmed = np.concatenate(blocks)
    # nothing but sound records, and yet another sha256: they are those of another file
    return harmed if harmed.any() else ~harmed
