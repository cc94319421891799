"""Score a trained run on other data, read the way its training data was read."""

from __future__ import annotations

import inspect
from pathlib import Path

import yaml

import aillm_tf

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


def evaluate_run(folder: Path, uri: str, batch_size: int = 64, progress: bool = True) -> dict[str, float]:
    """Scores a saved model.

    Args:
        folder: of the model (with task.json); if it lies in a run, columns are chosen as in the run's config.
        uri: the labelled rows.
        batch_size: rows at a time.
        progress: whether to draw a progress bar.

    Returns:
        The task's metrics; those of a classifier include ``accuracy_low`` and ``accuracy_high``, 95 % confidence.
    """
    file = folder.parent / "config.yaml"
    # in the run's own precision: scores in another differ in the last digits
    task = aillm_tf.load(folder, dtype=_section(file, "training").get("dtype", "auto"))
    options = reading_options(task, file)
    if "decode" in inspect.signature(task.dataset).parameters:  # texts are written and scored, too
        options["decode"] = None
    data = task.dataset(uri, batch_size=batch_size, **options)
    return task.evaluate(data, verbose=1 if progress else 0)


def reading_options(task, config_file: Path) -> dict[str, str]:
    """The options in a run's ``data:`` section that say how rows are read, as far as the task's dataset takes them.

    Args:
        task: with a ``dataset`` method.
        config_file: config.yaml of the run; need not exist.
    """
    section, taken = _section(config_file, "data"), inspect.signature(task.dataset).parameters
    return {name: section[name] for name in HOW_ROWS_ARE_READ if name in taken and section.get(name) is not None}


def _section(file: Path, name: str) -> dict:
    """A section of a run's config.yaml; empty where there is none."""
    config = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else None
    found = (config or {}).get(name)
    return found if isinstance(found, dict) else {}
