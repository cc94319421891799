"""LayerNorm (Ba et al. 2016, arXiv:1607.06450) and RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467).

Statistics are float32 whatever the compute dtype.
"""

from __future__ import annotations

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dropout import dropout


class LayerNorm(Layer):
    """scale * (x - mean) / sqrt(variance + epsilon) + bias over the last axis."""

    def __init__(self, epsilon: float = 1e-12, *, name: str = "norm", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.weight("scale", (input_shape[-1],), "ones")
        self.bias = self.weight("bias", (input_shape[-1],), "zeros")

    def call(self, x, residual=None, rate: float = 0.0, seed=None):
        """Normalise x, or dropout(x) + residual, (..., features)."""
        return fast.add_norm(self.cast(x), residual, self.scale, self.bias, self.epsilon, rate, seed)


class RMSNorm(Layer):
    """scale * x / sqrt(mean(x^2) + epsilon) over the last axis."""

    def __init__(self, epsilon: float = 1e-6, *, name: str = "norm", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.weight("scale", (input_shape[-1],), "ones")

    def call(self, x, residual=None, rate: float = 0.0, seed=None):
        """Normalise x, or dropout(x) + residual, (..., features)."""
        x = ops.cast(dropout(x, rate, seed), "float32")
        if residual is not None:
            x = x + ops.cast(residual, "float32")
        x = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + self.epsilon)
        return self.cast(x * ops.cast(self.scale, "float32"))


def norm_layer(kind: str, epsilon: float, *, name: str, dtype=None) -> Layer:
    """LayerNorm for "layer", RMSNorm for "rms"."""
    return {"layer": LayerNorm, "rms": RMSNorm}[kind](epsilon, name=name, dtype=dtype)
