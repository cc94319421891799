"""Which documents of a corpus are copies: exact ones by their key, near ones by MinHash, with bounded memory.

Notable here:
- The first document stays. One falls away only if it is like an earlier one that stays, so no chain of small changes
  takes two different documents for one.
- Keys and bands are sorted one range at a time, and texts are read again only for pairs that share a band: memory
  grows by some ten bytes a document, not with their length.
- Every pair is verified on the texts: what is called a near-duplicate is one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from aillm_tf.data.prepare_parts import Parts, load_arrays, quiet, save_arrays
from aillm_tf.data.prepare_stages import EXAMPLES, shown
from aillm_tf.text.minhash import NO_BAND, band_shape, shingles, similarity
from aillm_tf.text.units import split_units

EXACT, NEAR = 1, 2
_AT_ONCE = 1 << 24  # keys that are sorted together
_NEIGHBOURS = 4  # documents of a bucket with which one is compared, beside its first
_TEXT = 1 << 22  # bytes of text that are compared together


def find_duplicates(folder: Path, parts: Parts, least: float, progress: bool) -> tuple[np.ndarray, dict]:
    """Find them, or read what an earlier run found.

    Args:
        folder: the work folder.
        parts: the documents.
        least: similarity from which documents are near-duplicates; 0: exact ones only.
        progress: whether to draw a bar.

    Returns:
        (documents,) uint8: 0 stays, `EXACT`, `NEAR`; and {"exact", "near", "candidates": counts, "similarity": counts
        of verified pairs by tenths, "examples": [[place, place of the earlier one, text, earlier text, similarity]]}.
    """
    path = folder / "duplicates.npz"
    if path.is_file():
        saved = load_arrays(path)
        return saved["fate"], json.loads(str(saved["info"]))
    fate = np.zeros(len(parts), np.uint8)
    # The upper half of the key says the range, so that equal keys come together; the lower half decides.
    for rows in _ranges(parts.keys[:, 0]):
        order = rows[np.lexsort((rows, parts.keys[rows, 1], parts.keys[rows, 0]))]
        same = (parts.keys[order[1:]] == parts.keys[order[:-1]]).all(1)
        fate[order[1:][same]] = EXACT
    info = {"exact": int((fate == EXACT).sum()), "near": 0, "candidates": 0, "similarity": [0] * 10, "examples": []}
    if least:
        _near(parts, fate, least, info, progress)
    save_arrays(path, fate=fate, info=json.dumps(info))
    return fate, info


def _ranges(values: np.ndarray) -> Iterator[np.ndarray]:
    """Ascending row numbers, one range of the values at a time, each of about `_AT_ONCE` rows."""
    bits = np.uint64(max(0, (len(values) // _AT_ONCE).bit_length()))
    for part in range(1 << int(bits)):
        yield np.flatnonzero(values >> (np.uint64(64) - bits) == part) if bits else np.arange(len(values))


def _near(parts: Parts, fate: np.ndarray, least: float, info: dict, progress: bool) -> None:
    codes = np.zeros(0, np.int64)
    bands = band_shape(least)[0]
    for band in tqdm(range(bands), desc="near-duplicates: bands", disable=quiet(progress)):
        values = parts.band(band)
        values[fate == EXACT] = NO_BAND
        codes = np.unique(np.concatenate([codes, *(pair @ [len(parts), 1] for pair in _candidates(values))]))
    pairs = np.stack(np.divmod(codes, max(len(parts), 1)), 1)
    info["candidates"] = len(pairs)
    alike = np.zeros(len(pairs))
    with tqdm(total=len(pairs), desc="near-duplicates: pairs", unit="pair", disable=quiet(progress)) as bar:
        for begin, end in _chunks(pairs, parts.sizes):
            documents, places = np.unique(pairs[begin:end], return_inverse=True)
            hashes, starts = shingles(split_units(list(parts.texts(documents))))
            left, right = places.reshape(-1, 2).T
            alike[begin:end] = similarity(hashes, starts, left, right)
            bar.update(end - begin)
    info["similarity"] = np.bincount(np.minimum(alike * 10, 9).astype(int), minlength=10).tolist()
    for at in np.flatnonzero(alike >= least):  # in the order of the later document, then of the earlier one
        later, earlier = pairs[at].tolist()
        if fate[earlier] == 0 and fate[later] == 0:
            fate[later] = NEAR
            info["near"] += 1
            if info["near"] <= EXAMPLES * 2:
                texts = [shown(text) for text in parts.texts([later, earlier])]
                info["examples"].append([later, earlier, *texts, round(float(alike[at]), 3)])


def _candidates(values: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs (later, earlier) of documents in one bucket: with its first, and with the few before."""
    for rows in _ranges(values):
        rows = rows[values[rows] != NO_BAND]
        order = rows[np.argsort(values[rows], kind="stable")]
        ordered = values[order]
        starts = np.r_[True, ordered[1:] != ordered[:-1]][: len(order)]
        first = order[np.flatnonzero(starts)[np.cumsum(starts) - 1]]
        yield np.stack([order, first], 1)[order != first]
        for step in range(1, _NEIGHBOURS + 1):
            same = ordered[step:] == ordered[:-step]
            if not same.any():
                break
            yield np.stack([order[step:][same], order[:-step][same]], 1)


def _chunks(pairs: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[int, int]]:
    """Stretches of pairs with about `_TEXT` bytes of text."""
    total = np.cumsum(sizes[pairs].sum(1))
    begin = 0
    while begin < len(pairs):
        end = max(begin + 1, int(np.searchsorted(total, (total[begin - 1] if begin else 0) + _TEXT, "right")))
        yield begin, end
        begin = end
