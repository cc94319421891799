"""After a loss or gradient that is not finite: which tensor was the first, found by computing that step once more.

The step leaves the weights as they were (see `step.py`), batches are a function of the step, and so are dropout's
masks: computed again, outside of a graph, the same numbers come out, and each can be looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.training.step import programs


def first_not_finite(task, data, step: int) -> str:
    """Computes a step again and says which tensor was the first that is not finite.

    Args:
        task: compiled, with the weights that the step began with.
        data: the Dataset it trains on.
        step: counted from 0.

    Returns:
        A sentence; it names a column of the batch, a weight, the output of a layer, the loss, or the weight whose
        gradient was the first on the way back.
    """
    for name, variable in variables_by_name(task).items():
        if bad := _bad(variable):
            return f"the weight {name} had {bad} before the step"
    parts = list(programs().parts_of_step(task, data, step))
    for number, (batch, seed) in enumerate(parts, start=1):
        if found := _in_part(task, batch, seed):
            return f"{found}, in part {number} of {len(parts)} of the batch"
    return "computed again, layer by layer, every tensor is finite: the graph's own rounding or a device's fault"


def _in_part(task, batch: dict, seed) -> str:
    for name, x in batch.items():
        if bad := _bad(x):
            return f"the batch's column {name} has {bad}"
    with fast.fused(task.fuse_on_cpu), _watched(task) as outputs:
        loss, _ = task.loss_terms(batch, seed=seed)
    if outputs:
        return outputs[0]
    if _bad(loss):
        return "the loss itself; all layers before it are finite"
    names = [variable.path.partition("/")[2] for variable in task.trainable_variables]
    gradients = programs().gradients_of_part(task, batch, seed)
    found = [
        (name, bad)
        for name, gradient in zip(names, gradients, strict=True)
        if gradient is not None
        if (bad := _bad(gradient))
    ]
    if not found:
        return ""
    name, bad = found[-1]  # variables are in the order of the forward pass; gradients flow against it
    return f"the gradient of {name} has {bad} ({len(found)} of {len(names)} gradients are not finite)"


@contextlib.contextmanager
def _watched(task) -> Iterator[list[str]]:
    """Within this context every layer that gives a tensor that is not finite adds a line, the first one first."""
    lines: list[str] = []

    def watch(layer):
        call = layer.call

        def watched(*inputs, **options):
            outputs = call(*inputs, **options)
            for x in keras.tree.flatten(outputs):
                if ops.is_tensor(x) and (bad := _bad(x)):
                    lines.append(f"the output of {layer.path.partition('/')[2] or layer.name} has {bad}")
            return outputs

        layer.__dict__["call"] = watched  # not by setattr, which Keras overrides
        return layer

    layers = [watch(layer) for layer in task._flatten_layers(include_self=False)]
    try:
        yield lines
    finally:
        for layer in layers:
            del layer.__dict__["call"]


def _bad(x) -> str:
    """How many numbers are not finite, in words; "" where all are."""
    x = ops.convert_to_tensor(x)
    if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype)):
        return ""
    count = int(ops.sum(ops.logical_not(ops.isfinite(x))))
    return f"{count} of {ops.size(x)} numbers that are not finite" if count else ""
