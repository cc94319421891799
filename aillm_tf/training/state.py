"""What a resumed run needs of a task: its weights, its optimizer's, and what its guard has seen."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
from keras import ops

from aillm_tf.layers.naming import variables_by_name


def of_task(task) -> dict[str, dict[str, np.ndarray]]:
    """Copies of all state of a compiled task, by group: "model", "optimizer" and, where there is one, "guard"."""
    model = {name: ops.convert_to_numpy(v) for name, v in variables_by_name(task).items()}
    slots = {name: ops.convert_to_numpy(v) for name, v in _slots(task)}
    slots["steps_done"] = np.asarray(ops.convert_to_numpy(task.optimizer.steps_done), "int64")
    return {"model": model, "optimizer": slots, **({"guard": task.guard.state()} if task.guard else {})}


def restore(task, groups: dict[str, dict[str, np.ndarray]]) -> None:
    """Assigns what `of_task` returned.

    Raises:
        ValueError: it is of another model; names what differs.
    """
    slots = dict(groups["optimizer"])
    task.optimizer.steps_done.assign(slots.pop("steps_done"))
    for variables, values in ((variables_by_name(task), groups["model"]), (dict(_slots(task)), slots)):
        if set(variables) != set(values):
            raise ValueError(f"the checkpoint is of another model: {sorted(set(variables) ^ set(values))[:4]} ...")
        for name, variable in variables.items():
            variable.assign(values[name])
    if task.guard and "guard" in groups:
        task.guard.set_state(groups["guard"])


def _slots(task) -> Iterator[tuple[str, keras.Variable]]:
    names = [v.path.partition("/")[2] for v in task.trainable_variables]
    for kind, variables in task.optimizer.slots().items():
        for name, variable in zip(names, variables, strict=True):
            yield f"{kind}/{name}", variable
