"""safetensors files: memory-mapped in, written one tensor after the other.

The format is 8 bytes (the header's size, little-endian), a JSON header {name: {dtype, shape, data_offsets}}, and the
tensors' bytes end to end. It is read here rather than by the safetensors package, because the numpy side of that knows
no bfloat16 and copies every tensor once more than is needed.

Reference: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16}
_BITS |= {"I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64}
_NAMES = {dtype: name for name, dtype in FLOATS.items()}
_LARGEST_HEADER = 100_000_000  # bytes; the limit of the reference implementation


class Stored(NamedTuple):
    """A tensor in a file.

    Attributes:
        name: as the file has it.
        file: where it is.
        dtype: safetensors' name of its type, "F32".
        shape: its sizes.
        begin, end: its bytes in the file.
        mapped: the file in memory.
    """

    name: str
    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    mapped: mmap.mmap

    def array(self) -> np.ndarray:
        """The tensor where it lies in the mapped file: read-only, nothing copied. Only of a type in FLOATS."""
        count = math.prod(self.shape)
        return np.frombuffer(self.mapped, FLOATS[self.dtype], count, self.begin).reshape(self.shape)

    def release(self, first: int = 0, size: int | None = None) -> None:
        """Gives back the memory of the file's pages that were read; they are fetched again if need be.

        Args:
            first, size: bytes of the tensor; all of them by default.
        """
        begin = (self.begin + first) // mmap.PAGESIZE * mmap.PAGESIZE
        end = self.end if size is None else self.begin + first + size
        if hasattr(mmap, "MADV_DONTNEED") and end > begin:
            self.mapped.madvise(mmap.MADV_DONTNEED, begin, end - begin)


def open_file(file: Path) -> list[Stored]:
    """Maps a safetensors file into memory and reads its table of contents.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is cut off, or its header does not describe it.
    """
    with file.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError(f"{file}: damaged or cut off (it has {size} bytes); fetch it again")
        if length > _LARGEST_HEADER:
            raise ValueError(f"{file}: damaged (a header of {length} bytes); fetch it again")
        try:
            header = json.loads(stream.read(length), object_pairs_hook=_no_duplicates)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{file}: damaged: the header is not JSON ({error}); fetch it again") from error
        if not isinstance(header, dict):
            raise ValueError(f"{file}: damaged: the header is not a table; fetch it again")
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    tensors = [_stored(name, about, file, 8 + length, size, mapped) for name, about in header.items()]
    end = 8 + length
    for tensor in sorted(tensors, key=lambda tensor: (tensor.begin, tensor.end)):
        if tensor.begin != end:
            what = "overlaps the one before it" if tensor.begin < end else "leaves a gap before it"
            raise ValueError(f"{file}: the header is wrong: tensor {tensor.name} {what}; fetch the file again")
        end = tensor.end
    if end != size:
        raise ValueError(f"{file}: the header is wrong: {size - end} bytes belong to no tensor; fetch the file again")
    return tensors


def read_metadata(file: Path) -> dict[str, str]:
    """The strings in the header of a file that `open_file` opens."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return json.loads(stream.read(length)).get("__metadata__", {})


def save_file(tensors: Mapping[str, Any], file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a safetensors file, holding one tensor in memory at a time.

    Args:
        tensors: name to array, or to anything with shape and dtype that numpy can make an array of.
        file: where to.
        metadata: strings for the header; transformers wants {"format": "pt"}.

    Raises:
        OSError: the disk is full.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + math.prod(tensor.shape) * np.dtype(tensor.dtype).itemsize
        shape = [int(size) for size in tensor.shape]
        header[name] = {"dtype": _NAMES[np.dtype(tensor.dtype)], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            stream.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8))
        stream.flush()
        os.fsync(stream.fileno())  # the rename that follows must not outlive the content


def has_nan(values: np.ndarray) -> bool:
    """Whether a contiguous array of floats holds a NaN; makes no temporary array."""
    if values.size == 0:
        return False
    if values.dtype.itemsize > 2:
        return bool(np.isnan(values.max()))
    # In 16 bits the NaNs are the largest numbers of either sign; numpy compares integers much faster than halves.
    infinity = int(np.array(np.inf, values.dtype).view(np.uint16))
    return bool(values.view(np.int16).max() > infinity or values.view(np.uint16).max() > infinity + 0x8000)


def _stored(name: str, about: Any, file: Path, offset: int, size: int, mapped: mmap.mmap) -> Stored:
    try:
        dtype, shape, (begin, end) = about["dtype"], tuple(about["shape"]), about["data_offsets"]
        good = isinstance(dtype, str) and all(type(number) is int and number >= 0 for number in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{file}: the header is wrong about tensor {name}: {str(about)[:200]}; fetch the file again")
    if dtype not in _BITS:
        raise ValueError(f"{file}: tensor {name} is {dtype!r}; known are {', '.join(_BITS)}")
    if offset + end > size:
        raise ValueError(
            f"{file}: damaged or cut off: tensor {name} ends at byte {offset + end} of {size}; fetch it again"
        )
    if end - begin != math.prod(shape) * _BITS[dtype] // 8:
        raise ValueError(
            f"{file}: the header is wrong: tensor {name}, {dtype} {list(shape)}, has {end - begin} bytes; "
            "fetch the file again"
        )
    return Stored(name, file, dtype, shape, offset + begin, offset + end, mapped)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands in it twice")
    return table
