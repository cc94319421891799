"""MinHash over runs of words, for corpora that do not fit into memory.

Notable here:
- A document becomes a few 64-bit numbers, its bands. Two documents that share a run of words in most places share a
  band, so equal numbers name the pairs worth a look, and `similarity` looks at the texts themselves.
- What is compared are runs of five words, the usual unit for documents. `aillm_tf.text.dedup` is the twin for short
  texts such as tweets: characters, all in memory.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from aillm_tf.text.units import Units, mix, ngrams, runs_in_order

WORDS = 5  # of a run
NO_BAND = np.uint64(0)  # of a document that has no run of so many words: only exact copies of it are found
_MISSED = 0.005  # share of the pairs at the threshold that may share no band
_MOST = 160  # permutations
_PAIRS = 50_000  # compared at a time
_BLOCK = 1 << 15  # hashes permuted at a time: they stay in the cache


@functools.cache
def band_shape(threshold: float) -> tuple[int, int]:
    """(bands, permutations a band): the longest bands that still find 0.995 of the pairs at the threshold.

    Example:
        >>> band_shape(0.8)
        (22, 7)

    Reference:
        Leskovec, Rajaraman and Ullman, "Mining of Massive Datasets", section 3.4.
    """
    for rows in range(8, 0, -1):
        miss = 1 - threshold**rows
        bands = 1 if miss == 0 else math.ceil(math.log(_MISSED) / math.log(miss))
        if rows * bands <= _MOST:
            return bands, rows
    return _MOST, 1


def shingles(units: Units) -> tuple[np.ndarray, np.ndarray]:
    """The runs of five words of each document: (runs,) uint64, and (documents + 1,) where each document's start."""
    found = list(ngrams(units, WORDS))
    _, at, hashes = found[0] if found else (0, np.zeros(0, np.int64), np.zeros(0, np.uint64))
    return hashes, np.searchsorted(at, units.first)


def bands(hashes: np.ndarray, starts: np.ndarray, threshold: float, seed: int = 0) -> np.ndarray:
    """The bands of each document.

    Args:
        hashes: (runs,) uint64, see `shingles`.
        starts: (documents + 1,) int64, ascending.
        threshold: Jaccard similarity from which pairs are wanted, above 0 and at most 1.
        seed: of the permutations.

    Returns:
        (documents, bands) uint64; `NO_BAND` in every place for a document without a run.

    Reference:
        Broder, "On the resemblance and containment of documents", 1997.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"similarity is a share above 0 and at most 1, not {threshold}")
    count, rows = band_shape(threshold)
    generator = np.random.default_rng(seed)
    factors = generator.integers(0, 1 << 31, count * rows, np.uint32) * np.uint32(2) + np.uint32(1)
    offsets = generator.integers(0, 1 << 32, count * rows, np.uint32)
    signature = np.full((count * rows, len(starts) - 1), np.uint32(0xFFFFFFFF))
    small = (hashes >> np.uint64(32)).astype(np.uint32)
    for begin in range(0, len(small), _BLOCK):
        block = small[begin : begin + _BLOCK]
        first = int(np.searchsorted(starts, begin, "right")) - 1
        last = int(np.searchsorted(starts, begin + len(block), "left"))
        edges = np.clip(starts[first:last] - begin, 0, None)
        full = np.diff(np.r_[edges, len(block)]) > 0
        edges, documents = edges[full], first + np.flatnonzero(full)
        for permutation, (factor, offset) in enumerate(zip(factors, offsets, strict=True)):
            least = np.minimum.reduceat(block * factor + offset, edges)
            signature[permutation, documents] = np.minimum(signature[permutation, documents], least)
    found = np.zeros((len(starts) - 1, count), np.uint64)
    for band, members in enumerate(signature.reshape(count, rows, -1)):
        bucket = np.full(len(starts) - 1, np.uint64(band + 1))
        for row in members:
            bucket = mix(bucket + row)
        found[:, band] = np.maximum(bucket, 1)
    found[np.diff(starts) == 0] = NO_BAND
    return found


def similarity(hashes: np.ndarray, starts: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """True Jaccard similarity of the sets of runs of pairs of documents.

    Args:
        hashes, starts: of the documents, as `shingles` gives them.
        left, right: (pairs,) int64, the documents of each pair.

    Returns:
        (pairs,) float64.
    """
    from scipy.sparse import csr_matrix

    order, runs = runs_in_order(hashes)
    column = np.empty(len(hashes), np.int64)
    column[order] = np.repeat(np.arange(len(runs)), np.diff(np.r_[runs, len(order)]))
    shape = (len(starts) - 1, max(len(runs), 1))
    sets = csr_matrix((np.ones(len(hashes), np.int32), column, starts), shape=shape)
    sets.sum_duplicates()
    sets.data[:] = 1
    size = np.diff(sets.indptr)
    at_once = [slice(at, at + _PAIRS) for at in range(0, len(left), _PAIRS)]
    shared = [np.asarray(sets[left[some]].multiply(sets[right[some]]).sum(axis=1)).ravel() for some in at_once]
    shared = np.concatenate([np.zeros(0), *shared])
    return shared / np.maximum(size[left] + size[right] - shared, 1)
