"""safetensors files: what is read, and what is refused because its header lies."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from aillm_tf.weights.tensor_file import FLOATS, has_nan, open_file, save_file


def file_with(path: Path, header: dict | bytes, data: bytes = b"\0" * 16) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path / "model.safetensors"


def tensor(begin: int, end: int, shape=(2,), dtype="F32") -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=str)
def test_file_of_the_reference_implementation_is_read(tmp_path, dtype):
    arrays = {"a": np.arange(6).reshape(2, 3).astype(dtype), "b": np.array(2.5, dtype), "none": np.zeros((0, 3), dtype)}
    safetensors.numpy.save_file(arrays, tmp_path / "x.safetensors", {"format": "pt"})
    read = {stored.name: stored.array() for stored in open_file(tmp_path / "x.safetensors")}
    assert {name: (a.dtype, a.shape, a.tobytes()) for name, a in read.items()} == {
        name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()
    }


def test_reference_implementation_reads_what_is_written(tmp_path):
    arrays = {"a": np.arange(6, dtype="float32").reshape(2, 3), "b": np.ones(3, "float16"), "c": np.array(1.0)}
    save_file(arrays, tmp_path / "x.safetensors", {"format": "pt"})
    read = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert {name: (a.dtype, a.tolist()) for name, a in read.items()} == {
        name: (a.dtype, a.tolist()) for name, a in arrays.items()
    }


def test_bytes_that_are_given_back_are_read_again(tmp_path):
    save_file({"a": np.arange(100_000, dtype="float32")}, tmp_path / "x.safetensors")
    (stored,) = open_file(tmp_path / "x.safetensors")
    before = stored.array().sum()
    stored.release()
    assert stored.array().sum() == before


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"a": tensor(8, 24)}, "damaged or cut off: tensor a ends at byte"),
        ({"a": tensor(0, 8)}, "8 bytes belong to no tensor"),
        ({"a": tensor(8, 16)}, "tensor a leaves a gap before it"),
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, "tensor b overlaps the one before it"),
        ({"a": tensor(0, 8), "b": tensor(0, 8)}, "tensor b overlaps the one before it"),
        ({"a": tensor(0, 8, shape=(3,))}, r"tensor a, F32 \[3\], has 8 bytes"),
        ({"a": tensor(0, 8, shape=(2**40, 2**40))}, "tensor a, F32 .* has 8 bytes"),
        ({"a": tensor(8, 0)}, "tensor a, F32 .* has -8 bytes"),
        ({"a": tensor(-8, 0)}, "wrong about tensor a"),
        ({"a": tensor(0, 8, shape=(-1, -2))}, "wrong about tensor a"),
        ({"a": tensor(0, 8, shape=(2.0,))}, "wrong about tensor a"),
        ({"a": tensor(0, 8, shape=("2",))}, "wrong about tensor a"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "wrong about tensor a"),
        ({"a": "F32"}, "wrong about tensor a"),
        ({"a": tensor(0, 8, dtype="X9")}, "tensor a is 'X9'; known are"),
        ({"a": tensor(0, 8, dtype=["F32"])}, "wrong about tensor a"),
        ([1, 2], "not a table"),
        (b"{", "the header is not JSON"),
        (b"\xff\xfe", "the header is not JSON"),
        (b"[" * 100_000, "the header is not JSON"),
        (b'{"a": 1, "a": 2}', "a name stands in it twice"),
    ],
    ids=range(21),
)
def test_header_that_lies_is_refused(tmp_path, header, reason):
    with pytest.raises(ValueError, match=rf"model.safetensors: .*{reason}"):
        open_file(file_with(tmp_path, header))


@pytest.mark.parametrize("length", [2**63, 100_000_001, 30])
def test_header_longer_than_the_file_is_refused(tmp_path, length):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(ValueError, match=r"x.safetensors: damaged or cut off \(it has 10 bytes\)"):
        open_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", FLOATS.values(), ids=str)
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_is_found_and_infinity_is_none(dtype, sign):
    values = np.array([0, -3, np.inf, -np.inf, float(np.finfo(np.float16).max)], dtype)
    assert not has_nan(values)
    assert has_nan(np.append(values, np.copysign(np.array([np.nan]), sign).astype(dtype)))


def test_every_nan_of_16_bits_is_found():
    for dtype in (np.float16, ml_dtypes.bfloat16):
        values = np.arange(1 << 16, dtype=np.uint16).view(dtype)
        with np.errstate(invalid="ignore"):
            nan = np.isnan(values.astype(np.float64))
        assert [has_nan(values[i : i + 1]) for i in range(1 << 16)] == nan.tolist()
