"""Find texts that occur more than once: exactly (after folding what does not matter) and nearly (MinHash).

Notable here:
- Signatures are made for all texts at once in numpy: shingles are rolling hashes of code points, one
  ``minimum.reduceat`` a permutation. 38,000 tweets take seconds on one core.
- The banded MinHash index only proposes pairs; each is verified by its true Jaccard similarity, so what is called a
  near-duplicate is one.
- A group is named by its first row, so ``groups[row] == row`` says "first of its kind", and a split that keeps
  groups whole does not leak.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from aillm_tf.text.clean import LINK, MENTION
from aillm_tf.text.minhash import band_shape, similarity

_RETWEET = re.compile(r"\brt\b")
_CHUNK = 1 << 22  # shingles hashed at a time: bounds memory to some 100 MB
_BUCKET = 48  # texts of a bucket that are compared with each other; a larger bucket is compared along a window


class _Fold(dict):
    """``str.translate`` table: letters, digits and the vowel signs of Indic and South-East Asian scripts stay."""

    def __missing__(self, code: int) -> int:
        character = chr(code)
        # Latin, Hebrew and Arabic marks below U+0900 are optional in writing; the vowel signs above are not.
        vowel_sign = code >= 0x900 and unicodedata.category(character)[0] == "M"
        self[code] = code if character.isalnum() or character == "_" or vowel_sign else ord(" ")
        return self[code]


_FOLD = _Fold()


class Deduplicated(NamedTuple):
    """What :func:`deduplicate` returns."""

    rows: np.ndarray  # (kept,) int64, ascending: one row of each group that is kept
    groups: np.ndarray  # (rows,) int64: the first row of the group each row belongs to; near-duplicates share it
    counts: dict[str, int]  # "rows", "exact_duplicates", "conflicting", "near_duplicates", "kept"


def duplicate_key(text: str) -> str:
    """The text with links, mentions, retweet marks, case, punctuation and spaces folded away.

    Two texts with the same key are exact duplicates. A text of which nothing would be left (only links, or only
    emoji) is its own key.

    Example:
        >>> duplicate_key("RT @bob: So GOOD!!  http://t.co/x") == duplicate_key("so good")
        True
    """
    lower = unicodedata.normalize("NFKC", text).lower()
    words = _RETWEET.sub(" ", MENTION.sub(" ", LINK.sub(" ", lower)))
    return " ".join(words.translate(_FOLD).split()) or " ".join(lower.split())


def exact_groups(texts: Sequence[str]) -> np.ndarray:
    """Group the texts that have the same :func:`duplicate_key`.

    Args:
        texts: rows of text.

    Returns:
        (rows,) int64: for each row the first row with the same key.

    Example:
        >>> exact_groups(["Yes!", "no", "yes"]).tolist()
        [0, 1, 0]
    """
    first: dict[str, int] = {}
    return np.fromiter((first.setdefault(duplicate_key(text), row) for row, text in enumerate(texts)), np.int64)


def near_groups(texts: Sequence[str], threshold: float = 0.65, shingle: int = 3, seed: int = 0) -> np.ndarray:
    """Group the texts whose keys share most of their character shingles, directly or through a chain of others.

    Args:
        texts: rows of text; exact duplicates may be among them.
        threshold: least Jaccard similarity of the two sets of shingles, above 0 and at most 1.
        shingle: characters in a shingle of the folded text.
        seed: of the hash permutations. At the threshold itself a pair is found with probability 0.995, above it
            sooner; the answer is the same for the same seed.

    Returns:
        (rows,) int64: for each row the first row of its group.

    Example:
        >>> near_groups(["the quick brown fox jumps over the lazy dog", "what a day",
        ...              "The quick brown fox jumped over the lazy dog."]).tolist()
        [0, 1, 0]

    Reference:
        Broder, "On the resemblance and containment of documents", 1997; Leskovec, Rajaraman and Ullman, "Mining of
        Massive Datasets", section 3.4 (banding).
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is a Jaccard similarity above 0 and at most 1, not {threshold}")
    exact = exact_groups(texts)
    firsts = np.flatnonzero(exact == np.arange(len(exact)))
    keys = [duplicate_key(texts[row]) for row in firsts]
    left, right = _candidates(_signatures(keys, shingle, threshold, seed), threshold)
    similar = _jaccard(keys, left, right, shingle) >= threshold
    edges = coo_matrix((np.ones(similar.sum(), bool), (left[similar], right[similar])), shape=(len(keys), len(keys)))
    component = connected_components(edges, directed=False)[1]
    # np.unique gives the first text of each component, and texts are in row order.
    first_of_component = np.unique(component, return_index=True)[1]
    group_of_key = firsts[first_of_component[component]]
    return group_of_key[np.searchsorted(firsts, exact)]


def deduplicate(
    texts: Sequence[str],
    labels: Sequence[Hashable] | None = None,
    threshold: float | None = 0.65,
    seed: int = 0,
) -> Deduplicated:
    """Keep one row of each group of duplicates; drop texts that occur with more than one label.

    Conflicts are looked for among exact duplicates only: a near-duplicate may well deserve another label.

    Args:
        texts: rows of text.
        labels: the label of each row; given, the exact groups with conflicting labels are dropped altogether.
        threshold: Jaccard similarity of near-duplicates, see :func:`near_groups`; None: exact duplicates only.
        seed: of the hash permutations.

    Returns:
        :class:`Deduplicated`. In ``counts``, rows = exact_duplicates + conflicting + near_duplicates + kept, where
        "conflicting" counts distinct texts.

    Raises:
        ValueError: labels and texts differ in length.

    Example:
        >>> deduplicate(["so good", "So good!", "bad", "Bad.", "bad"], [1, 1, 0, 1, 0], threshold=None).counts
        {'rows': 5, 'exact_duplicates': 3, 'conflicting': 1, 'near_duplicates': 0, 'kept': 1}
    """
    if labels is not None and len(labels) != len(texts):
        raise ValueError(f"{len(texts)} texts but {len(labels)} labels: give one label a row")
    exact = exact_groups(texts)
    groups = exact if threshold is None else near_groups(texts, threshold, seed=seed)
    rows = np.flatnonzero(exact == np.arange(len(exact)))
    distinct = len(rows)
    if labels is not None:
        conflicting = {int(group) for row, group in enumerate(exact) if labels[row] != labels[group]}
        rows = np.asarray([row for row in rows if int(row) not in conflicting], np.int64)
    consistent = len(rows)
    # The first of a near group may have been dropped as conflicting: keep the first that was not.
    rows = np.sort(rows[np.unique(groups[rows], return_index=True)[1]])
    counts = {
        "rows": len(exact),
        "exact_duplicates": len(exact) - distinct,
        "conflicting": distinct - consistent,
        "near_duplicates": consistent - len(rows),
        "kept": len(rows),
    }
    return Deduplicated(rows, groups, counts)


def _shingles(keys: Sequence[str], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Hash each window of ``width`` characters: (shingles,) uint64, and (keys + 1,) where each key's shingles start.

    A key shorter than the window is padded to one window, so that every key has a shingle.
    """
    padded = [key.ljust(width, "\0") for key in keys]
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    counts = lengths - width + 1
    starts = np.concatenate([[0], np.cumsum(counts)])
    # Window i of key k begins at code i + k * (width - 1): each earlier key has that many codes more than windows.
    begin = np.arange(starts[-1]) + np.repeat(np.arange(len(padded)) * (width - 1), counts)
    hashed = np.zeros(starts[-1], np.uint64)
    for offset in range(width):
        hashed = (hashed ^ codes[begin + offset]) * np.uint64(0x9E3779B97F4A7C15)
        hashed ^= hashed >> np.uint64(29)
    return hashed, starts


def _signatures(keys: Sequence[str], width: int, threshold: float, seed: int) -> np.ndarray:
    """MinHash of each key: (bands * rows, keys) uint32."""
    bands, rows = band_shape(threshold)
    generator = np.random.default_rng(seed)
    # Multiply-add on 64 bits, of which the upper half is kept: odd multipliers make it a permutation.
    multipliers = generator.integers(0, 1 << 63, bands * rows, np.uint64) * np.uint64(2) + np.uint64(1)
    offsets = generator.integers(0, 1 << 63, bands * rows, np.uint64)
    signature = np.empty((bands * rows, len(keys)), np.uint32)
    lengths = np.cumsum([0, *(max(len(key), width) for key in keys)])
    begin = 0
    while begin < len(keys):
        end = max(begin + 1, int(np.searchsorted(lengths, lengths[begin] + _CHUNK, "right")) - 1)
        hashed, starts = _shingles(keys[begin:end], width)
        for permutation, (multiplier, offset) in enumerate(zip(multipliers, offsets, strict=True)):
            permuted = ((hashed * multiplier + offset) >> np.uint64(32)).astype(np.uint32)
            signature[permutation, begin:end] = np.minimum.reduceat(permuted, starts[:-1])
        begin = end
    return signature


def _candidates(signature: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of keys that agree in at least one band: two (pairs,) int64 arrays, each pair once, left < right."""
    bands, rows = band_shape(threshold)
    keys = signature.shape[1]
    pairs = [np.empty(0, np.int64)]
    for band in signature.reshape(bands, rows, keys):
        bucket = np.zeros(keys, np.uint64)
        for row in band:
            bucket = (bucket ^ row) * np.uint64(0x9E3779B97F4A7C15)
            bucket ^= bucket >> np.uint64(31)
        order = np.argsort(bucket, kind="stable")
        ordered = bucket[order]
        for step in range(1, min(_BUCKET, keys)):
            same = np.flatnonzero(ordered[step:] == ordered[:-step])
            if not len(same):
                break
            # The sort is stable, so that the left key is the smaller one.
            pairs.append(order[same] * keys + order[same + step])
    left, right = np.divmod(np.unique(np.concatenate(pairs)), max(keys, 1))
    return left, right


def _jaccard(keys: Sequence[str], left: np.ndarray, right: np.ndarray, width: int) -> np.ndarray:
    """True Jaccard similarity of the shingle sets of each pair: (pairs,) float64."""
    used, place = np.unique(np.concatenate([left, right]), return_inverse=True)
    hashed, starts = _shingles([keys[key] for key in used], width)
    return similarity(hashed, starts, place[: len(left)], place[len(left) :])
