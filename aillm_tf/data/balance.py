"""Class-balanced sampling: an epoch draws as many rows of every class."""

from __future__ import annotations

import numpy as np


def balanced_rows(classes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Numbers of rows, as many as there are rows, of which every class has the same share.

    Rows of a small class come several times, each equally often but for the remainder; of a large class some are left
    out, drawn anew every time. Where the rows do not divide evenly, the first classes have one more.

    Args:
        classes: (rows,) int, the class of each.
        rng: decides which rows.

    Example:
        >>> classes = np.array([0, 0, 0, 0, 0, 1])
        >>> np.bincount(classes[balanced_rows(classes, np.random.default_rng(0))])
        array([3, 3])
    """
    of_class = [np.flatnonzero(classes == label) for label in np.unique(classes)]
    counts = [len(part) for part in np.array_split(classes, len(of_class))]
    drawn = []
    for rows, count in zip(of_class, counts, strict=True):
        whole, rest = divmod(count, len(rows))
        drawn += [np.tile(rows, whole), rng.choice(rows, rest, replace=False)]
    return np.concatenate(drawn)
