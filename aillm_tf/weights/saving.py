"""The layer stack's variables into a folder that ``transformers.from_pretrained`` loads."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights import families
from aillm_tf.weights.card import model_card
from aillm_tf.weights.configs import write_config
from aillm_tf.weights.family import Family
from aillm_tf.weights.generation import FILE as GENERATION
from aillm_tf.weights.names import is_turned, names, widths
from aillm_tf.weights.tensor_file import save_file

if TYPE_CHECKING:
    from aillm_tf.text.tokenizer import Tokenizer

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# what config.json says about special tokens: not ours to decide, and needed to generate
SETTINGS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
SETTINGS += ("forced_bos_token_id", "forced_eos_token_id", "task_specific_params", "prefix")
SHARD_BYTES = 5_000_000_000


def save_pretrained(
    folder: str | os.PathLike,
    config: TransformerConfig,
    variables: Mapping[str, Any],
    tokenizer: Tokenizer | None,
    head: str | None = None,
    labels: Sequence[str] | None = None,
    *,
    architecture: str | None = None,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    settings: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Writes a folder that ``transformers`` loads.

    Args:
        folder: made where it is missing; files of the same names are replaced, each at once, and weights of another
            number of shards are removed.
        config: of the backbone. Its `model_type` says the family; where it says none, the first family that has this
            formula is taken.
        variables: our name to array, or to anything with shape and dtype that numpy can make an array of; each is
            asked for once, when it is written.
        tokenizer: saved beside the weights; None: the folder has none.
        head: "classification", "masked_lm", "tagging", "question_answering", "causal_lm", "seq2seq_lm", or None for
            the backbone alone.
        labels: names of the classes, for "classification" and "tagging".
        architecture: the class of transformers to save for, in place of `head`.
        dtype: of the tensors written: "float32", "float16" or "bfloat16"; None: as they are.
        shard_bytes: the weights are written in several files where they are more than this.
        settings: keys of config.json to add, such as eos_token_id.
        generation: contents of generation_config.json, which is written for an architecture with a head over the
            vocabulary of a decoder.
        about: what the model card tells: see :func:`aillm_tf.weights.card.model_card`.

    Raises:
        ValueError: the model is not of a family that transformers knows, or a variable is missing, too many, or of
            a wrong shape. Nothing is written then.

    Example:
        >>> from aillm_tf.weights.loading import load_pretrained
        >>> model = load_pretrained("tests/golden/bert_masked_lm")
        >>> arrays = {name: model.read(name) for name in model.names}
        >>> save_pretrained("copy", model.config, arrays, None, head="masked_lm")  # doctest: +SKIP
    """
    family, values = family_of(config)
    if architecture is None:
        if head not in family.saved_as:
            known = ", ".join(map(repr, family.saved_as))
            raise ValueError(f"head {head!r}: known for {family.name} are {known}")
        architecture = family.saved_as[head]
    heads = family.architectures.get(architecture)
    if heads is None:
        known = ", ".join(filter(None, family.architectures))
        raise ValueError(f"architecture {architecture!r}: known for {family.name} are {known}")
    named_classes = {"classifier", "tagger"}.intersection(heads)
    if bool(named_classes) != (labels is not None):
        raise ValueError("labels are needed for a model that classifies, and for no other")
    theirs = names(family, config, heads)
    bare = architecture == family.saved_as.get(None)
    if bare and not any(name.startswith("pooler/") for name in variables):
        theirs = {ours: parts for ours, parts in theirs.items() if not ours.startswith("pooler/")}
    if "lm" not in heads:  # our backbone has a head over the vocabulary, that of transformers has none
        variables = {name: value for name, value in variables.items() if not name.startswith("backbone/head/")}
    problems = [f"missing: {name}" for name in theirs if name not in variables]
    problems += [f"has no place in {architecture}: {name}" for name in variables if name not in theirs]
    if problems:
        raise ValueError(f"cannot save as {architecture}: " + "; ".join(problems))

    tensors: dict[str, _Part] = {}
    for ours, parts in theirs.items():
        value = variables[ours]
        target = np.dtype(DTYPES[dtype] if dtype else np.dtype(str(getattr(value.dtype, "name", value.dtype))))
        begin = 0
        sizes = widths(ours, config, len(parts)) or [value.shape[-1] // len(parts)] * len(parts)
        for name, size in zip(parts, sizes, strict=True):
            columns = slice(begin, begin + size) if len(parts) > 1 else None
            begin += size
            name = name.removeprefix(family.prefix) if bare else name
            tensors[name] = _Part(value, columns, is_turned(family, ours), name in family.rows, target)
        if len(parts) > 1 and begin != value.shape[-1]:
            raise ValueError(f"{ours}: {tuple(value.shape)} does not split into {', '.join(parts)}: {sizes}")
    if labels is not None:
        classes = variables[f"{named_classes.pop()}/kernel"].shape[-1]
        if len(labels) != classes:
            raise ValueError(f"{len(labels)} labels for a classifier of {classes} classes")
        values["id2label"] = dict(enumerate(labels))
        values["label2id"] = {label: i for i, label in enumerate(labels)}
    roles = {f"{role}_token_id": getattr(tokenizer, f"{role}_id", None) for role in ("pad", "bos", "eos")}
    special = {key: value for key, value in roles.items() if value is not None} | dict(settings or {})
    for key in special.keys() & values.keys():
        if special[key] != values[key]:
            raise ValueError(f"{key} is {special[key]}, the model's positions need {values[key]}: another tokenizer?")
    values |= special
    used = {tensor.dtype.name for tensor in tensors.values()}
    values |= {"architectures": [architecture], "torch_dtype": used.pop() if len(used) == 1 else "float32"}
    card = model_card(values, Path(folder).name, about or {}, tokenizer is not None)
    texts = {"config.json": _json(values), "README.md": card}
    if "lm" in heads and generation:
        texts[GENERATION] = _json(dict(generation))
    _write(Path(folder), texts, tensors, tokenizer, shard_bytes)


def family_of(config: TransformerConfig) -> tuple[Family, dict]:
    """The family that a model is saved as, and its config.json.

    Raises:
        ValueError: it is not the formula of its own family, or of any.
    """
    if config.model_type is not None:
        family = families.family(config.model_type)
        return family, write_config(config, family)
    reasons = []
    for family in families.all_families():
        try:
            return family, write_config(config, family)
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError("no family of transformers computes this formula. Nearest: " + min(reasons, key=len))


def settings_of_task(family: Family, config: TransformerConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json has to say about how a task's head computes.

    Args:
        family: the model's.
        config: of the backbone.
        options: of the task, as task.json has them.

    Raises:
        ValueError: the head computes otherwise than the family's in transformers does.
    """
    for name, value in family.task_options.items():
        value = value or config.activation
        if options.get(name, value) != value:
            raise ValueError(
                f"{name} is {options[name]!r}, {family.name} has {value!r}: transformers would not give the same "
                f"numbers; train this task with {name}={value!r} to save it for transformers"
            )
    return {"problem_type": "multi_label_classification"} if options.get("multi_label") else {}


def architecture_of(
    family: Family, config: TransformerConfig, variables: Iterable[str], preferred: str | None = None
) -> tuple[str, list[str]]:
    """The class of transformers that has a place for most of these variables, and which those are.

    Args:
        family: the model's.
        config: of the backbone.
        variables: our names of what there is.
        preferred: the class to take where several have a place for as many.

    Raises:
        ValueError: every class needs something that is not there.
    """
    present, best = list(variables), None
    bare = family.saved_as.get(None)
    for architecture, heads in family.architectures.items():
        if architecture is None:
            continue
        theirs = names(family, config, heads)
        missing = {name for name in theirs if name not in present}
        if missing and not (architecture == bare and all(name.startswith("pooler/") for name in missing)):
            continue
        rank = (len(theirs) - len(missing), architecture == preferred, "lm" in heads, architecture == bare)
        if best is None or rank > best[0]:
            best = (rank, architecture, [name for name in present if name in theirs])
    if best is None:
        raise ValueError(f"this model lacks a part of every {family.name} that transformers has")
    return best[1], best[2]


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


@dataclasses.dataclass(frozen=True)
class _Part:
    """A tensor as the checkpoint wants it, made of one of our variables when it is written."""

    variable: Any
    columns: slice | None
    turned: bool
    row: bool
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        shape = tuple(self.variable.shape)
        if self.columns is not None:
            shape = (*shape[:-1], self.columns.stop - self.columns.start)
        shape = shape[::-1] if self.turned else shape
        return (1, *shape) if self.row else shape

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        value = np.asarray(self.variable)
        value = value if self.columns is None else value[..., self.columns]
        value = value.T if self.turned else value
        return np.ascontiguousarray(value, dtype or self.dtype).reshape(self.shape)


def _write(
    folder: Path, texts: dict[str, str], tensors: dict[str, _Part], tokenizer: Tokenizer | None, shard_bytes: int
) -> None:
    """Writes all files beside their places, then moves them there."""
    shards: list[dict[str, _Part]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    count = len(shards)
    files = (
        [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)] if count > 1 else ["model.safetensors"]
    )

    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / ".partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        if tokenizer is not None:
            tokenizer.save(partial)
        for file, shard in zip(files, shards, strict=True):
            save_file(shard, partial / file, {"format": "pt"})
        if count > 1:
            total = sum(tensor.nbytes for tensor in tensors.values())
            weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            (partial / "model.safetensors.index.json").write_text(_json(index), "utf-8")
        for name, text in texts.items():
            (partial / name).write_text(text, "utf-8")
        written = {file.name for file in partial.iterdir()}
        # Weights of an earlier save in another number of files would be read in place of these.
        old = [file for file in folder.glob("model*.safetensors*") if file.name not in written]
        for file in partial.iterdir():
            os.replace(file, folder / file.name)
        for file in old:
            file.unlink()
    finally:
        shutil.rmtree(partial, ignore_errors=True)
