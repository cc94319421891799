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
    task = aillm_tf.load(folder)
    options = reading_options(task, folder.parent / "config.yaml")
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
    if not config_file.is_file():
        return {}
    section = (yaml.safe_load(config_file.read_text(encoding="utf-8")) or {}).get("data")
    if not isinstance(section, dict):
        return {}
    taken = inspect.signature(task.dataset).parameters
    return {name: section[name] for name in HOW_ROWS_ARE_READ if name in taken and section.get(name) is not None}
