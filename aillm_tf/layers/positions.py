"""Where a token stands: sinusoidal, rotary, T5-relative and ALiBi positions, as functions.

References: Vaswani et al. 2017 (arXiv:1706.03762); Su et al. 2021 (arXiv:2104.09864); Raffel et al. 2020
(arXiv:1910.10683); Press et al. 2022 (arXiv:2108.12409).
"""

from __future__ import annotations

import math

import numpy as np
from keras import ops


def sinusoidal(positions, size: int):
    """Sine and cosine features, (..., length) -> (..., length, size) float32; sines first, then cosines."""
    frequency = np.exp(-math.log(10_000.0) * np.arange(size // 2) / (size // 2)).astype("float32")
    angle = ops.expand_dims(ops.cast(positions, "float32"), -1) * frequency
    return ops.concatenate([ops.sin(angle), ops.cos(angle)], axis=-1)


def rotary(x, positions, theta: float = 10_000.0):
    """Rotate pairs (i, i + size/2) of every head by an angle that grows with the position.

    Args:
        x: (batch, heads, length, size).
        positions: (batch, length) int.
    """
    half = x.shape[-1] // 2
    frequency = (theta ** (-np.arange(half) / half)).astype("float32")
    angle = ops.expand_dims(ops.cast(positions, "float32"), -1) * frequency  # (batch, length, half)
    cos, sin = ops.expand_dims(ops.cos(angle), 1), ops.expand_dims(ops.sin(angle), 1)
    y = ops.cast(x, "float32")
    a, b = y[..., :half], y[..., half:]
    return ops.cast(ops.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1), x.dtype)


def relative_bucket(distance, buckets: int, max_distance: int, bidirectional: bool):
    """T5's bucket of a key's distance from its query: exact up close, logarithmic further away.

    Args:
        distance: int32 key position minus query position, any shape.
        buckets: number of buckets; half of them for each direction when `bidirectional`.
        max_distance: distances from here on share the last bucket.
    """
    start = 0
    if bidirectional:
        buckets //= 2
        start = ops.cast(distance > 0, "int32") * buckets
        distance = ops.abs(distance)
    else:
        distance = ops.maximum(-distance, 0)
    exact = buckets // 2
    far = ops.log(ops.cast(ops.maximum(distance, 1), "float32") / exact) / math.log(max_distance / exact)
    far = ops.minimum(exact + ops.cast(far * (buckets - exact), "int32"), buckets - 1)
    return start + ops.where(distance < exact, distance, far)


def alibi_slopes(heads: int) -> np.ndarray:
    """The slope of every head: a geometric sequence, interleaved from the next power of two where needed."""

    def powers(n: int) -> list[float]:
        return [2.0 ** (-8.0 * (i + 1) / n) for i in range(n)]

    base = 2 ** math.floor(math.log2(heads))
    return np.array(powers(base) + powers(2 * base)[0::2][: heads - base], "float32")


def alibi(query_positions, key_positions, heads: int):
    """-slope * |query - key|, (batch, query) and (batch, key) -> (batch, heads, query, key) float32."""
    gap = ops.expand_dims(query_positions, -1) - ops.expand_dims(key_positions, -2)  # (batch, query, key)
    return -ops.expand_dims(ops.cast(ops.abs(gap), "float32"), 1) * alibi_slopes(heads)[:, None, None]
