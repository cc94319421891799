"""What of a model is trained: all of it, all but frozen parts, or LoRA adapters and the heads.

A frozen variable has no gradient and no optimizer state, and what only its gradient would need is not computed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import keras

from aillm_tf.config import did_you_mean
from aillm_tf.layers.lora import add_lora
from aillm_tf.layers.naming import variables_by_name


def freeze(task, parts: str) -> None:
    """Leaves parts of a model as they are. Call it before `compile`.

    Args:
        task: a built Task.
        parts: comma-separated: numbers of layers, ranges of them ("0-3"), and words of the variables' paths
            ("embeddings", "encoder", "decoder", "pooler"; "backbone" leaves the heads only).

    Raises:
        ValueError: the model has no such part, or nothing is left to train.

    Example:
        >>> freeze(model, "embeddings,0-3")  # doctest: +SKIP
    """
    words = {name: set(name.split("/")) for name in variables_by_name(task)}
    known = set.union(*words.values())
    frozen: set[str] = set()
    for part in (part.strip() for part in parts.split(",")):
        layers = re.fullmatch(r"(\d+)(?:-(\d+))?", part)
        wanted = [f"layer_{i}" for i in range(int(layers[1]), int(layers[2] or layers[1]) + 1)] if layers else [part]
        missing = next((word for word in wanted or [part] if word not in known), None)
        if missing is not None:
            raise ValueError(
                f"training.freeze: the model has no part {missing!r}{did_you_mean(missing, sorted(known))}: give "
                "numbers of layers, from 0, or words of its variables' names, such as embeddings"
            )
        frozen |= set(wanted)
    for name, variable in variables_by_name(task).items():
        if words[name] & frozen:
            _stop(variable)
    if not task.trainable_variables:
        raise ValueError(f"training.freeze {parts} leaves nothing to train: freeze less")


def adapt(task, rank: int, alpha: float, projections: Sequence[str]) -> None:
    """Gives the backbone LoRA adapters, which alone are trained with the task's heads. Call it before `compile`.

    Args:
        task: a built Task.
        rank, alpha, projections: see `aillm_tf.layers.lora`.

    Raises:
        ValueError: no such projection, a rank below 1, or there are adapters already.

    Example:
        >>> adapt(model, rank=8, alpha=16.0, projections=["query", "value"])  # doctest: +SKIP
    """
    for name, variable in variables_by_name(task).items():
        if name.startswith("backbone/"):
            _stop(variable)
    with task.strategy.scope():
        add_lora(task.backbone, rank, alpha, projections, task.seed)
    # graphs that were made without them
    task._answer = task._generator = None
    task.backbone.__dict__.pop("_generator", None)


def trained_share(task) -> float:
    """Share of the parameters that are trained."""
    sizes = [(math.prod(variable.shape), variable.trainable) for variable in task.weights]
    return sum(size for size, trained in sizes if trained) / sum(size for size, _ in sizes)


def _stop(variable: keras.Variable) -> None:
    variable.trainable = False
    if keras.backend.backend() == "tensorflow":
        # what TensorFlow calls trainable is watched, and loops that compute chunks again compute its gradient
        for copy in getattr(variable.value, "values", (variable.value,)):
            copy._trainable = False
