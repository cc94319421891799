"""From a heap of text to shards of packed rows: ``aillm prepare``.

Sources -> clean -> judge -> contamination -> duplicates -> held-out documents and order -> tokenizer -> token ids ->
packed rows -> TFRecord shards, manifest.json, report.html.

Notable here:
- Every stage leaves whole files in the folder "work", so the same command goes on after a kill, a full disk or an
  unreadable file, and gives bit for bit what one uninterrupted run gives. The manifest comes last: a folder that has
  one is complete.
- No text is held in memory longer than its batch; arrays grow by some 60 bytes a document.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from aillm_tf.config import to_plain
from aillm_tf.data.prepare_duplicates import NEAR, find_duplicates
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.data.prepare_parts import Parts, read_parts
from aillm_tf.data.prepare_report import write_report
from aillm_tf.data.prepare_rows import write_split
from aillm_tf.data.prepare_sources import source_files
from aillm_tf.data.prepare_tokens import around, given_tokenizer, make_tokenizer, tokenize
from aillm_tf.data.shard_files import Layout, vocabulary_hash
from aillm_tf.files import write_atomic
from aillm_tf.version import __version__

logger = logging.getLogger("aillm_tf")

FORMAT = 1  # of the manifest, the shards and the work folder
# What a stage leaves in the work folder, and the options that decide it: they may change until it is there.
DECIDED = {
    "part-*.npz": (
        "sources", "text", "documents", "on_bad", "encoding_errors", "unicode_form", "markup", "drop", "quality",
        "min_words", "max_words", "languages", "similarity", "evaluation", "seed",
    ),
    "tokenizer": ("weights", "validation", "tokenizer", "kind", "vocab_size", "use", "sentinels", "lowercase"),
    "*.tfrecord.json": ("order", "length"),
}  # fmt: skip
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def prepare(
    folder: str | os.PathLike, options: PrepareOptions, *, processes: int | None = None, progress: bool = True
) -> dict[str, Any]:
    """Prepare a corpus.

    Args:
        folder: of the shards; new, or one that an interrupted call left. Options that decide what it finished have to
            be the same.
        options: sources and what to do with them.
        processes: that clean and judge; None: one a core. The result is the same with any number.
        progress: whether to draw bars, where standard error is a terminal.

    Returns:
        The manifest: "splits" with rows, tokens, bytes, shards and their sha256; "stages" with counts; "tokenizer";
        "options".

    Raises:
        ValueError: the folder is of another corpus; a bad row (with ``on_bad="raise"``); nothing is left.
        OSError: a full disk or an unreadable file. Everything finished is kept: the same call goes on.

    Example:
        >>> options = PrepareOptions(sources=("wiki/*.jsonl.gz", "tfds:c4"), weights=(2, 1))
        >>> prepare("corpus", options)["splits"]["train"]["tokens"]  # doctest: +SKIP
        1271436
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            return _prepare(folder, options, processes or os.cpu_count() or 1, progress)
    except Timeout as error:
        raise RuntimeError(f"another process prepares {folder}: wait for it, or choose another folder") from error
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        message = f"{error.strerror}. Make room and run the same command again: it goes on from the last finished part"
        raise OSError(error.errno, message, error.filename or str(folder)) from error


def _prepare(folder: Path, options: PrepareOptions, processes: int, progress: bool) -> dict[str, Any]:
    asked = json.loads(json.dumps(to_plain(options)))
    if (folder / "manifest.json").is_file():
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        _refuse_other(folder, manifest, asked, tuple(asked))
        shutil.rmtree(folder / "work", ignore_errors=True)
        logger.info("%s is prepared already", folder)
        return manifest
    work = folder / "work"
    begun = work / "options.json"
    if begun.is_file():
        decided = [name for made, names in DECIDED.items() if any(work.glob(made)) for name in names]
        _refuse_other(folder, json.loads(begun.read_text(encoding="utf-8")), asked, decided)
    # what cannot be had is said before hours of reading, not after
    given = None if options.tokenizer is None else given_tokenizer(options.tokenizer)
    files = source_files(options.sources)
    work.mkdir(exist_ok=True)
    write_atomic(begun, json.dumps({"format": FORMAT, "options": asked}, ensure_ascii=False))

    parts = read_parts(work, files, options, processes, progress)
    if not len(parts):
        raise ValueError(f"no document of {', '.join(options.sources)} is left: {_reasons(parts)}. Loosen the rules")
    fate, duplicates = find_duplicates(work, parts, options.similarity, progress)
    train, validation = choose(parts, fate, np.array([file.source for file in files]), options)
    if not len(train):
        raise ValueError(f"all {len(validation)} documents that are left are held out: lower validation")
    tokenizer = make_tokenizer(work, parts, train, options, given, progress)
    ends = around(tokenizer)
    times = np.bincount(np.concatenate([train, validation]), minlength=len(parts))
    chosen = times > 0
    tokens = tokenize(work, parts, chosen, tokenizer, progress)
    layout = Layout(options.length, tokens.dtype.str)
    splits = {
        name: write_split(folder, work, name, documents, tokens, ends, layout, tokenizer.pad_id, progress)
        for name, documents in (("train", train), ("validation", validation))
    }
    tokenizer.save(folder / "tokenizer")
    manifest = {
        "format": FORMAT,
        "version": __version__,
        "length": layout.length,
        "dtype": layout.dtype,
        "pad_id": tokenizer.pad_id,
        "splits": splits,
        "stages": _stages(parts, fate, duplicates),
        "sources": _sources(parts, fate, times, files, options),
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "vocabulary": vocabulary_hash(tokenizer),
            "before": ends.before.tolist(),
            "after": ends.after.tolist(),
            "every_piece": ends.every_piece,
        },
        "options": asked,
    }
    shards = {shard["name"] for split in splits.values() for shard in split["shards"]}
    for stale in [*folder.glob("*.tfrecord"), *folder.glob(".*.writing-*")]:  # of a run that was stopped
        if stale.name not in shards:
            stale.unlink()
    write_report(folder, manifest, parts, chosen, tokens.lengths, duplicates, files)
    write_atomic(folder / "manifest.json", json.dumps(manifest, ensure_ascii=False, indent=1) + "\n")
    shutil.rmtree(work)
    return manifest


def choose(
    parts: Parts, fate: np.ndarray, source: np.ndarray, options: PrepareOptions
) -> tuple[np.ndarray, np.ndarray]:
    """The documents to train on, in order and as often as their weight says, and those held out.

    Which are held out, and which of a weight below 1 are taken, is decided by a hash of their words: the same
    documents, whatever else is in the corpus.

    Args:
        parts: the documents.
        fate: (documents,) 0 for those that stay.
        source: (files,) int the source of each file.
        options: weights, validation, order, seed.

    Returns:
        Two arrays of documents.
    """
    kept = np.flatnonzero(fate == 0)
    key = parts.keys[kept, 0]
    held = options.validation if options.validation >= 1 else round(options.validation * len(kept))
    last = np.sort(key)[int(held) - 1] if 0 < held <= len(kept) else None
    out = key <= last if last is not None else np.full(len(kept), held > 0)
    validation, train = kept[out], kept[~out]
    weights = np.array([options.weight(number) for number in range(len(options.sources))])[source[parts.files[train]]]
    chance = (parts.keys[train, 1] >> np.uint64(11)) / float(1 << 53)
    train = np.repeat(train, (np.floor(weights) + (chance < weights % 1)).astype(np.int64))
    if options.order == "shuffle":
        train = np.random.default_rng([options.seed, 1]).permutation(train)
    return train, validation


def _refuse_other(folder: Path, before: dict, now: dict, names: Sequence[str]) -> None:
    if before["format"] != FORMAT:
        raise ValueError(f"{folder} was made by another version of this package: prepare into another folder")
    before = before["options"]
    for name in names:
        if name == "on_bad" and before[name] == "raise":
            continue  # there was no bad row yet
        if before.get(name) != now[name]:
            raise ValueError(
                f"{folder} was begun with {name}={before.get(name)!r}, not {now[name]!r}: give the same options to go "
                "on, or prepare into another folder"
            )


def _stages(parts: Parts, fate: np.ndarray, duplicates: dict) -> dict[str, dict[str, int]]:
    """Counts of every stage."""
    copies = {"exact copies": duplicates["exact"], "near-duplicates": int((fate == NEAR).sum())}
    return {**parts.counts, "duplicates": {**copies, "pairs compared": duplicates["candidates"]}}


def _sources(parts: Parts, fate: np.ndarray, times: np.ndarray, files: list, options: PrepareOptions) -> list[dict]:
    source = np.array([file.source for file in files])[parts.files]
    told = []
    for number, uri in enumerate(options.sources):
        mine = source == number
        told.append(
            {
                "source": uri,
                "weight": options.weight(number),
                "after quality": int(mine.sum()),
                "copies": int((mine & (fate > 0)).sum()),
                "taken": int(times[mine].sum()),  # a document as often as its weight has it
                "bytes": int((parts.sizes * times)[mine].sum()),
            }
        )
    return told


def _reasons(parts: Parts) -> str:
    counts = parts.counts.get("quality", {}).items()
    return ", ".join(f"{number} {what}" for what, number in counts) or "the sources are empty"
