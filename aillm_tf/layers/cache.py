"""Keys and values of tokens computed before, in arrays of a fixed number of slots, so that shapes stay static.

The token at position p of a row lies in slot p. A row of a batch may be shorter than others when it is padded at its
end: what padding wrote lies after all that the row's tokens may see, and is overwritten when the row goes on.
"""

from __future__ import annotations

from keras import ops


def positions_at(at, length: int):
    """The positions of `length` tokens of which the first stands at `at`.

    Args:
        at: int, or scalar or (batch,) int tensor.
        length: number of tokens.

    Returns:
        (batch or 1, length) int32.

    Example:
        >>> positions_at(ops.convert_to_tensor([0, 7]), 2).numpy().tolist()
        [[0, 1], [7, 8]]
    """
    return ops.reshape(ops.cast(at, "int32"), (-1, 1)) + ops.arange(length, dtype="int32")


def write_slots(cache, new, at):
    """The cache with new entries from slot `at` on.

    Args:
        cache: (batch, heads, capacity, width).
        new: (batch, heads, length, width).
        at: int, or scalar or (batch,) int tensor; `at + length` may not be more than the capacity.

    Returns:
        (batch, heads, capacity, width).

    Raises:
        ValueError: there is no room for so many entries from an int `at` on. A tensor is not looked into: TensorFlow
            itself raises on a CPU, and loses the entry elsewhere.
    """
    shape = (*ops.shape(new)[:3], 1)
    if isinstance(at, int):
        length, capacity = shape[2], cache.shape[2]
        if isinstance(length, int) and at + length > capacity:
            raise ValueError(f"{length} tokens from position {at} on do not fit a cache of {capacity}: make it larger")
        parts = [cache[:, :, :at], ops.cast(new, cache.dtype), cache[:, :, at + length :]]
        # the number of slots stays known where the number of tokens is not
        return ops.reshape(ops.concatenate(parts, axis=2), ops.shape(cache))
    row, head = ops.arange(shape[0], dtype="int32"), ops.arange(shape[1], dtype="int32")
    places = (row[:, None, None], head[:, None], positions_at(at, shape[2])[:, None])
    places = ops.concatenate([ops.broadcast_to(i[..., None], shape) for i in places], axis=-1)
    new = ops.reshape(ops.cast(new, cache.dtype), (-1, cache.shape[3]))
    return ops.scatter_update(cache, ops.reshape(places, (-1, 3)), new)


def read_slots(cache, at, length: int):
    """The slots that `length` tokens from `at` on may see: all of them, or fewer where `at` is an int.

    Args:
        cache: (batch, heads, capacity, width).
        at: as for `write_slots`; or None.
        length: number of tokens.

    Returns:
        (batch, heads, at + length or capacity, width).
    """
    return cache[:, :, : at + length] if isinstance(at, int) else cache
