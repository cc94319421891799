"""A recipe run up to its training: its task, compiled as the recipe wants it, and its data, but not one step."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from aillm_tf import config as configs


@dataclasses.dataclass(frozen=True)
class Captured:
    """What a recipe would have trained.

    Attributes:
        config: of the recipe, as it was given.
        task: compiled.
        data: the training `Dataset`, every batch of the full size.
        validation: the one for validation, or None.
        steps: optimizer steps in all.
    """

    config: Any
    task: Any
    data: Any
    validation: Any
    steps: int

    @property
    def sources(self) -> list[str]:
        """Paths and uris of the data."""
        return [text for text in _strings(self.config.data) if "://" in text or Path(text).exists()]


class Reached(Exception):
    """Ends a recipe where its training would begin."""

    def __init__(self, task, data, validation, steps: int):
        super().__init__("training begins")
        self.task, self.data, self.validation, self.steps = task, data, validation, steps


def capture(recipe: ModuleType, argv: Sequence[str], **training: Any) -> Captured:
    """Runs a recipe up to its call of `fit`.

    Args:
        recipe: a module with `main(config)`.
        argv: its options; data is read as for training.
        **training: fields of its `training` options that are other than the options say.

    Returns:
        What it would have trained, on this machine's device, in mixed bfloat16, with static shapes.

    Raises:
        ValueError: the recipe ended without training.
    """
    from aillm_tf.training import loop
    from aillm_tf.training.batch_growth import GrowingBatches

    config = configs.parse(configs.config_class_of(recipe.main), list(argv))
    # the strategy of the slice cannot be made here; all that differs under it is put in where the step is lowered
    wanted = {"strategy": "one", "fixed_length": True, "steps_per_execution": 1, **training}
    if config.training.dtype == "auto":
        wanted["dtype"] = "mixed_bfloat16"
    with tempfile.TemporaryDirectory() as out:
        changed = {"training": dataclasses.replace(config.training, **wanted), "out": f"{out}/run"}
        # what it prints on its way is not what was asked for
        with loop.stopped_before(Reached), contextlib.redirect_stdout(sys.stderr):
            try:
                recipe.main(dataclasses.replace(config, **changed))
            except Reached as reached:
                data = reached.data.data if isinstance(reached.data, GrowingBatches) else reached.data
                return Captured(config, reached.task, data, reached.validation, reached.steps)
    raise ValueError(f"{recipe.__name__} ended without training: nothing to compile")


def _strings(options: Any) -> Iterator[str]:
    """The texts among options, those within options too."""
    if dataclasses.is_dataclass(options):
        options = vars(options)
    if isinstance(options, str):
        yield options
    elif isinstance(options, (dict, list, tuple)):
        for value in options.values() if isinstance(options, dict) else options:
            yield from _strings(value)
