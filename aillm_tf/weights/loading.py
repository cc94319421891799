"""Hugging Face folders to the layer stack's variables and back, one tensor at a time.

Notable:
    - files are memory-mapped: loading needs the memory of the largest tensor beside the model's own;
    - every tensor of the checkpoint is accounted for: assigned, listed as not needed, or an error;
    - a new family is one file like :mod:`aillm_tf.weights.bert` and its line in ``FAMILIES``.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights import bert
from aillm_tf.weights.resolve import refuse_pickle

if TYPE_CHECKING:
    from aillm_tf.text.tokenizer import Tokenizer

FAMILIES = {"bert": bert}  # model_type in config.json
HEADS = ("classifier/", "pooler/", "mlm/")  # what a checkpoint for another task may lack

logger = logging.getLogger("aillm_tf")

_FLOATS = {"F64", "F32", "F16", "BF16"}


class _Stored(NamedTuple):
    """A tensor in a file."""

    name: str  # as the file has it
    file: Path
    opened: Any  # safetensors' handle, which maps the file into memory
    shape: tuple[int, ...]
    dtype: str

    def read(self) -> np.ndarray:
        try:
            value = self.opened.get_tensor(self.name).astype(np.float32, copy=False)
        except SafetensorError as error:
            raise ValueError(f"{self.file}: tensor {self.name} cannot be read: {error}") from error
        if np.isnan(value).any():
            raise ValueError(f"{self.file}: tensor {self.name} has NaN values: the checkpoint is broken, use another")
        return value


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A checkpoint, seen with our names; no tensor is read before it is asked for.

    Attributes:
        folder: where it is.
        config: the shape and formula of its backbone.
        shapes: our name to shape, of every variable that the checkpoint can fill.
        read: our name to float32 array.
        labels: names of the classes of its classifier; None where it has none.
        unused: the checkpoint's names of the tensors that have no place in the layer stack.
    """

    folder: Path
    config: TransformerConfig
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    labels: list[str] | None
    unused: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)


def load_pretrained(folder: str | os.PathLike) -> Pretrained:
    """Opens a model in Hugging Face layout: ``config.json`` and safetensors, in one file or in shards.

    Args:
        folder: a local folder; :func:`aillm_tf.weights.resolve.resolve` gives one for any source.

    Returns:
        The checkpoint, with nothing read yet but the tables of contents.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged, or the model is of a kind that is not supported.

    Example:
        >>> load_pretrained("tests/golden/bert_classifier").labels
        ['negative', 'neutral', 'positive']
    """
    folder = refuse_pickle(Path(folder))
    values = _read_json(folder / "config.json")
    family = FAMILIES.get(values.get("model_type"))
    if family is None:
        raise ValueError(
            f"{folder / 'config.json'}: model_type {values.get('model_type')!r} is not supported; "
            f"supported are {', '.join(FAMILIES)}"
        )
    try:
        config = family.read_config(values)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error

    stored = _canonical(_stored(folder), family)
    architecture = (values.get("architectures") or [None])[0]
    # A "classifier" of an architecture not listed may be one of tokens or of choices.
    tables = family.ARCHITECTURES.get(architecture, (family.POOLER, family.MASKED_LM))
    parts: dict[str, tuple[_Stored, ...]] = {}
    for ours, theirs in _names(family, config, tables).items():
        found = [stored.pop(name) for name in theirs if name in stored]
        if found and len(found) < len(theirs):
            raise ValueError(f"{folder}: of {', '.join(theirs)} only {', '.join(f.name for f in found)} is there")
        if found:
            parts[ours] = tuple(found)

    def read(name: str) -> np.ndarray:
        return _join(name, [part.read() for part in parts[name]])

    labels = None
    if "classifier/kernel" in parts:
        classes = parts["classifier/kernel"][0].shape[0]
        named = {int(i): label for i, label in (values.get("id2label") or {}).items()}
        labels = [str(named.get(i, f"LABEL_{i}")) for i in range(classes)]
    return Pretrained(
        folder=folder,
        config=config,
        shapes={name: _joined_shape(name, [part.shape for part in found]) for name, found in parts.items()},
        read=read,
        labels=labels,
        unused=tuple(sorted(tensor.name for tensor in stored.values())),
    )


def assign(
    variables: Mapping[str, Any],
    pretrained: Pretrained,
    allow_new: Iterable[str] = HEADS,
    labels: Sequence[str] | None = None,
) -> None:
    """Fills a model's variables from a checkpoint.

    Args:
        variables: our name to ``keras.Variable``, of the whole task.
        pretrained: the checkpoint.
        allow_new: beginnings of the names of variables that may keep the values they have: a head that the
            checkpoint lacks or has for another number of classes. They are named once in the log.
        labels: names of the model's classes. A classifier of the checkpoint that names others, or the same in
            another order, is not taken; one that only counts its classes (LABEL_0, LABEL_1) is.

    Raises:
        ValueError: a variable is in the checkpoint with another shape or not at all, or the checkpoint has a part
            of the backbone that the model lacks. Nothing is assigned then.
    """
    unnamed = [f"LABEL_{i}" for i in range(len(pretrained.labels or ()))]
    other_classes = labels is not None and pretrained.labels not in (None, unnamed, list(labels))
    shapes = pretrained.shapes
    if other_classes:
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("classifier/")}
        logger.warning("%s: its classes are others: %s", pretrained.folder.name, ", ".join(pretrained.labels))
    unneeded = _fill(variables, shapes, pretrained.read, pretrained.folder, tuple(allow_new))
    unneeded += [name for name in pretrained.names if name not in shapes]
    if unneeded or pretrained.unused:
        logger.info("%s: not used: %s", pretrained.folder.name, ", ".join([*unneeded, *pretrained.unused]))


def assign_arrays(
    variables: Mapping[str, Any], arrays: Mapping[str, np.ndarray], where: str | os.PathLike, *, strict: bool = True
) -> None:
    """Fills a model's variables from arrays that go by our names, as ``Task.save`` writes them.

    Args:
        variables: our name to ``keras.Variable``, of the whole task.
        arrays: our name to array.
        where: the folder they come from, for messages.
        strict: the arrays are of the same task: every variable has one, and every array a variable. Otherwise only
            the backbone must fit, as in :func:`assign`.

    Raises:
        ValueError: names or shapes differ. Nothing is assigned then.
    """
    shapes = {name: array.shape for name, array in arrays.items()}
    unneeded = _fill(
        variables, shapes, arrays.__getitem__, Path(where), () if strict else HEADS, ("",) if strict else ()
    )
    if unneeded:
        logger.info("%s: not used: %s", Path(where).name, ", ".join(unneeded))


def _fill(
    variables: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
    folder: Path,
    allow_new: tuple[str, ...],
    needed: tuple[str, ...] = (),
) -> list[str]:
    """Assigns what fits; returns the names in ``shapes`` that no variable has."""
    problems, new = [], []
    for name, variable in variables.items():
        shape = shapes.get(name)
        if shape == tuple(variable.shape):
            continue
        if name.startswith(allow_new):
            new.append(name)
        elif shape is None:
            problems.append(f"missing from the checkpoint: {name}")
        else:
            problems.append(f"{name}: {shape} in the checkpoint, {tuple(variable.shape)} in the model")
    unneeded = [name for name in shapes if name not in variables]
    needed = ("backbone/", *needed)
    problems += [f"in the checkpoint, not in the model: {name}" for name in unneeded if name.startswith(needed)]
    if problems:
        shown = problems[:20] + ([f"and {len(problems) - 20} more"] if len(problems) > 20 else [])
        raise ValueError(f"{folder} does not fit the model:\n  " + "\n  ".join(shown))

    # Half a head would be worse than none: what belongs together starts anew together.
    heads = {name.partition("/")[0] for name in new}
    new = [name for name in variables if name.partition("/")[0] in heads]
    for name, variable in variables.items():
        if name not in new:
            variable.assign(read(name))
    if new:
        logger.warning("%s: not in it, so they start anew: %s", folder.name, ", ".join(new))
    return unneeded


def save_pretrained(
    folder: str | os.PathLike,
    config: TransformerConfig,
    variables: Mapping[str, np.ndarray],
    tokenizer: Tokenizer,
    head: str | None = None,
    labels: Sequence[str] | None = None,
) -> None:
    """Writes a folder that ``transformers`` loads.

    Args:
        folder: made where it is missing; files of the same names are replaced, each at once.
        config: of the backbone.
        variables: our name to array, float32.
        tokenizer: saved beside the weights.
        head: "classification", "masked_lm", or None for the backbone alone.
        labels: names of the classes, for "classification".

    Raises:
        ValueError: the model is not of a family that transformers knows, or a variable is missing, too many, or of
            a wrong shape. Nothing is written then.
    """
    family = bert
    values = family.write_config(config)
    if head not in family.SAVED_AS:
        raise ValueError(f"head {head!r}: known are {', '.join(map(repr, family.SAVED_AS))}")
    if (head == "classification") != (labels is not None):
        raise ValueError("labels are needed for head='classification', and for no other")
    architecture = family.SAVED_AS[head]
    names = _names(family, config, family.ARCHITECTURES[architecture])
    if head is None and "pooler/kernel" not in variables:
        names = {ours: theirs for ours, theirs in names.items() if ours not in family.POOLER}
    problems = [f"missing: {name}" for name in names if name not in variables]
    problems += [f"has no place in {architecture}: {name}" for name in variables if name not in names]
    if problems:
        raise ValueError(f"cannot save as {architecture}: " + "; ".join(problems))

    tensors = {}
    for ours, theirs in names.items():
        for name, value in zip(theirs, _split(ours, np.asarray(variables[ours]), len(theirs)), strict=True):
            name = name.removeprefix(family.PREFIX) if head is None else name
            tensors[name] = np.ascontiguousarray(value)  # safetensors writes the buffer as it lies in memory
    if labels is not None:
        if len(labels) != len(variables["classifier/bias"]):
            raise ValueError(f"{len(labels)} labels for a classifier of {len(variables['classifier/bias'])} classes")
        values["id2label"] = dict(enumerate(labels))
        values["label2id"] = {label: i for i, label in enumerate(labels)}
    values |= {"architectures": [architecture], "pad_token_id": tokenizer.pad_id, "torch_dtype": "float32"}

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        tokenizer.save(partial)
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        (partial / "config.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for file in partial.iterdir():
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _names(family, config: TransformerConfig, tables: Iterable[dict]) -> dict[str, tuple[str, ...]]:
    """Returns our name to the checkpoint's names, for a backbone of this many layers and these heads."""
    names = dict(family.BACKBONE)
    for i in range(config.layers):
        names |= {ours.format(i=i): tuple(t.format(i=i) for t in theirs) for ours, theirs in family.LAYER.items()}
    for table in tables:
        names |= table
    return names


def _join(name: str, parts: list[np.ndarray]) -> np.ndarray:
    if name.endswith("/kernel"):  # torch: (out, in)
        parts = [part.T for part in parts]
    return np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def _joined_shape(name: str, parts: list[tuple[int, ...]]) -> tuple[int, ...]:
    parts = [part[::-1] for part in parts] if name.endswith("/kernel") else parts
    return (*parts[0][:-1], sum(part[-1] for part in parts)) if len(parts) > 1 else tuple(parts[0])


def _split(name: str, value: np.ndarray, parts: int) -> list[np.ndarray]:
    pieces = np.split(value, parts, axis=-1) if parts > 1 else [value]
    return [piece.T for piece in pieces] if name.endswith("/kernel") else pieces


def _stored(folder: Path) -> list[_Stored]:
    """Returns every tensor of the folder's checkpoint."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.exists():
        files = [single]
    elif index.exists():
        files = [folder / name for name in sorted(set(_read_json(index)["weight_map"].values()))]
        missing = [file.name for file in files if not file.exists()]
        if missing:
            raise FileNotFoundError(f"{folder}: {index.name} names {', '.join(missing)}, which is not there")
    else:
        raise FileNotFoundError(f"{folder}: has neither {single.name} nor {index.name}")
    tensors = []
    for file in files:
        try:
            opened = safe_open(file, "np")
            for name in opened.keys():  # noqa: SIM118 (not a dict: it has no iteration of its own)
                piece = opened.get_slice(name)
                tensors.append(_Stored(name, file, opened, tuple(piece.get_shape()), piece.get_dtype()))
        except SafetensorError as error:
            raise ValueError(f"{file}: damaged or cut off ({error}); fetch it again") from error
    return tensors


def _canonical(tensors: list[_Stored], family) -> dict[str, _Stored]:
    """Returns the tensors by the family's names: one spelling, no buffers, no second copy of a tied tensor."""
    named: dict[str, _Stored] = {}
    for tensor in tensors:
        # TensorFlow's names for LayerNorm's scale and bias survive in old conversions.
        name = tensor.name
        for old, new in {".gamma": ".weight", ".beta": ".bias"}.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        name = name if name.startswith(family.ROOTS) else family.PREFIX + name
        if name in family.BUFFERS:
            continue
        if tensor.dtype not in _FLOATS:
            raise ValueError(
                f"{tensor.file}: tensor {tensor.name} is {tensor.dtype}; quantised checkpoints are not supported"
            )
        if name in named:
            raise ValueError(f"{tensor.file}: {tensor.name} and {named[name].name} are the same tensor twice")
        named[name] = tensor
    for copy, original in family.TIED.items():
        if copy in named and original not in named:
            named[original] = named.pop(copy)
        elif copy in named:
            tensor = named.pop(copy)
            if not np.array_equal(tensor.read(), named[original].read()):
                raise ValueError(
                    f"{tensor.file}: tensor {tensor.name} differs from {named[original].name}; only tied ones work"
                )
    return named


def _read_json(file: Path) -> dict:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file.parent}: has no {file.name}; is it a model in Hugging Face layout?") from None
    except ValueError as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
