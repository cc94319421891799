"""Which rows stand together in a batch: batches of similar length, each with one of a few static shapes.

Rows are ordered by bucket (longest first) and shuffled within their bucket; batches are cut from that order and
then shuffled. Bucket sizes do not change between epochs, so neither do the cuts: an epoch has the same number of
batches, of the same shapes, whatever its shuffle, and every row is in exactly one of them.

Where rows have two sides (source and target), a bucket is a pair of lengths. The pairs ascend on both sides, so they
too are ordered, and a row fits into every bucket after its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LENGTHS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048, 4096)
PAIRS = 12  # buckets of rows with two sides: a program is compiled for each
FINE = (4, 8, 12, 16, 20, 24, 28, 36, *LENGTHS)  # what the lengths of a pair are chosen from


def bucket_lengths(max_length: int, fixed: bool = False) -> tuple[int, ...]:
    """The static lengths that batches may have, ascending; only `max_length` when `fixed`."""
    return (max_length,) if fixed else (*(n for n in LENGTHS if n < max_length), max_length)


def bucket_pairs(
    lengths: np.ndarray, max_lengths: tuple[int, int], fixed: bool = False, most: int = PAIRS
) -> tuple[tuple[int, int], ...]:
    """The pairs of static lengths that batches of two sides may have: those with which rows are padded least.

    Args:
        lengths: (rows, 2) tokens of both sides of every row.
        max_lengths: the longest row that either side may have.
        fixed: only the pair of these.
        most: pairs at most.

    Returns:
        (source length, target length) pairs, each at least as long as the one before on both sides; every row that is
        not longer than `max_lengths` fits into the last one.

    Example:
        >>> bucket_pairs(np.array([[5, 7], [6, 8], [30, 12]]), (64, 64), most=2)
        ((8, 8), (32, 12))
    """
    if fixed or not len(lengths):
        return (tuple(max_lengths),)
    sides = [sorted({*(n for n in FINE if n < longest), longest}) for longest in max_lengths]
    sides = [np.array(edges)[: np.searchsorted(edges, lengths[:, i].max()) + 1] for i, edges in enumerate(sides)]
    at = [np.minimum(np.searchsorted(edges, lengths[:, i]), len(edges) - 1) for i, edges in enumerate(sides)]
    counts = np.zeros([len(edges) for edges in sides], np.int64)
    np.add.at(counts, tuple(at), 1)
    # rows that fit into the pair (i, j) or into one with less
    fits = counts.cumsum(0).cumsum(1)
    i, j = (index.ravel() for index in np.indices(fits.shape))
    fits, size = fits.ravel(), sides[0][i] + sides[1][j]
    # positions of the rows that fit into one pair and not into the one before it: (before, after)
    cost = np.where((i[:, None] <= i) & (j[:, None] <= j), (fits - fits[:, None]) * size, np.inf)
    # the least positions with 1, 2, ... pairs of which the last is this one (Bellman 1961)
    least, before = [fits * size.astype(float)], []
    for _ in range(most - 1):
        through = least[-1][:, None] + cost
        before.append(through.argmin(0))
        least.append(through.min(0))
    count = int(np.argmin([positions[-1] for positions in least]))
    chain = [len(size) - 1]
    for step in reversed(before[:count]):
        chain.append(int(step[chain[-1]]))
    return tuple((int(sides[0][i[k]]), int(sides[1][j[k]])) for k in reversed(chain))


def plan_epoch(
    lengths: np.ndarray,
    edges: Sequence[int] | Sequence[tuple[int, int]],
    *,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    rng: np.random.Generator | None = None,
) -> list[tuple[np.ndarray, int | tuple[int, int], int]]:
    """Cut an epoch into batches.

    Args:
        lengths: (rows,) tokens of every row, or (rows, 2) of both its sides.
        edges: bucket lengths or pairs of them, ascending; the longest row fits into the last.
        batch_size: rows of a batch; or
        tokens_per_batch: rows x length of a batch, padding included; short rows make batches of many rows. Two sides
            count as the sum of their lengths.
        rng: shuffles rows and batches; None keeps the order within buckets.

    Returns:
        One (row numbers, length or pair of lengths, rows of a full batch) for every batch; only the last cut may be
        short of rows.

    Raises:
        ValueError: not one size, or a row that fits into no bucket; names it.
    """
    if (batch_size is None) == (tokens_per_batch is None):
        raise ValueError("give either batch_size or tokens_per_batch")
    size = tokens_per_batch if batch_size is None else batch_size
    if size < 1:
        raise ValueError(f"a batch of {size}: give at least 1")
    bounds, sides = np.reshape(edges, (len(edges), -1)), np.reshape(lengths, (len(lengths), -1))
    bucket = np.zeros(len(sides), np.int64)
    for name, bound, side in zip(("", "target "), bounds.T, sides.T, strict=False):
        if len(side) and side.max() > bound[-1]:
            raise ValueError(
                f"row {int(side.argmax())} has {side.max()} {name}tokens, more than the longest bucket {bound[-1]}"
            )
        bucket = np.maximum(bucket, np.searchsorted(bound, side))
    order = np.arange(len(sides)) if rng is None else rng.permutation(len(sides))
    order = order[np.argsort(-bucket[order], kind="stable")]
    batches, at = [], 0
    while at < len(order):
        number = bucket[order[at]]
        full = batch_size or max(1, tokens_per_batch // int(bounds[number].sum()))
        batches.append((order[at : at + full], edges[number], full))
        at += full
    return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]
