"""Layer: the base of every layer of the stack. Explicit casts, and initial weights that depend on (seed, name) only.

Keras's automatic casting is switched off: a layer says itself which numbers are float32 (statistics, softmax,
masks) and which follow the compute dtype of its policy.
"""

from __future__ import annotations

import contextlib
import contextvars
import zlib

import keras
from keras import ops

_initial_seed = contextvars.ContextVar("aillm_initial_seed", default=0)


@contextlib.contextmanager
def initial_seed(seed: int):
    """Within this context new weights are drawn from `seed` and their own name: equal on every run and machine."""
    token = _initial_seed.set(seed)
    try:
        yield
    finally:
        _initial_seed.reset(token)


class Layer(keras.layers.Layer):
    """A Keras layer without automatic casting."""

    def __init__(self, *, name: str | None = None, dtype=None, **kwargs):
        super().__init__(name=name, dtype=dtype, autocast=False, **kwargs)

    def cast(self, x):
        """`x` in this layer's compute dtype."""
        return ops.cast(x, self.compute_dtype)

    def weight(self, name: str, shape: tuple[int, ...], initializer: str | float) -> keras.Variable:
        """Add a weight: `initializer` is "zeros", "ones", or the standard deviation of a truncated normal."""
        if not isinstance(initializer, str):
            initializer = self.normal(name, initializer)
        return self.add_weight(name=name, shape=shape, initializer=initializer, autocast=False)

    def normal(self, name: str, stddev: float) -> keras.initializers.Initializer:
        """The initial values of the weight of this name: a truncated normal."""
        # the path without the model's own name, which Keras makes unique within a process
        key = f"{_initial_seed.get()}/{self.path.partition('/')[2]}/{name}"
        return keras.initializers.TruncatedNormal(stddev=stddev, seed=zlib.crc32(key.encode()))


@contextlib.contextmanager
def computing_in(layer: keras.layers.Layer, policy: str):
    """Within this context new graphs of a layer or model compute in another dtype policy.

    Args:
        layer: with all that is within it.
        policy: such as "float32".
    """
    layers = list(layer._flatten_layers())
    policies = [part.dtype_policy for part in layers]
    for part in layers:
        part.dtype_policy = policy
    try:
        yield
    finally:
        for part, before in zip(layers, policies, strict=True):
            part.dtype_policy = before
