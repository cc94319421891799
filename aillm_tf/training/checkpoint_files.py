"""The files of one checkpoint: tensors as safetensors, state.json with the size and SHA-256 of each.

Every function writes or checks bytes; which checkpoints exist, and which to keep, is decided in ``checkpoint.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import safe_open

try:
    import fcntl
except ImportError:  # Windows: that one process writes to a directory is then the user's promise
    fcntl = None

FORMAT = 1
STATE_FILE = "state.json"
SUFFIX = ".safetensors"
BLOCK = 1 << 20  # bytes hashed or written at a time
GROUP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
SAFETENSORS_DTYPES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
}


class DamagedCheckpoint(RuntimeError):
    """A checkpoint cannot be trusted; the message names the file and what is wrong with it."""


def plain(value: Any, where: str) -> Any:
    """The value as json.load will give it back; json alone would turn integer keys into strings unasked."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: JSON keys are strings")
        return {key: plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise TypeError(f"{where} is a {type(value).__name__}: JSON cannot hold it; put arrays in a group")


def checked_tensors(group: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not GROUP_NAME.fullmatch(group):
        raise ValueError(f"group {group!r} is no file name: use letters, digits, '_', '-' and '.'")
    checked = {}
    for name, tensor in tensors.items():
        array = np.asarray(tensor)
        if name == "__metadata__" or array.dtype.name not in SAFETENSORS_DTYPES:
            raise ValueError(
                f"tensor {name!r} of group {group!r} ({array.dtype}) cannot be stored: safetensors takes bool, "
                "integers and floats, under any name but __metadata__"
            )
        checked[name] = array
    return checked


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Writes a safetensors file; the library's own writer hides the cause of an OSError and hashes nothing.

    Reference: https://github.com/huggingface/safetensors#format
    """
    header, end = {}, 0
    # The widest first, so that every tensor begins at a multiple of its own width.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    for name, array in ordered:
        start, end = end, end + array.nbytes
        dtype = SAFETENSORS_DTYPES[array.dtype.name]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8 bytes
    with open(path, "wb") as file:
        digest = hashlib.sha256()
        _write(file, digest, len(text).to_bytes(8, "little") + text)
        for _, array in ordered:
            little = array.astype(array.dtype.newbyteorder("<"), copy=False) if array.dtype.kind in "iuf" else array
            # A view as bytes, because bfloat16 has no buffer protocol; reshape makes a strided array contiguous.
            _write(file, digest, little.reshape(-1).view(np.uint8))
        _fsync(file)
        return {"sha256": digest.hexdigest(), "bytes": file.tell()}


def _write(file: BinaryIO, digest: Any, data: bytes | np.ndarray) -> None:
    view = memoryview(data)
    for start in range(0, len(view), BLOCK):
        block = view[start : start + BLOCK]
        digest.update(block)
        file.write(block)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="np") as file:
            if any(file.get_slice(name).get_dtype() == "BF16" for name in file.keys()):  # noqa: SIM118 (not a dict)
                import ml_dtypes  # noqa: F401 (gives numpy its bfloat16)
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{path}: missing (a newer save may have deleted this checkpoint)") from error


def write_state(path: Path, content: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**content, "sha256": _digest(content)}, file, indent=1)
        file.write("\n")
        _fsync(file)


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_state(path: Path) -> dict[str, Any]:
    file = path / STATE_FILE
    try:
        content = json.loads(file.read_bytes())
        recorded = content.pop("sha256")
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{file}: missing") from error
    except OSError as error:
        raise DamagedCheckpoint(f"{file}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # ValueError covers bad UTF-8 too
        raise DamagedCheckpoint(f"{file}: no valid JSON of a checkpoint ({error})") from error
    if _digest(content) != recorded:
        raise DamagedCheckpoint(f"{file}: checksum differs from the one written")
    if content["format"] != FORMAT:
        raise DamagedCheckpoint(f"{file}: format {content['format']} is not {FORMAT}: written by another aillm_tf?")
    return content


def check_file(path: Path, recorded: dict[str, Any]) -> None:
    """Compares a file's size and SHA-256 with those recorded; raises DamagedCheckpoint where they differ."""
    try:
        size = path.stat().st_size
        if size != recorded["bytes"]:
            wrong = "truncated" if size < recorded["bytes"] else "longer than written"
            raise DamagedCheckpoint(f"{path}: {wrong} ({size} bytes of {recorded['bytes']})")
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except FileNotFoundError as error:
        raise DamagedCheckpoint(f"{path}: missing") from error
    except OSError as error:
        raise DamagedCheckpoint(f"{path}: cannot be read ({error.strerror})") from error
    if digest.hexdigest() != recorded["sha256"]:
        raise DamagedCheckpoint(f"{path}: checksum differs from the one in {STATE_FILE}")


def _fsync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def fsync_directory(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a directory; NTFS journals the rename itself
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Holds the directory's lock, which the kernel frees when a process dies; yields False where another has it."""
    if fcntl is None:
        yield True
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except OSError:
            pass  # a network file system without locks: as on Windows
        yield True
    finally:
        os.close(handle)
