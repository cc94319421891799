"""Named arrays of any file as a Pretrained: what TF checkpoints, SavedModels and KerasHub presets have in common.

Their kernels are (inputs, outputs) as ours, some with the heads as an axis of their own: (hidden, heads, width) for
queries, keys and values, (heads, width, hidden) for the output.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 (names bfloat16 to numpy)
import numpy as np

from aillm_tf.models.config import TransformerConfig
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.weights.family import Family, Table
from aillm_tf.weights.loading import Pretrained
from aillm_tf.weights.names import is_turned, names
from aillm_tf.weights.tensor_file import has_nan

_DENSE, _NORM = ("kernel", "bias"), ("scale", "bias")
_FLOATS = ("float64", "float32", "float16", "bfloat16")


class Array(NamedTuple):
    """One tensor of a checkpoint, not read yet.

    Attributes:
        shape: its sizes.
        dtype: name of its type.
        read: gives it.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def dense(ours: str, *theirs: str, named: tuple[str, str] = ("kernel", "bias")) -> Table:
    """The lines of a table for a dense layer, or for several side by side."""
    return {
        f"{ours}/{part}": tuple(f"{name}/{end}" for name in theirs) for part, end in zip(_DENSE, named, strict=True)
    }


def norm(ours: str, theirs: str, named: tuple[str, str] = ("gamma", "beta")) -> Table:
    """The lines of a table for a LayerNorm."""
    return {f"{ours}/{part}": (f"{theirs}/{end}",) for part, end in zip(_NORM, named, strict=True)}


def zeros(*shape: int) -> Array:
    """A tensor that the checkpoint leaves out because it is zero by construction."""
    return Array(shape, "float32", lambda: np.zeros(shape, "float32"))


def below_rows(array: Array, rows: int) -> Array:
    """The table with so many rows of zeros, which no token uses, before its own."""
    shape = (array.shape[0] + rows, *array.shape[1:])
    return Array(shape, array.dtype, lambda: np.pad(array.read(), ((rows, 0), (0, 0))))


def assemble(
    folder: Path,
    config: TransformerConfig,
    family: Family,
    arrays: Mapping[str, Array],
    *,
    heads_first: bool = False,
    tokenizer: Callable[[], Tokenizer] | None = None,
) -> Pretrained:
    """A checkpoint seen with our names.

    Args:
        folder: where it is.
        config: of its backbone.
        family: its tables; whatever they name and the checkpoint lacks is left out.
        arrays: the checkpoint's name to its tensor.
        heads_first: queries, keys and values are stored (heads, hidden, width).
        tokenizer: makes the checkpoint's tokenizer.

    Raises:
        ValueError: of tensors that are joined only some are there, one is not of floats, or the checkpoint has more
            layers, or other parts of a layer, than the config.
    """
    table = names(family, config, family.heads)
    parts = {ours: [name for name in theirs if name in arrays] for ours, theirs in table.items()}
    parts = {ours: found for ours, found in parts.items() if found}
    for ours, found in parts.items():
        if len(found) < len(table[ours]):
            raise ValueError(f"{folder}: of {', '.join(table[ours])} only {', '.join(found)} is there")
        for name in found:
            if arrays[name].dtype not in _FLOATS:
                raise ValueError(
                    f"{folder}: tensor {name} is {arrays[name].dtype}; quantised checkpoints are not supported"
                )
    unused = set(arrays).difference(*parts.values())
    backbone = _backbone(family)
    extra = sorted(name for name in unused if backbone.fullmatch(name))
    if extra:
        more = f" and {len(extra) - 5} more" if len(extra) > 5 else ""
        raise ValueError(
            f"{folder}: its config leaves no place for {', '.join(extra[:5])}{more}: the config is of another model, "
            "or of a variant that is not supported"
        )
    turned = {ours: is_turned(family, ours) for ours in parts}

    def shape(ours: str) -> tuple[int, ...]:
        shapes = [_flat(ours, arrays[name].shape, turned[ours], heads_first)[1] for name in parts[ours]]
        return (*shapes[0][:-1], sum(shape[-1] for shape in shapes)) if len(shapes) > 1 else shapes[0]

    def read(ours: str, dtype: str = "float32") -> np.ndarray:
        values = []
        for name in parts[ours]:
            value = np.ascontiguousarray(arrays[name].read())
            if has_nan(value):
                raise ValueError(f"{folder}: tensor {name} has NaN values: the checkpoint is broken, use another")
            axes, flat = _flat(ours, value.shape, turned[ours], heads_first)
            values.append(value.transpose(axes).reshape(flat))
        joined = np.concatenate(values, axis=-1) if len(values) > 1 else values[0]
        return np.ascontiguousarray(joined, np.dtype(dtype))

    shapes = {ours: shape(ours) for ours in parts}
    classes = shapes.get("classifier/kernel", (0,))[-1]
    return Pretrained(
        folder=folder,
        config=config,
        shapes=shapes,
        read=read,
        labels=[f"LABEL_{i}" for i in range(classes)] or None,
        unused=tuple(sorted(unused)),
        tokenizer=tokenizer,
    )


def _backbone(family: Family) -> re.Pattern:
    """Matches the names that a family has for anything in its backbone."""
    tables = (family.tensors, family.layer, family.decoder_layer, *(table for _, table in family.instead))
    found = {name for table in tables for theirs in table.values() for name in theirs}
    return re.compile("|".join(re.escape(name).replace(r"\{i\}", r"\d+") for name in found))


def tokenizer_of(files: Mapping[str, Path], settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer of files that lie elsewhere, or are called otherwise, than in a folder of Hugging Face.

    Args:
        files: the name that Hugging Face has for a file, and where it is.
        settings: what tokenizer_config.json would say, "tokenizer_class" above all.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, file in files.items():
            shutil.copyfile(file, Path(folder) / name)
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
        return Tokenizer.from_folder(folder)


def _flat(
    name: str, shape: tuple[int, ...], turned: bool, heads_first: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes in the order in which, and the sizes with which, our variable is the tensor of this shape."""
    axes = tuple(range(len(shape)))
    if turned:
        axes = axes[::-1]
    elif heads_first and len(shape) == 3 and name.endswith("/qkv/kernel"):
        axes = (1, 0, 2)
    shape = tuple(shape[axis] for axis in axes)
    if name.endswith("/out/kernel"):
        return axes, (math.prod(shape[:-1]), shape[-1])
    if name.endswith("/kernel"):
        return axes, (shape[0], math.prod(shape[1:]))
    return axes, (math.prod(shape),) if name.endswith("/bias") else shape
