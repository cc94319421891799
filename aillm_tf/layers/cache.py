"""Keys and values of tokens computed before, in arrays of a fixed number of slots, so that shapes stay static.

The token at position p of a row lies in slot p modulo their number: a cache is a ring, in which new tokens take the
place of the oldest once it is full. A row of a batch may be shorter than others when it is padded at its end: what
padding wrote lies after all that the row's tokens may see, and is overwritten when the row goes on.
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
        at: int, with `at + length` not more than the capacity; or scalar or (batch,) int tensor, from which on entries
            go round: those past the last slot are written over the first, the oldest.

    Returns:
        (batch, heads, capacity, width).

    Raises:
        ValueError: there is no room for so many entries from an int `at` on.
    """
    shape = (*ops.shape(new)[:3], 1)
    if isinstance(at, int):
        length, capacity = shape[2], cache.shape[2]
        if isinstance(length, int) and capacity is not None and at + length > capacity:
            raise ValueError(f"{length} tokens from position {at} on do not fit a cache of {capacity}: make it larger")
        parts = [cache[:, :, :at], ops.cast(new, cache.dtype), cache[:, :, at + length :]]
        # the number of slots stays known where the number of tokens is not
        return ops.reshape(ops.concatenate(parts, axis=2), ops.shape(cache))
    row, head = ops.arange(shape[0], dtype="int32"), ops.arange(shape[1], dtype="int32")
    slots = positions_at(at, shape[2]) % ops.shape(cache)[2]
    places = (row[:, None, None], head[:, None], slots[:, None])
    places = ops.concatenate([ops.broadcast_to(i[..., None], shape) for i in places], axis=-1)
    new = ops.reshape(ops.cast(new, cache.dtype), (-1, cache.shape[3]))
    return ops.scatter_update(cache, ops.reshape(places, (-1, 3)), new)


def slot_positions(last, capacity):
    """The position of the token in every slot.

    Args:
        last: (batch or 1, 1) int32, the newest position that was written.
        capacity: number of slots.

    Returns:
        (batch or 1, capacity) int32; below 0 for slots that were not written.

    Example:
        >>> slot_positions(ops.convert_to_tensor([[5]]), 4).numpy().tolist()
        [[4, 5, 2, 3]]
    """
    return last - (last - ops.arange(capacity, dtype="int32")) % capacity


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


def reorder(cache, rows):
    """The cache of other rows: of beams that changed places.

    Args:
        cache: what `init_cache` of a decoder or an encoder-decoder returned. What it holds of a source stays where it
            is: beams of one source take each other's places only.
        rows: (new batch,) int32, the row that each new row was.

    Returns:
        A cache of the same structure.
    """
    layers = cache["layers"] if isinstance(cache, dict) else cache

    def taken(arrays: dict) -> dict:
        return {name: ops.take(array, rows, axis=0) for name, array in arrays.items()}

    moved = tuple({**layer, "self": taken(layer["self"])} if "self" in layer else taken(layer) for layer in layers)
    return {**cache, "layers": moved} if isinstance(cache, dict) else moved
