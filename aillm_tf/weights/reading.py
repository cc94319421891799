"""Tensors of a file as the value of one variable: checked, converted, turned and joined in a single pass."""

from __future__ import annotations

import ctypes
import functools
import math
import mmap
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from aillm_tf.machine import cores
from aillm_tf.weights.tensor_file import FLOATS, Stored, has_nan

_BLOCK = 1 << 18  # bytes of a tensor that are checked and converted while they are in the cache
_PIECE = 1 << 21  # bytes that a thread copies before it gives back the pages of the file
_BFLOAT16 = FLOATS["BF16"]
_LARGE = 1 << 20  # bytes
_LINE = 64  # bytes that the processor moves at once
_POPULATE_READ, _POPULATE_WRITE = 22, 23  # advice to madvise, since Linux 5.14: map all pages in one call


def read_stored(parts: tuple[Stored, ...], dtype: str | np.dtype = "float32", turned: bool = False) -> np.ndarray:
    """Reads one variable's value.

    Args:
        parts: the tensors it is joined from, side by side.
        dtype: what to convert to.
        turned: the file has the two axes the other way round.

    Returns:
        A new array on a 64-byte boundary, which TensorFlow can take over instead of copying it.

    Raises:
        ValueError: a tensor holds a NaN; names it and its file.
    """
    target, at = _aligned(joined_shape(parts, turned), np.dtype(dtype)), 0
    for part in parts:
        source = np.atleast_1d(part.array())
        width = len(source) if turned else source.shape[-1]
        view = np.atleast_1d(target)[..., at : at + width]
        at += width
        rows = max(_PIECE * len(source) // max(source.nbytes, 1) // _LINE, 1) * _LINE
        pieces = [slice(start, start + rows) for start in range(0, len(source), rows)]
        copy = functools.partial(_copy, part, source, view, turned)
        # numpy lets the other threads run while it reads, converts and writes
        for _ in map(copy, pieces) if len(pieces) == 1 else _threads().map(copy, pieces):
            pass
    return target


def _copy(part: Stored, source: np.ndarray, view: np.ndarray, turned: bool, piece: slice) -> None:
    """Copies some rows of the file, block by block."""
    source, view = source[piece], view[:, piece] if turned else view[piece]
    _advised(source, _POPULATE_READ)
    # Turned, a few rows of the file make one whole cache line of each row of the variable.
    few = _LINE // view.itemsize if turned else 1
    rows = max(_BLOCK * len(source) // max(source.nbytes, 1) // few, 1) * few
    for start in range(0, len(source), rows):
        block = source[start : start + rows]
        if has_nan(block):
            raise ValueError(f"{part.file}: tensor {part.name} has NaN values: the checkpoint is broken, use another")
        block = _converted(block, view.dtype)
        if turned:
            for row in range(0, len(block), few):
                to = view[:, start + row : start + row + few].view(block.dtype)
                _turn(block[row : row + few], to)
        else:
            view[start : start + rows].view(block.dtype)[...] = block
    first = piece.start * (part.end - part.begin) // max(part.shape[0] if part.shape else 1, 1)
    part.release(first, source.nbytes)


def _turn(block: np.ndarray, to: np.ndarray) -> None:
    """`to[...] = block.T`; 16-bit numbers in pairs of rows, as numpy moves them one by one."""
    if block.dtype != np.uint16 or len(block) % 2 or to.ctypes.data % 4 or to.strides[0] % 4:
        to[...] = block.T
        return
    pairs = block[1::2].astype(np.uint32)
    pairs <<= 16
    pairs |= block[::2]  # the first row lies first in memory: the processors TensorFlow runs on are little-endian
    to.view(np.uint32)[...] = pairs.T


def _converted(block: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The block in another type; bfloat16, which numpy handles number by number, by its bits."""
    if block.dtype != _BFLOAT16:
        return block.astype(dtype, copy=False)
    if dtype == _BFLOAT16:
        return block.view(np.uint16)
    if dtype == np.float32:  # its upper half
        bits = block.view(np.uint16).astype(np.uint32)
        bits <<= 16
        return bits.view(np.float32)
    return block.astype(dtype)


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(cores(), 4), "aillm-reading")


def joined_shape(parts: tuple[Stored, ...], turned: bool) -> tuple[int, ...]:
    """The shape of a variable that is joined from these tensors.

    Raises:
        ValueError: they do not fit side by side; names them.
    """
    shapes = [part.shape[::-1] if turned else part.shape for part in parts]
    one_matrix = len({shape[:-1] for shape in shapes}) == 1 and (len(parts) == 1 or all(shapes))
    if not one_matrix or (turned and any(len(shape) != 2 for shape in shapes)):
        told = ", ".join(f"{part.name} {list(part.shape)}" for part in parts)
        raise ValueError(f"{parts[0].file}: wrong shapes: {told} do not make one matrix")
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes)) if len(shapes) > 1 else shapes[0]


def _make_pages(piece: np.ndarray) -> None:
    """Has the kernel map the pages of new memory: in one call, or one by one by writing to them."""
    if not _advised(piece, _POPULATE_WRITE):
        piece[:: mmap.PAGESIZE].fill(0)


def _advised(piece: np.ndarray, advice: int) -> bool:
    """Whether the kernel took an advice about the pages of an array's memory."""
    if _libc() is None:
        return False
    before = piece.ctypes.data % mmap.PAGESIZE
    start, size = ctypes.c_void_p(piece.ctypes.data - before), ctypes.c_size_t(piece.nbytes + before)
    return _libc().madvise(start, size, advice) == 0


@functools.cache
def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A new array on a 64-byte boundary."""
    size = math.prod(shape) * dtype.itemsize
    if size >= _LARGE and hasattr(mmap, "MAP_ANONYMOUS"):
        # Not from numpy, which asks for huge pages: where memory is in pieces, making those takes longer than the copy.
        # Made by all threads first: most of the time of a copy into new memory is the kernel's, clearing its pages.
        memory = np.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
        for _ in _threads().map(_make_pages, (memory[start : start + _PIECE] for start in range(0, size, _PIECE))):
            pass
        return memory.view(dtype).reshape(shape)
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return memory[start : start + size].view(dtype).reshape(shape)
