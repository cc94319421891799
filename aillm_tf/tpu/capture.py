"""A recipe run up to its training: its task, compiled as the recipe wants it, and its data, but not one step."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from aillm_tf import config as configs


@dataclasses.dataclass(frozen=True)
class Captured:
    """What a recipe would have trained.

    Attributes:
        config: of the recipe.
        task: compiled.
        data: the training `Dataset`.
        validation: the one for validation, or None.
        steps: optimizer steps in all.
    """

    config: Any
    task: Any
    data: Any
    validation: Any
    steps: int


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

    config = configs.parse(configs.config_class_of(recipe.main), list(argv))
    # the strategy of the slice cannot be made here; all that differs under it is put in where the step is lowered
    wanted = {"strategy": "one", "fixed_length": True, "steps_per_execution": 1, **training}
    if config.training.dtype == "auto":
        wanted["dtype"] = "mixed_bfloat16"
    with tempfile.TemporaryDirectory() as out:
        changed = {"training": dataclasses.replace(config.training, **wanted), "out": f"{out}/run"}
        config = dataclasses.replace(config, **changed)
        with loop.stopped_before(Reached):
            try:
                recipe.main(config)
            except Reached as reached:
                return Captured(config, reached.task, reached.data, reached.validation, reached.steps)
    raise ValueError(f"{recipe.__name__} ended without training: nothing to compile")
