"""Who may attend to whom, as an additive float32 bias: 0 where allowed, a large negative number where not."""

from __future__ import annotations

from keras import ops

# large enough to vanish in a softmax, small enough that sums of biases stay finite in bfloat16 and float16
BLOCKED = -1e4


def attention_bias(
    valid=None, *, query_segments=None, key_segments=None, causal: bool = False, prefix=None, length=None
):
    """The bias of an attention matrix.

    Args:
        valid: (batch, key) bool or int; keys that may be attended to (not padding).
        query_segments, key_segments: (batch, query), (batch, key) int; packed rows: attention stays within
            a segment.
        causal: a query sees no key after itself,
        prefix: (batch, key) bool or int; but for these, which all queries see (Dong et al. 2019, arXiv:1905.03197).
        length: rows of the causal mask; the number of keys by default.

    Returns:
        (batch or 1, 1, query or 1, key) float32, or None where everything is allowed.

    Example:
        >>> attention_bias(causal=True, length=2)[0, 0].numpy().tolist()
        [[0.0, -10000.0], [0.0, 0.0]]
    """
    allowed = None
    if valid is not None:
        allowed = ops.cast(valid, "bool")[:, None, None, :]
    if query_segments is not None:
        same = ops.equal(query_segments[:, None, :, None], key_segments[:, None, None, :])
        allowed = same if allowed is None else ops.logical_and(allowed, same)
    if causal:
        at = ops.arange(length if length is not None else ops.shape(valid)[1])
        past = (at[:, None] >= at[None, :])[None, None]
        if prefix is not None:
            past = ops.logical_or(past, ops.cast(prefix, "bool")[:, None, None, :])
        allowed = past if allowed is None else ops.logical_and(allowed, past)
    return None if allowed is None else ops.where(allowed, 0.0, BLOCKED)


def past_bias(queries, keys):
    """The causal bias of queries that stand anywhere among the keys.

    Args:
        queries: (batch or 1, query) int, positions.
        keys: (batch or 1, key) int, positions; below 0 for keys that are none. Or the number of keys.

    Returns:
        (batch or 1, 1, query, key) float32.

    Example:
        >>> past_bias(ops.convert_to_tensor([[1]]), 3)[0, 0].numpy().tolist()
        [[0.0, 0.0, -10000.0]]
    """
    keys = _positions(keys)
    past = ops.logical_and(ops.expand_dims(queries, -1) >= keys, keys >= 0)
    return ops.where(past, 0.0, BLOCKED)[:, None]


def window_bias(queries, keys, window: int):
    """The bias that hides what is `window` or more tokens away, on either side (Beltagy et al. 2020, arXiv:2004.05150).

    Args:
        queries: (batch or 1, query) int, positions.
        keys: (batch or 1, key) int, positions; or the number of keys.
        window: tokens that a causal query sees, itself included.

    Returns:
        (batch or 1, 1, query, key) float32.

    Example:
        >>> window_bias(ops.arange(3)[None], 3, 2)[0, 0].numpy().tolist()
        [[0.0, 0.0, -10000.0], [0.0, 0.0, 0.0], [-10000.0, 0.0, 0.0]]
    """
    return ops.where(ops.abs(ops.expand_dims(queries, -1) - _positions(keys)) < window, 0.0, BLOCKED)[:, None]


def _positions(keys):
    """(batch or 1, 1, key) positions of keys given by number or by position."""
    return ops.expand_dims(keys, 1) if getattr(keys, "ndim", 0) == 2 else ops.arange(keys)[None, None]
