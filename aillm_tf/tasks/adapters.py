"""LoRA adapters on disk: one small file with what was trained, to be put onto its base again.

A safetensors file: A and B of every adapter and the weights of the heads, by our names. Its metadata names the base and
the task; a checksum of the base's weights keeps it from being put onto others.
"""

from __future__ import annotations

import importlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
from keras import ops

from aillm_tf.layers.lora import adapted
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.tasks import files
from aillm_tf.training.freezing import adapt
from aillm_tf.weights.loading import assign_arrays
from aillm_tf.weights.tensor_file import open_file, read_metadata, save_file

FORMAT = "aillm_tf LoRA adapter 1"


def save_adapter(task, file: str | os.PathLike) -> None:
    """Write what was trained of a task with LoRA adapters.

    Args:
        task: see `aillm_tf.training.freezing.adapt`.
        file: a .safetensors file; replaced at once when all is written.

    Raises:
        ValueError: the task has no adapters.
    """
    loras = [dense.lora for dense in adapted(task.backbone)]
    if not loras:
        raise ValueError("this task has no LoRA adapters: train it with training.lora_rank, or save it whole")
    options = {**task.options(), **{name: getattr(task.config, name) for name in files.OF_THE_BACKBONE}}
    projections = dict.fromkeys(name for lora in loras for name in lora.columns)
    facts = {
        "format": FORMAT,
        "base": task.source or "",
        "base_checksum": base_checksum(task),
        "task": type(task).__name__,
        "options": json.dumps(options, ensure_ascii=False),
        "lora": json.dumps({"rank": loras[0].rank, "alpha": loras[0].alpha, "projections": list(projections)}),
    }
    arrays = {name: ops.convert_to_numpy(v) for name, v in variables_by_name(task).items() if v.trainable}
    partial = Path(f"{os.fspath(file)}.part")
    save_file(arrays, partial, facts)
    partial.replace(file)


def load_adapter(file: str | os.PathLike, base: str | None = None, **options):
    """A task from its base and the adapter that was trained on it.

    Args:
        file: what `save_adapter` or `Task.save` wrote (`RUN/model/adapter.safetensors`).
        base: where the base is now, as `Task.from_pretrained` takes it; None: where it was.
        **options: of the task, in place of those it was trained with, e.g. `dtype`.

    Returns:
        The task, with its adapters: it answers, goes on training, or is saved and exported with them merged.

    Raises:
        FileNotFoundError: no such file, or no base.
        ValueError: the file is no adapter, or was trained on other weights.

    Example:
        >>> load_adapter("runs/mine/model/adapter.safetensors").answer(["fine"])  # doctest: +SKIP
    """
    file = Path(file)
    tensors, facts = open_file(file), read_metadata(file)
    if facts.get("format") != FORMAT:
        raise ValueError(f"{file} is no adapter (its metadata has no {FORMAT!r}): give one that save_adapter wrote")
    base = base or facts["base"]
    if not base:
        raise ValueError(f"{file} does not say which base it was trained on: give base=")
    if facts["task"] not in files.TASKS:
        raise ValueError(f"{file} is of the task {facts['task']!r}, which this version does not know")
    cls = getattr(importlib.import_module(files.TASKS[facts["task"]]), facts["task"])
    task = cls.from_pretrained(base, **{**json.loads(facts["options"]), **options})
    adapt(task, **json.loads(facts["lora"]))
    if (found := base_checksum(task)) != facts["base_checksum"]:
        raise ValueError(
            f"{file} was trained on other weights (checksum {facts['base_checksum']}) than those of {base} ({found}): "
            f"give base= the very one, which was {facts['base'] or 'not named'}"
        )
    trained = {name: v for name, v in variables_by_name(task).items() if v.trainable}
    assign_arrays(trained, {tensor.name: tensor.array() for tensor in tensors}, file, strict=True)
    return task


def base_checksum(task) -> str:
    """Of the weights that are not trained, in the order of their names."""
    crc = 0
    for _, variable in sorted(variables_by_name(task).items()):
        if not variable.trainable:
            crc = zlib.crc32(np.ascontiguousarray(ops.convert_to_numpy(variable)).view("uint8").data, crc)
    return f"{crc:08x}"
