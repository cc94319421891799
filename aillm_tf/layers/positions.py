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


def rotary_frequencies(size: int, theta: float = 10_000.0, scaling: dict | None = None) -> np.ndarray:
    """The angle by which every pair of features turns from one token to the next.

    Args:
        size: features of a head.
        theta: base of the geometric sequence.
        scaling: how a model was stretched to longer inputs, as in Hugging Face's config.json: {"rope_type": "linear",
            "factor"} divides all frequencies (Chen et al. 2023, arXiv:2306.15595); {"rope_type": "llama3", "factor",
            "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"} only the slow ones (Grattafiori
            et al. 2024, arXiv:2407.21783). None or {"rope_type": "default"}: as they are.

    Returns:
        (size // 2,) float32, radians a token.

    Raises:
        ValueError: another type of scaling, or a number that it lacks.

    Example:
        >>> rotary_frequencies(4).tolist()
        [1.0, 0.009999999776482582]
    """
    frequencies = theta ** (-np.arange(size // 2) / (size // 2))
    scaling = scaling or {"rope_type": "default"}
    kind = scaling.get("rope_type", scaling.get("type"))
    needed = {
        "default": (),
        "linear": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    }
    if kind not in needed:
        raise ValueError(f"rope_scaling has the type {kind!r}: supported are {', '.join(needed)}")
    missing = [name for name in needed[kind] if scaling.get(name) is None]
    if missing:
        raise ValueError(f"rope_scaling of the type {kind!r} lacks {', '.join(missing)}: give a number for each")
    if kind == "linear":
        frequencies = frequencies / scaling["factor"]
    elif kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * math.pi)
        kept = np.clip((turns - low) / (high - low), 0.0, 1.0)  # 0: slowed down by the factor, 1: as it was
        frequencies = frequencies * (kept + (1.0 - kept) / scaling["factor"])
    return frequencies.astype("float32")


def rotary_angles(positions, frequencies):
    """Cosine and sine of the angle of every token and pair of features.

    Args:
        positions: (batch or 1, length) int.
        frequencies: (size / 2,), see `rotary_frequencies`.

    Returns:
        Two tensors (batch or 1, 1, length, size / 2) float32, for `rotate`.
    """
    angle = ops.expand_dims(ops.cast(positions, "float32"), -1) * frequencies  # (batch, length, size / 2)
    return ops.expand_dims(ops.cos(angle), 1), ops.expand_dims(ops.sin(angle), 1)


def rotate(x, angles):
    """Rotate the pairs (i, i + size / 2) of every head.

    Args:
        x: (batch, heads, length, size).
        angles: what `rotary_angles` returns.

    Returns:
        The shape and dtype of x.
    """
    cos, sin = angles
    half = x.shape[-1] // 2
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
