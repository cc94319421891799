"""Names of variables: the one contract between layers, weight maps, checkpoints and saved models."""

from __future__ import annotations

import keras


def variables_by_name(layer: keras.layers.Layer) -> dict[str, keras.Variable]:
    """The variables of a built layer or model, by their path inside it.

    Args:
        layer: a built Keras layer or model.

    Returns:
        `{"backbone/encoder/layer_0/attention/qkv/kernel": variable, ...}` in creation order.
    """
    # weights, not variables: those of Keras's random seeds are no part of a model
    names = {variable.path.partition("/")[2]: variable for variable in layer.weights}
    if len(names) != len(layer.weights):
        raise ValueError(f"two variables of {layer.name} share a path: give its layers different names")
    return names
