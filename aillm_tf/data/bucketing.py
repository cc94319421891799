"""Which rows stand together in a batch: batches of similar length, each with one of a few static shapes.

Rows are ordered by bucket (longest first) and shuffled within their bucket; batches are cut from that order and
then shuffled. Bucket sizes do not change between epochs, so neither do the cuts: an epoch has the same number of
batches, of the same shapes, whatever its shuffle, and every row is in exactly one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LENGTHS = (8, 16, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 320, 384, 512, 768, 1024, 1536, 2048, 4096)


def bucket_lengths(max_length: int, fixed: bool = False) -> tuple[int, ...]:
    """The static lengths that batches may have, ascending; only `max_length` when `fixed`."""
    return (max_length,) if fixed else (*(n for n in LENGTHS if n < max_length), max_length)


def plan_epoch(
    lengths: np.ndarray,
    edges: Sequence[int],
    *,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    rng: np.random.Generator | None = None,
) -> list[tuple[np.ndarray, int, int]]:
    """Cut an epoch into batches.

    Args:
        lengths: (rows,) tokens of every row.
        edges: bucket lengths, ascending; the last is at least the longest row.
        batch_size: rows of a batch; or
        tokens_per_batch: rows x length of a batch, padding included; short rows make batches of many rows.
        rng: shuffles rows and batches; None keeps the order within buckets.

    Returns:
        One (row numbers, length, rows of a full batch) for every batch; only the last cut may be short of rows.
    """
    if (batch_size is None) == (tokens_per_batch is None):
        raise ValueError("give either batch_size or tokens_per_batch")
    size = tokens_per_batch if batch_size is None else batch_size
    if size < 1:
        raise ValueError(f"a batch of {size}: give at least 1")
    edges = np.asarray(edges)
    if len(lengths) and lengths.max() > edges[-1]:
        raise ValueError(
            f"row {int(lengths.argmax())} has {lengths.max()} tokens, more than the longest bucket {edges[-1]}"
        )
    bucket = np.searchsorted(edges, lengths)
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    order = order[np.argsort(-bucket[order], kind="stable")]
    batches, at = [], 0
    while at < len(order):
        length = int(edges[bucket[order[at]]])
        full = batch_size or max(1, tokens_per_batch // length)
        batches.append((order[at : at + full], length, full))
        at += full
    return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]
