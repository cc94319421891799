"""Score a model on labelled data: a trained run, a saved model, or a pretrained checkpoint with its head."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from aillm_tf.config import did_you_mean
from aillm_tf.data.shards import is_prepared
from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.tasks.files import TASKS

HOW_ROWS_ARE_READ = (
    "text",
    "label",
    "pair",
    "tokens",
    "tags",
    "spans",
    "source",
    "target",
    "on_bad",
    "encoding_errors",
)
# end of the name of a transformers class: our task, and the variable that its head cannot do without
OF_ARCHITECTURE = {
    "ForSequenceClassification": ("TextClassifier", "classifier/kernel"),
    "ForTokenClassification": ("TokenClassifier", "tagger/kernel"),
    "ForQuestionAnswering": ("QuestionAnswering", "spans/kernel"),
    "ForMaskedLM": ("MaskedLM", "mlm/bias"),
    "ForPreTraining": ("MaskedLM", "mlm/bias"),
    "ForCausalLM": ("CausalLM", None),
    "GPT2LMHeadModel": ("CausalLM", None),
    "MarianMTModel": ("Translation", None),
    "ForConditionalGeneration": ("SequenceToSequence", None),
}


class Evaluation(NamedTuple):
    """A model's scores on some data.

    Args:
        task: name of its class.
        scores: metric -> value.
        tallies: what they are made of, an example at a time.
    """

    task: str
    scores: dict[str, float]
    tallies: list[Tally]


def evaluate(
    task, uri: Any, reading: Mapping[str, Any] | None = None, batch_size: int = 64, progress: bool = True
) -> Evaluation:
    """Scores a task; one that writes texts writes and scores them for all sources.

    Args:
        task: any `Task`.
        uri: the labelled rows, as its `dataset` takes them.
        reading: options of its `dataset` that say how they are read.
        batch_size: rows at a time.
        progress: whether to draw a progress bar.

    Raises:
        ValueError: an option that its `dataset` does not have; or a bad row, named by file and line.
    """
    known = inspect.signature(task.dataset).parameters
    options = {"decode": None, **(reading or {})} if "decode" in known else dict(reading or {})
    for name in options:
        # several objectives hand on what they do not know
        if name not in (*known, "seed") and "options" not in known:
            raise ValueError(f"{type(task).__name__} does not read rows by {name!r}{did_you_mean(name, list(known))}")
    data = task.dataset(uri, batch_size=batch_size, **options)
    scores, rows = task.evaluate(data, verbose=1 if progress else 0, return_rows=True)
    return Evaluation(type(task).__name__, scores, task.tallies(rows, data))


def load_run(folder: Path, uri: Any, **options):
    """The task of a run or of a saved model, and how its rows are read.

    Args:
        folder: with task.json; if it lies in a run, precision and columns are those of the run's config.
        uri: the rows to score.
        **options: of the task, in place of those it was saved with.
    """
    import aillm_tf

    file = folder.parent / "config.yaml"
    # in the run's own precision: scores in another differ in the last digits
    options.setdefault("dtype", _section(file, "training").get("dtype", "auto"))
    task = aillm_tf.load(folder, **options)
    return task, reading_options(task, file, uri)


def load_checkpoint(source: str, name: str | None = None, **options):
    """A pretrained checkpoint as a task, head included.

    Args:
        source: a folder in Hugging Face layout, hf:org/name or any other source of `Task.from_pretrained`.
        name: of the task; None: as the checkpoint's architecture says.
        **options: of the task.

    Raises:
        ValueError: the checkpoint does not say what task it is for, or lacks the head of that task.
    """
    from aillm_tf.weights.sources import open_source

    pretrained = open_source(source)
    found = next((of for end, of in OF_ARCHITECTURE.items() if (pretrained.architecture or "").endswith(end)), None)
    if name is None:
        if found is None:
            raise ValueError(
                f"{source} does not say what task it is for (its architecture is {pretrained.architecture}): name it "
                f"with --task, one of {', '.join(TASKS)}"
            )
        name = found[0]
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}{did_you_mean(name, list(TASKS))} Tasks: {', '.join(TASKS)}")
    heads = dict(OF_ARCHITECTURE.values())
    if heads.get(name) and heads[name] not in pretrained.shapes:
        raise ValueError(f"{source} has no head of a {name}, so there is nothing to score: fine-tune it first")
    unnamed = [f"LABEL_{i}" for i in range(len(pretrained.labels or ()))]
    if "labels" in options and pretrained.labels not in (None, unnamed, list(options["labels"])):
        raise ValueError(f"{source} has the labels {pretrained.labels}, not {options['labels']}")
    return getattr(importlib.import_module(TASKS[name]), name).from_pretrained(source, **options)


def reading_options(task, config_file: Path, uri: Any = None) -> dict[str, Any]:
    """The options in a run's ``data:`` section that say how rows are read, as far as the task's dataset takes them.

    Args:
        task: with a ``dataset`` method.
        config_file: config.yaml of the run; need not exist.
        uri: the rows to score.
    """
    section, taken = _section(config_file, "data"), inspect.signature(task.dataset).parameters
    found = columns_of_run(config_file, taken)
    if "batching" in taken and "seed" in (training := _section(config_file, "training")):
        found["seed"] = training["seed"]  # of the masks and the noise of pretraining tasks
    if "stride" in taken and "stride" in section and not is_prepared(uri):  # as the generation recipe scores
        found["layout"] = "stream" if section.get("layout") == "stream" else "documents"
        found["stride"] = section["stride"] or max(1, task.max_length // 2)
    return found


def columns_of_run(config_file: Path, taken: Collection[str]) -> dict[str, Any]:
    """Names of columns and the like in a run's ``data:`` section.

    Args:
        config_file: config.yaml of the run; need not exist.
        taken: what the reader of the rows takes of them.
    """
    section = _section(config_file, "data")
    return {name: section[name] for name in HOW_ROWS_ARE_READ if name in taken and section.get(name) is not None}


def _section(file: Path, name: str) -> dict:
    """A section of a run's config.yaml; empty where there is none."""
    config = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    found = (config or {}).get(name)
    return found if isinstance(found, dict) else {}
