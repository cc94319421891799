"""Tasks on disk: the folder that `Task.save` writes, and a task made from it or from a pretrained checkpoint.

A folder is task.json (class, config, options), model.safetensors (our names) and the tokenizer's files. Of a task with
LoRA adapters the weights have them merged; adapter.safetensors beside them is what was trained, see `adapters.py`.
"""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import numpy as np
from keras import ops

from aillm_tf.files import write_atomic
from aillm_tf.layers.lora import adapted, merged
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.models.config import TransformerConfig
from aillm_tf.text.tokenizer import Tokenizer

TASKS = {
    "Autoencoder": "aillm_tf.tasks.autoencoder",
    "CausalLM": "aillm_tf.tasks.causal_lm",
    "Denoising": "aillm_tf.tasks.denoising",
    "Dialogue": "aillm_tf.tasks.dialogue",
    "DialogueResponses": "aillm_tf.tasks.dialogue_responses",
    "PreferenceTuning": "aillm_tf.tasks.dpo",
    "MaskedLM": "aillm_tf.tasks.masked_lm",
    "MultiTask": "aillm_tf.tasks.multitask",
    "NextSentence": "aillm_tf.tasks.sentence_order",
    "QuestionAnswering": "aillm_tf.tasks.question_answering",
    "ReplacedToken": "aillm_tf.tasks.replaced_token",
    "SentenceOrder": "aillm_tf.tasks.sentence_order",
    "PromptedSummarization": "aillm_tf.tasks.prompted",
    "SequenceToSequence": "aillm_tf.tasks.sequence_to_sequence",
    "Summarization": "aillm_tf.tasks.summarization",
    "TextClassifier": "aillm_tf.tasks.classification",
    "Translation": "aillm_tf.tasks.translation",
    "TokenClassifier": "aillm_tf.tasks.tagging",
}
ADAPTER = "adapter.safetensors"
OF_THE_BACKBONE = ("dropout", "attention_dropout", "remat")  # options of a task that change its config


def save(task, folder: str | Path) -> None:
    """Write a task; see `Task.save`."""
    from aillm_tf.weights.tensor_file import save_file

    folder = Path(folder)
    if folder.suffix in (".keras", ".h5"):
        raise ValueError(f"{folder}: a task is saved as a folder; while training, give fit `checkpoints=` instead")
    folder.mkdir(parents=True, exist_ok=True)
    # without task.json, which comes last, a half-written folder does not load
    (folder / "task.json").unlink(missing_ok=True)
    (folder / ADAPTER).unlink(missing_ok=True)
    task.tokenizer.save(folder)
    partial = folder / "model.safetensors.part"
    save_file(arrays_of(task), partial)
    partial.replace(folder / "model.safetensors")
    if adapted(task.backbone):
        from aillm_tf.tasks.adapters import save_adapter

        save_adapter(task, folder / ADAPTER)
    facts = {"task": type(task).__name__, "config": task.config.to_dict(), "options": task.options()}
    write_atomic(folder / "task.json", json.dumps(facts, indent=2, ensure_ascii=False))


def save_huggingface(task, folder: str | Path) -> None:
    """Write a folder for transformers; see `Task.save_huggingface`."""
    from aillm_tf.weights.saving import family_of, save_pretrained, settings_of_task

    family, _ = family_of(task.config)
    save_pretrained(
        folder,
        task.config,
        arrays_of(task),
        task.tokenizer,
        head=task.huggingface_head,
        labels=getattr(task, "labels", None),
        settings=settings_of_task(family, task.config, task.options()),
        generation=task.generation_options().to_settings() if hasattr(task, "generation_options") else None,
    )


def load(folder: str | Path, **options):
    """Load a task that `Task.save` wrote.

    Args:
        folder: the folder.
        **options: override what was saved, e.g. `dtype`.

    Returns:
        The task, of the class that was saved.

    Raises:
        FileNotFoundError: the folder holds no task.json.
        ValueError: it was saved by a newer version.

    Example:
        >>> load("runs/mine/model").answer(["fine"])  # doctest: +SKIP
    """
    folder = Path(folder)
    if not (folder / "task.json").exists():
        raise FileNotFoundError(f"{folder} has no task.json: give a folder that model.save wrote (RUN/model)")
    name = json.loads((folder / "task.json").read_text(encoding="utf-8"))["task"]
    if name == "Backbone":
        raise ValueError(
            f"{folder} holds a backbone without a task: take ai.load_backbone({str(folder)!r}), or the from_pretrained "
            "of a task"
        )
    if name not in TASKS:
        known = ", ".join(TASKS)
        raise ValueError(f"{folder}/task.json names the task {name!r}, which this version does not know: {known}")
    return from_saved(getattr(importlib.import_module(TASKS[name]), name), folder, options)


def from_saved(cls: type, folder: Path, options: dict):
    """A task from a folder that `save` wrote; of another class, or with other labels, its backbone and a new head."""
    from aillm_tf.weights.filling import filled
    from aillm_tf.weights.loading import assign_arrays
    from aillm_tf.weights.tensor_file import open_file

    facts = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    options, changes = _split(options)
    config = TransformerConfig.from_dict({**facts["config"], **changes})
    arrays = {tensor.name: tensor.array() for tensor in open_file(folder / "model.safetensors")}
    same = facts["task"] == cls.__name__
    tokenizer = Tokenizer.from_folder(folder)
    found = {**_of_family(cls, config), **cls.checkpoint_options(folder, tokenizer)}
    options = {**found, **(facts["options"] if same else {}), **options}
    if same:
        saved = facts["options"]
        if list(saved.get("labels", ())) != list(options.get("labels", ())):
            # other classes: their weights would mean something else, even where the shapes agree
            same, arrays = (
                False,
                {name: a for name, a in arrays.items() if not name.startswith(("classifier/", "tagger/", "crf/"))},
            )
        # other objectives: heads that were not there start anew
        same = same and list(saved.get("objectives", ())) == list(options.get("objectives", ()))
    task = filled(
        lambda: cls(config, tokenizer, **options),
        lambda task: assign_arrays(variables_by_name(task), arrays, folder, strict=same),
    )
    task.source = str(folder)
    return task


def from_pretrained(cls: type, source: str, options: dict):
    """A task from a checkpoint; see `Task.from_pretrained`."""
    from aillm_tf.weights.filling import filled
    from aillm_tf.weights.loading import assign
    from aillm_tf.weights.sources import open_source, tokenizer_of

    pretrained = open_source(source)
    if (pretrained.folder / "task.json").exists():
        return from_saved(cls, pretrained.folder, options)
    tokenizer = tokenizer_of(pretrained)
    if tokenizer is None:
        raise FileNotFoundError(f"{pretrained.folder}: has no tokenizer (tokenizer.json, vocab.txt, *.model, ...)")
    options, changes = _split(options)
    # a classifier of texts and one of tokens both have labels, of different kinds
    if (
        f"{getattr(cls, 'class_head', 'classifier')}/kernel" in pretrained.shapes
        and "labels" in inspect.signature(cls).parameters
    ):
        options.setdefault("labels", pretrained.labels)
    found = {**_of_family(cls, pretrained.config), **cls.checkpoint_options(pretrained.folder, tokenizer)}
    if pretrained.generation and hasattr(cls, "generation_options"):
        found["generation"] = pretrained.generation
    options = {**found, **options}
    return filled(
        lambda: cls(pretrained.config.replace(**changes), tokenizer, **options),
        lambda task: assign(variables_by_name(task), pretrained, labels=getattr(task, "labels", None)),
    )


def _of_family(cls: type, config: TransformerConfig) -> dict:
    """The options of a task with which its head computes as the family of the checkpoint has it."""
    if config.model_type is None:
        return {}
    from aillm_tf.weights.families import family

    known = inspect.signature(cls).parameters
    return {name: value for name, value in family(config.model_type).task_options.items() if name in known}


def _split(options: dict) -> tuple[dict, dict]:
    changes = {name: value for name, value in options.items() if name in OF_THE_BACKBONE}
    return {name: value for name, value in options.items() if name not in changes}, changes


def arrays_of(task) -> dict[str, np.ndarray]:
    """The weights by our names, those of LoRA adapters merged."""
    with merged(task):
        variables = {name: v for name, v in variables_by_name(task).items() if "/lora/" not in name}
        return {name: ops.convert_to_numpy(variable) for name, variable in variables.items()}
