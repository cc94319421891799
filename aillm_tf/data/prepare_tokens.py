"""Documents to token ids: a tokenizer that is trained or taken, then every document through it, on all cores.

Notable here: the `tokenizers` library spreads a batch over the cores itself, so no process is started for it; batches
are cut by their bytes, for what the library answers takes hundreds of bytes a token until it is copied out.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.data.prepare_parts import Parts, load_arrays, quiet, save_arrays
from aillm_tf.files import atomic_file
from aillm_tf.text.sentinels import with_sentinels
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.text.train import train_tokenizer

logger = logging.getLogger("aillm_tf")

SAMPLE = 256 << 20  # bytes of text that a tokenizer is trained on
_BATCH = 1 << 21  # bytes of text that are tokenized together


class Around(NamedTuple):
    """Special tokens at the ends of a document.

    Args:
        before, after: ids.
        every_piece: whether each piece of a document that is cut has them ([CLS] ... [SEP]), or the document once.
    """

    before: np.ndarray
    after: np.ndarray
    every_piece: bool


class Tokens:
    """The token ids of the documents that were chosen, on the disk.

    Attributes: ``lengths`` (documents,) int64 tokens of each document, 0 where it was not chosen.

    Args:
        folder: the work folder.
        parts: the documents.
        dtype: of an id on the disk.
    """

    def __init__(self, folder: Path, parts: Parts, dtype: np.dtype):
        self.folder, self.parts, self.dtype = folder, parts, dtype
        counts = [load_arrays(folder / f"tokens-{name}.npz")["lengths"] for name in parts.names]
        self.lengths = np.concatenate(counts)
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        self.offsets = starts[:-1] - np.repeat(starts[parts.first[:-1]], np.diff(parts.first))

    def open(self) -> list[np.ndarray]:
        """The ids of each part, read from the disk where they are looked at."""
        return [
            np.memmap(path, self.dtype, "r") if path.stat().st_size else np.zeros(0, self.dtype) for path in self.paths
        ]

    @property
    def paths(self) -> list[Path]:
        return [self.folder / f"tokens-{name}.ids" for name in self.parts.names]


class _Sample:
    """Texts that can be read several times."""

    def __init__(self, parts: Parts, documents: np.ndarray, progress: bool):
        self.parts, self.documents, self.progress = parts, documents, progress

    def __iter__(self) -> Iterator[str]:
        bar = tqdm(
            self.parts.texts(self.documents), "train tokenizer", len(self.documents), disable=quiet(self.progress)
        )
        return iter(bar)


def given_tokenizer(source: str) -> Tokenizer:
    """A tokenizer that is not trained, with padding as language models give it where it has none."""
    from aillm_tf.weights.resolve import resolve

    tokenizer = Tokenizer.from_folder(resolve(source)).padded()
    if tokenizer.pad_id is None:
        raise ValueError(f"{source}: the tokenizer has neither a pad nor an end token: add one and save it again")
    return tokenizer


def make_tokenizer(
    folder: Path, parts: Parts, train: np.ndarray, options: PrepareOptions, given: Tokenizer | None, progress: bool
) -> Tokenizer:
    """Train or take the tokenizer, once.

    Args:
        folder: the work folder.
        parts: the documents.
        train: the documents to learn from; of more than 256 MiB a sample.
        options: how to train it.
        given: the tokenizer to take; None: train one.
        progress: whether to draw a bar.

    Returns:
        The tokenizer, which now lies in the work folder.
    """
    path = folder / "tokenizer"
    if path.is_dir():
        return Tokenizer.from_folder(path)
    tokenizer = given
    if tokenizer is None:
        documents = np.unique(train)
        share = SAMPLE / max(1, int(parts.sizes[documents].sum()))
        if share < 1:  # by a hash of the words, so that the sample is spread over the corpus
            documents = documents[(parts.keys[documents, 1] >> np.uint64(11)) < np.uint64(share * (1 << 53))]
        tokenizer = _train(_Sample(parts, documents, progress), options)
    writing = folder / "tokenizer.writing"
    shutil.rmtree(writing, ignore_errors=True)
    tokenizer.save(writing)
    writing.rename(path)
    return Tokenizer.from_folder(path)


def _train(texts: _Sample, options: PrepareOptions) -> Tokenizer:
    settings = {"kind": options.kind, "use": options.use, "lowercase": options.lowercase}
    size = options.vocab_size
    while True:
        tokenizer = train_tokenizer(texts, vocab_size=size - options.sentinels, **settings)
        tokenizer = with_sentinels(tokenizer, options.sentinels)
        if tokenizer.vocab_size == size:
            return tokenizer
        size = tokenizer.vocab_size // 128 * 128
        if not size:
            raise ValueError(
                f"the corpus gives a vocabulary of only {tokenizer.vocab_size} tokens: collect more text, or take a "
                "tokenizer with tokenizer="
            )
        logger.warning("the corpus gives no %d tokens: the vocabulary has %d", options.vocab_size, size)


def around(tokenizer: Tokenizer) -> Around:
    """What stands around a document.

    What the tokenizer puts there; and where it ends a text with nothing and has a token for the end, that token, so
    that a model learns where documents end.
    """
    empty, one = (tokenizer.encode([text]).ids for text in ("", "x"))
    same = np.flatnonzero(np.r_[empty != one[: len(empty)], True])[0]
    before, after = empty[:same], empty[same:]
    every_piece = len(before) > 0 and len(after) > 0
    if not len(after) and tokenizer.eos_id is not None:
        after = np.array([tokenizer.eos_id], empty.dtype)
    return Around(before, after, every_piece)


def tokenize(folder: Path, parts: Parts, chosen: np.ndarray, tokenizer: Tokenizer, progress: bool) -> Tokens:
    """Tokenize, part by part, those that are not done.

    Args:
        folder: the work folder.
        parts: the documents.
        chosen: (documents,) bool.
        tokenizer: to use.
        progress: whether to draw a bar.

    Returns:
        :class:`Tokens`; where special tokens stand around every piece they are left to the rows.
    """
    dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<i4")
    ends = around(tokenizer)
    special = len(tokenizer.encode([""]).ids)
    total = int(parts.sizes[chosen].sum())
    with tqdm(total=total, desc="tokenize", unit="B", unit_scale=True, disable=quiet(progress)) as bar:
        for index, name in enumerate(parts.names):
            inside = np.arange(parts.first[index], parts.first[index + 1])
            documents = inside[chosen[inside]]
            path = folder / f"tokens-{name}.npz"
            if not path.is_file():
                lengths = np.zeros(len(inside), np.int64)
                with atomic_file(folder / f"tokens-{name}.ids") as file:
                    for batch in _batches(documents, parts.sizes):
                        ids, counts = _encode(tokenizer, list(parts.texts(batch)), ends, special)
                        file.write(ids.astype(dtype).data)
                        lengths[batch - parts.first[index]] = counts
                        bar.update(int(parts.sizes[batch].sum()))
                save_arrays(path, lengths=lengths)
            else:
                bar.update(int(parts.sizes[documents].sum()))
    return Tokens(folder, parts, dtype)


def _batches(documents: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    cut = np.flatnonzero(np.diff(np.cumsum(sizes[documents]) // _BATCH)) + 1
    return (batch for batch in np.split(documents, cut) if len(batch))


def _encode(tokenizer: Tokenizer, texts: list[str], ends: Around, special: int) -> tuple[np.ndarray, np.ndarray]:
    encoded = tokenizer.encode(texts)
    counts = np.diff(encoded.offsets)
    if ends.every_piece:
        inside = np.ones(len(encoded.ids), bool)
        for place in range(len(ends.before)):
            inside[encoded.offsets[:-1] + place] = False
        for place in range(len(ends.after)):
            inside[encoded.offsets[1:] - 1 - place] = False
        return encoded.ids[inside], counts - special
    missing = ends.after if special == len(ends.before) else ends.after[:0]
    ids = np.insert(encoded.ids, np.repeat(encoded.offsets[1:], len(missing)), np.tile(missing, len(texts)))
    return ids, counts + len(missing)
