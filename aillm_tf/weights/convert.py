"""A checkpoint of any kind written as another kind, and compared with what it was made of."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aillm_tf.machine import memory_gib
from aillm_tf.weights.backbones import backbone_of
from aillm_tf.weights.loading import LM_HEAD, Pretrained
from aillm_tf.weights.saving import DTYPES, architecture_of, family_of, save_pretrained, settings_of_task
from aillm_tf.weights.sources import open_source, save_here, tokenizer_of
from aillm_tf.weights.tensor_file import FLOATS

# Real text, so that the check computes what users will: scripts, digits, marks, one text longer than the others.
TEXTS = (
    "The plot is thin, but the actors save it.",
    "Refund my order #12345 now!!!",
    "Café déjà vu: 3.14 % of 1,000 people — at most!",
    "Das Wörterbuch kostet 12,50 € und erscheint morgen.",
    "你好，世界。今天天气很好。",
    "По утрам здесь тихо.",
    "A long sentence, with several clauses, commas and numbers like 42, so that the rows differ in length.",
    "ok",
)
TOKENS = 48  # of a text at most
TOLERANCE = 1e-4  # between outputs of equal weights


@dataclasses.dataclass(frozen=True)
class Converted:
    """What was done and how it compares.

    Attributes:
        kind: the class of transformers, or of ours, that the folder holds.
        parameters: how many were written.
        dtype: their type, or types.
        left_out: the source's tensors or variables that the destination has no place for.
        changed: whether numbers were rounded to another type.
        difference: largest absolute difference of outputs; None where they were not computed.
        compared: what they were computed on, or why they were not.
    """

    kind: str
    parameters: int
    dtype: str
    left_out: tuple[str, ...]
    changed: bool
    difference: float | None
    compared: str


def convert(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    dtype: str | None = None,
    to: str = "huggingface",
    progress: bool = True,
) -> Converted:
    """Writes a checkpoint as a folder for transformers or for this package, then opens that and compares.

    Every tensor of the result must be bit for bit what it was made of (rounded, where the type changes), and the
    backbone must give the same outputs on real text.

    Args:
        source: see :func:`aillm_tf.weights.sources.open_source`.
        destination: a folder, new or empty.
        dtype: "float32", "float16" or "bfloat16"; None: as in the source.
        to: "huggingface", or "aillm": what ``Task.save`` writes.
        progress: whether to draw progress bars on stderr.

    Returns:
        Facts about the result.

    Raises:
        FileExistsError: the destination has files.
        ValueError: the source cannot be read, the model has no counterpart in transformers, or the result differs.

    Example:
        >>> convert("tests/golden/bert_classifier", "for_serving", to="aillm").kind  # doctest: +SKIP
        'TextClassifier'
    """
    destination = Path(destination)
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise FileExistsError(f"{destination} is there already: give a new or empty folder")
    pretrained = open_source(source, progress=progress)
    tokenizer = tokenizer_of(pretrained)
    types = {name: _type(pretrained, name) for name in pretrained.names}
    variables: Mapping[str, Any] = {
        name: _Lazy(pretrained, name, np.dtype(DTYPES[dtype]) if dtype else types[name]) for name in pretrained.names
    }
    size = sum(lazy.nbytes for lazy in variables.values())
    new = not destination.exists()
    try:
        with _bar(size, "writing", progress) as bar:
            for lazy in variables.values():
                lazy.bar = bar
            if to == "huggingface":
                kind = _to_huggingface(pretrained, variables, tokenizer, destination, str(source))
            else:
                kind = save_here(destination, pretrained, variables, tokenizer)
        written = open_source(destination, progress=False)
        with _bar(size, "comparing", progress) as bar:
            _compare_tensors(variables, written, bar)
        difference, compared = _compare_outputs(pretrained, written, tokenizer)
        rounded = any(variables[name].dtype != types[name] for name in written.names if name in types)
        if difference is not None and not difference <= (math.inf if rounded else TOLERANCE):
            raise ValueError(
                f"{destination}: outputs differ from those of {source} by {difference}: not converted. "
                "This is a bug; please report it"
            )
    except BaseException:
        if new:
            shutil.rmtree(destination, ignore_errors=True)
        raise
    return Converted(
        kind=kind,
        parameters=sum(math.prod(shape) for shape in written.shapes.values()),
        dtype=", ".join(sorted({variables[name].dtype.name for name in written.names if name in variables})),
        left_out=(*pretrained.unused, *(name for name in pretrained.names if name not in written.names)),
        changed=rounded,
        difference=difference,
        compared=compared,
    )


def report(converted: Converted, destination: str | os.PathLike) -> str:
    """What ``aillm convert`` says at the end."""
    lines = [f"wrote {destination}: {converted.kind}, {converted.parameters:,} parameters, {converted.dtype}"]
    if converted.left_out:
        lines.append(f"left out: {', '.join(converted.left_out)}")
    lines.append(
        "tensors: each is the source's, rounded to the new type"
        if converted.changed
        else "tensors: each is the source's, bit for bit"
    )
    lines.append(
        f"outputs: not compared: {converted.compared}"
        if converted.difference is None
        else f"outputs: compared on {converted.compared}, largest difference {converted.difference:.3g}"
    )
    return "\n".join(lines)


class _Lazy:
    """A variable of the checkpoint, read when it is made an array."""

    def __init__(self, pretrained: Pretrained, name: str, dtype: np.dtype):
        self.shape, self.dtype = pretrained.shapes[name], dtype
        self.nbytes = math.prod(self.shape) * dtype.itemsize
        self.bar, self._read, self._name, self._at = None, pretrained.read, name, 0

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        value = self._read(self._name, self.dtype.name)
        if self.bar is not None:
            self.bar.update(self.nbytes - self._at)
            self._at = self.nbytes  # a variable that is split into several tensors is read for each
        return value if dtype is None else value.astype(dtype, copy=False)


def _to_huggingface(pretrained, variables, tokenizer, destination: Path, source: str) -> str:
    family, _ = family_of(pretrained.config)
    architecture, kept = architecture_of(family, pretrained.config, variables, pretrained.architecture)
    settings = dict(pretrained.settings)
    task = pretrained.folder / "task.json"
    if task.exists():
        options = json.loads(task.read_text(encoding="utf-8"))["options"]
        settings |= settings_of_task(family, pretrained.config, options)
        lost = [name for name in variables if name not in kept]
        if lost:
            raise ValueError(f"{source}: no {family.name} of transformers has a place for {', '.join(lost)}")
    classifies = any(name.startswith(("classifier/", "tagger/")) for name in kept)
    save_pretrained(
        destination,
        pretrained.config,
        {name: variables[name] for name in kept},
        tokenizer,
        architecture=architecture,
        labels=pretrained.labels if classifies else None,
        settings=settings,
        generation=pretrained.generation,
        about=_about(pretrained.folder, source),
    )
    return architecture


def _about(folder: Path, source: str) -> dict:
    """What the model card can say: scores of the run that the model is of, and what it was made from."""
    report = folder.parent / "report.json"
    if folder.name == "model" and report.is_file():
        facts = json.loads(report.read_text(encoding="utf-8"))
        settings = report.with_name("config.yaml")
        return {
            "task": facts.get("task"),
            "scores": facts.get("scores"),
            "settings": settings.read_text(encoding="utf-8") if settings.is_file() else None,
        }
    # where a folder lies on this machine is nobody's business
    return {"base_model": source} if source.startswith("hf:") else {}


def _type(pretrained: Pretrained, name: str) -> np.dtype:
    """The type of a variable in the checkpoint; the widest, where it is joined from several tensors."""
    types = [FLOATS[tensor.dtype] for tensor in pretrained.stored.get(name, ())]
    return max(types, key=lambda dtype: dtype.itemsize, default=np.dtype(np.float32))


def _compare_tensors(variables: Mapping[str, _Lazy], written: Pretrained, bar) -> None:
    for name in written.names:
        if name not in variables:  # zeros by construction
            continue
        expected, found = np.asarray(variables[name]), written.read(name, variables[name].dtype.name)
        bar.update(variables[name].nbytes)
        if expected.tobytes() != found.tobytes():
            raise ValueError(f"{written.folder}: {name} differs from the source: not converted. Please report this bug")


def _compare_outputs(first: Pretrained, second: Pretrained, tokenizer) -> tuple[float | None, str]:
    """Largest difference between the outputs of both and on what, or None and the reason why there is none."""
    need = 4 * sum(math.prod(shape) for shape in first.shapes.values()) / 2**30
    have = memory_gib()
    if have is not None and need > have / 2:
        return None, f"computing them in float32 needs {need:.0f} GiB of memory and more, this machine has {have:.0f}"
    features, what = _features(first, tokenizer)
    one, other = (_outputs(pretrained, features) for pretrained in (first, second))
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)), what


def _features(pretrained: Pretrained, tokenizer) -> tuple[dict[str, np.ndarray], str]:
    config, rows = pretrained.config, []
    length = min(TOKENS, config.max_length)
    if tokenizer is not None and tokenizer.vocab_size <= config.vocab_size:
        encoded = tokenizer.encode(TEXTS)
        rows = [
            encoded.ids[start:end][:length] for start, end in zip(encoded.offsets, encoded.offsets[1:], strict=False)
        ]
    rows = [row for row in rows if len(row)]
    what = f"{len(rows)} texts"
    if not rows:
        what = f"{len(TEXTS)} rows of random tokens (it has no tokenizer)"
        rows = list(np.random.default_rng(0).integers(0, config.vocab_size, (len(TEXTS), length)))
    ids = np.zeros((len(rows), max(map(len, rows))), "int32")
    valid = np.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], valid[row, : len(tokens)] = tokens, 1
    features = {"token_ids": ids, "valid": valid}
    if config.decoder_layers:
        features["target_ids"] = ids % (config.decoder_vocab_size or config.vocab_size)
    return features, what


def _outputs(pretrained: Pretrained, features: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Hidden states at the real tokens and, of a decoder, scores over the vocabulary."""
    shapes = {name: shape for name, shape in pretrained.shapes.items() if name.startswith("backbone/")}
    pretrained = dataclasses.replace(pretrained, shapes=shapes, unused=())
    backbone = backbone_of(pretrained, dtype="float32")
    hidden = backbone(features)
    outputs = [hidden]
    if hasattr(backbone, "logits") and (pretrained.config.tie_embeddings or f"{LM_HEAD}kernel" in shapes):
        outputs.append(backbone.logits(hidden))
    return [np.asarray(output)[features["valid"] == 1] for output in outputs]


def _bar(size: int, what: str, progress: bool):
    from tqdm.auto import tqdm

    return tqdm(total=size, unit="B", unit_scale=True, desc=what, disable=None if progress else True)
