"""Hugging Face folders into the layer stack's variables, one tensor at a time.

Notable:
    - files are memory-mapped: loading needs the memory of the largest variable beside the model's own;
    - every tensor of the checkpoint is accounted for: assigned, listed as not needed, or an error;
    - what differs between families stands in their tables, see :mod:`aillm_tf.weights.family`.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights import families
from aillm_tf.weights.configs import read_config, write_config
from aillm_tf.weights.family import Family
from aillm_tf.weights.filling import give
from aillm_tf.weights.generation import FILE as GENERATION
from aillm_tf.weights.generation import read_generation
from aillm_tf.weights.names import has, is_turned, names
from aillm_tf.weights.reading import joined_shape, read_stored
from aillm_tf.weights.resolve import refuse_pickle
from aillm_tf.weights.saving import SETTINGS, save_pretrained
from aillm_tf.weights.tensor_file import FLOATS, Stored, open_file
from aillm_tf.weights.values import read_json

if TYPE_CHECKING:
    from aillm_tf.text.tokenizer import Tokenizer

__all__ = ["Pretrained", "assign", "assign_arrays", "load_pretrained", "read_config", "save_pretrained", "write_config"]

# what a checkpoint for another task may lack
HEADS = ("classifier/", "pooler/", "mlm/", "tagger/", "spans/", "discriminator/", "generator/", "bottleneck/", "crf/")
HEADS += ("objectives/",)
LM_HEAD = "backbone/head/"
# heads whose meaning depends on the architecture: taken only where config.json names one that we know
_AMBIGUOUS = {"classifier", "tagger", "spans"}
_CLASSES = ("classifier/", "tagger/")

_KIND = "a model in Hugging Face layout"
logger = logging.getLogger("aillm_tf")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A checkpoint, seen with our names; no tensor is read before it is asked for.

    Attributes:
        folder: where it is.
        config: the shape and formula of its backbone.
        shapes: our name to shape, of every variable that the checkpoint can fill.
        read: ``read(name)`` gives a new float32 array, ``read(name, dtype)`` one of another floating type.
        labels: names of the classes of its classifier or tagger; None where it has none.
        unused: the checkpoint's names of the tensors that have no place in the layer stack.
        architecture: the class of transformers that it was saved from, where it says so.
        stored: our name to the checkpoint's tensors, where they are files that can be listed.
        settings: what config.json says about special tokens, to be written again.
        generation: how it wants to be decoded, see :func:`aillm_tf.weights.generation.read_generation`.
        tokenizer: makes its tokenizer, where ``Tokenizer.from_folder(folder)`` would not.
    """

    folder: Path
    config: TransformerConfig
    shapes: dict[str, tuple[int, ...]]
    read: Callable[..., np.ndarray]
    labels: list[str] | None
    unused: tuple[str, ...]
    architecture: str | None = None
    stored: Mapping[str, tuple[Stored, ...]] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tokenizer: Callable[[], Tokenizer] | None = None

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
    values = read_json(folder / "config.json", _KIND)
    try:
        family = families.family(values.get("model_type"))
        config = read_config(values, family).replace(model_type=family.model_type)
        architecture, named = _architecture(values), _class_names(values)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error

    tensors = _tensors(folder)
    layers = 1 if config.shared_layers else max(config.layers, config.decoder_layers)
    if layers > len(tensors):
        raise ValueError(
            f"{folder}: config.json says {layers} layers, the checkpoint has {len(tensors)} tensors in all"
        )
    heads = family.architectures.get(architecture)
    if heads is None:
        heads = tuple(head for head in family.architectures.get(None, ()) if head not in _AMBIGUOUS)
    wanted = names(family, config, heads)
    head = family.heads["lm"]["backbone/head/kernel"][0] if family.tied_by_tensors else None
    stored = _canonical(tensors, family, layers, {head}.union(*wanted.values()))
    if head is not None:
        tied = _is_tied(stored, head, family.tied[head])
        config = config.replace(tie_embeddings=tied)
        wanted = names(family, config, heads)
    parts: dict[str, tuple[Stored, ...]] = {}
    for ours, theirs in wanted.items():
        found = [stored.pop(name) for name in theirs if name in stored]
        if found and len(found) < len(theirs):
            raise ValueError(f"{folder}: of {', '.join(theirs)} only {', '.join(f.name for f in found)} is there")
        if found:
            parts[ours] = tuple(found)
    turned = {name: is_turned(family, name) for name in parts}

    shapes = {name: joined_shape(found, turned[name]) for name, found in parts.items()}
    for name in family.zeros:
        if name not in shapes and has(config, name):
            shapes[name] = (config.decoder_vocab_size or config.vocab_size,)

    def read(name: str, dtype: str | np.dtype = "float32") -> np.ndarray:
        if name not in parts:
            return np.zeros(shapes[name], dtype)
        return read_stored(parts[name], dtype, turned[name])

    written = folder / GENERATION
    classes = next((shapes[f"{head}/kernel"][-1] for head in ("classifier", "tagger") if f"{head}/kernel" in shapes), 0)
    return Pretrained(
        folder=folder,
        config=config,
        shapes=shapes,
        read=read,
        labels=[str(named.get(i, f"LABEL_{i}")) for i in range(classes)] or None,
        unused=tuple(sorted(tensor.name for tensor in stored.values())),
        architecture=architecture,
        stored=parts,
        settings={key: values[key] for key in SETTINGS if key in values},
        generation=read_generation(values, read_json(written, _KIND) if written.exists() else None),
    )


def assign(
    variables: Mapping[str, Any],
    pretrained: Pretrained,
    allow_new: Iterable[str] = HEADS,
    labels: Sequence[str] | None = None,
) -> None:
    """Fills a model's variables from a checkpoint, each in its own type.

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
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith(_CLASSES)}
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
    allow_new, needed = ((), ("",)) if strict else (HEADS, ())
    unneeded = _fill(variables, shapes, lambda name, *_: arrays[name], Path(where), allow_new, needed)
    if unneeded:
        logger.info("%s: not used: %s", Path(where).name, ", ".join(unneeded))


def _fill(
    variables: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[..., np.ndarray],
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
    heads = {_part(name) for name in new}
    new = [name for name in variables if _part(name) in heads]
    for name, variable in variables.items():
        if name not in new:
            dtype = getattr(variable, "dtype", "float32")
            give(variable, functools.partial(read, name, *([dtype] if dtype != "float32" else [])))
    if new:
        logger.warning("%s: not in it, so they start anew: %s", folder.name, ", ".join(new))
    return unneeded


def _part(name: str) -> str:
    """The head that a variable belongs to; "backbone" for all but the scores over the vocabulary."""
    return LM_HEAD if name.startswith(LM_HEAD) else name.partition("/")[0]


def _architecture(values: dict) -> str | None:
    """The class of transformers that config.json names first."""
    found = values.get("architectures") or [None]
    if not isinstance(found, list) or not isinstance(found[0], (str, type(None))):
        raise ValueError(f"architectures is {found!r}, not a list of names")
    return found[0]


def _class_names(values: dict) -> dict[int, Any]:
    found = values.get("id2label") or {}
    if not isinstance(found, dict) or not all(str(number).isdecimal() for number in found):
        raise ValueError(f"id2label is {str(found)[:200]}, not a table from numbers to names")
    return {int(number): label for number, label in found.items()}


def _tensors(folder: Path) -> list[Stored]:
    """Returns every tensor of the folder's checkpoint."""
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if single.exists():
        return open_file(single)
    if not index.exists():
        raise FileNotFoundError(f"{folder}: has neither {single.name} nor {index.name}")
    shards = read_json(index, _KIND).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise ValueError(f"{index}: has no weight_map from tensors to files")
    files = sorted(set(shards.values()))
    for name in files:
        _refuse_outside(folder, name, index)
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: {index.name} names {', '.join(missing)}, which is not there")
    tensors = [tensor for name in files for tensor in open_file(folder / name)]
    lost = sorted(set(shards) - {tensor.name for tensor in tensors})
    if lost:
        raise ValueError(f"{folder}: {index.name} names tensors that no file has: {', '.join(lost[:20])}")
    return tensors


def _refuse_outside(folder: Path, name: str, index: Path) -> None:
    """Raises ValueError where a shard's name leads out of the folder, by itself or as a link."""
    path = PurePath(name)
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":  # Hugging Face's cache: the files are links to ../../blobs
        allowed.append(folder.resolve().parents[1] / "blobs")
    file = (folder / path).resolve()
    if path.is_absolute() or ".." in path.parts or "\\" in name or not any(file.is_relative_to(a) for a in allowed):
        raise ValueError(f"{index}: refused: the shard {name!r} is outside the folder")


def _canonical(tensors: list[Stored], family: Family, layers: int, wanted: set[str]) -> dict[str, Stored]:
    """Returns the tensors by the family's names: one spelling, no buffers, no second copy of a tied tensor."""
    buffers = {name.format(i=i) for name in family.buffers for i in range(layers)}
    named: dict[str, Stored] = {}
    for tensor in tensors:
        # TensorFlow's names for LayerNorm's scale and bias survive in old conversions.
        name = tensor.name
        for old, new in {".gamma": ".weight", ".beta": ".bias"}.items():
            name = name.removesuffix(old) + new if name.endswith(old) else name
        name = name if name.startswith(family.roots) else family.prefix + name
        if name in buffers:
            continue
        if tensor.dtype not in FLOATS:
            raise ValueError(
                f"{tensor.file}: tensor {tensor.name} is {tensor.dtype}; quantised checkpoints are not supported"
            )
        if name in named:
            raise ValueError(f"{tensor.file}: {tensor.name} and {named[name].name} are the same tensor twice")
        if name in family.rows and len(tensor.shape) == 2 and tensor.shape[0] == 1:
            tensor = tensor._replace(shape=tensor.shape[1:])
        named[name] = tensor
    for copy, original in family.tied.items():
        if copy not in named or copy in wanted:  # a copy that is wanted has values of its own in this configuration
            continue
        if original not in named:
            named[original] = named.pop(copy)
            continue
        tensor = named.pop(copy)
        same = np.array_equal(tensor.array(), named[original].array())
        tensor.release()
        named[original].release()
        if not same:
            raise ValueError(
                f"{tensor.file}: tensor {tensor.name} differs from {named[original].name}; only tied ones work"
            )
    return named


def _is_tied(stored: dict[str, Stored], head: str, original: str) -> bool:
    """Whether the head is the table of embeddings; a second copy of that is taken out."""
    if head not in stored:
        return True
    if original in stored and not np.array_equal(stored[head].array(), stored[original].array()):
        return False
    copy = stored.pop(head)
    stored.setdefault(original, copy)
    return True
