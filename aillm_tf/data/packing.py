"""Documents into rows of one length: best fit, longest first, so that hardly a position is padding.

Notable here: a document is cut only if it is longer than a row. Rows that have room are kept by how much, in one bit
each, so the row that fits best is found at once: O(n log n) for n documents, which is their sorting.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_WINDOW = 1 << 17  # pieces that are packed together: enough for any gap to find its piece


class Pieces(NamedTuple):
    """Documents, or parts of them, that stand in a row.

    Args:
        document: (pieces,) int64 which document each is of.
        start: (pieces,) int64 the first token of it.
        count: (pieces,) int64 tokens, what stands around a piece not counted.
        row: (pieces,) int64 its row, ascending.
    """

    document: np.ndarray
    start: np.ndarray
    count: np.ndarray
    row: np.ndarray


def pack(lengths: np.ndarray, row_length: int, around: int = 0) -> Pieces:
    """Put documents into rows.

    Args:
        lengths: (documents,) tokens of each.
        row_length: tokens of a row.
        around: tokens that stand around every piece, such as [CLS] and [SEP].

    Returns:
        :class:`Pieces`, those of a row in the order of the documents; rows in the order of their first piece.

    Example:
        >>> pack(np.array([5, 3, 2, 9]), 8).row.tolist()
        [0, 0, 1, 1, 2]

    Reference:
        Johnson, "Near-optimal bin packing algorithms", 1973 (best fit decreasing); Ding et al., "Fewer Truncations
        Improve Language Modeling", 2024, https://arxiv.org/abs/2404.10830.
    """
    room = row_length - around
    if room < 1:
        raise ValueError(f"a row of {row_length} tokens has no room beside the {around} that stand around a piece")
    lengths = np.asarray(lengths, np.int64)
    times = -(-lengths // room)
    document = np.repeat(np.arange(len(lengths)), times)
    start = room * (np.arange(len(document)) - np.repeat(np.cumsum(times) - times, times))
    count = np.minimum(lengths[document] - start, room)
    rows, done = [np.zeros(0, np.int64)], 0
    for begin in range(0, len(count), _WINDOW):
        window = _best_fit(count[begin : begin + _WINDOW] + around, row_length)
        rows.append(window + done)
        done += int(window.max()) + 1
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    return Pieces(document[order], start[order], count[order], row[order])


def _best_fit(sizes: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each piece, rows numbered by their first piece."""
    free: list[list[int]] = [[] for _ in range(capacity + 1)]  # rows by the room they have
    some = 0  # bit n: there is a row with room for exactly n
    made = 0
    row = np.empty(len(sizes), np.int64)
    order = np.argsort(-sizes, kind="stable")
    for piece, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        fitting = some >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            chosen = free[room].pop()
            if not free[room]:
                some ^= 1 << room
        else:
            chosen, room = made, capacity
            made += 1
        row[piece] = chosen
        left = room - size
        if left:
            free[left].append(chosen)
            some |= 1 << left
    first = np.unique(row, return_index=True)[1]
    number = np.empty(made, np.int64)
    number[np.argsort(first)] = np.arange(made)
    return number[row]
