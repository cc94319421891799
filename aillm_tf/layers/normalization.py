"""LayerNorm (Ba et al. 2016, arXiv:1607.06450) and RMSNorm (Zhang & Sennrich 2019, arXiv:1910.07467).

Statistics are float32 whatever the compute dtype.
"""

from __future__ import annotations

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dropout import dropout


class LayerNorm(Layer):
    """scale * (x - mean) / sqrt(variance + epsilon) + bias over the last axis.

    Args:
        epsilon: added to the variance.

    Example:
        >>> norm = LayerNorm()
        >>> norm.build((None, 2))
        >>> [round(float(y), 3) for y in norm(ops.convert_to_tensor([[1.0, 3.0]]))[0]]
        [-1.0, 1.0]
    """

    def __init__(self, epsilon: float = 1e-12, *, name: str = "norm", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.epsilon = epsilon

    def build(self, input_shape):
        self.scale = self.weight("scale", (input_shape[-1],), "ones")
        self.bias = self.weight("bias", (input_shape[-1],), "zeros")

    def call(self, x, residual=None, rate: float = 0.0, seed=None):
        """Normalise x, or dropout(x) + residual.

        Args:
            x: (..., features).
            residual: the same shape, or None.
            rate, seed: dropout of x, see `aillm_tf.layers.dropout`.

        Returns:
            (..., features) in the compute dtype.
        """
        return fast.add_norm(self.cast(x), residual, self.scale, self.bias, self.epsilon, rate, seed)


class RMSNorm(Layer):
    """(offset + scale) * x / sqrt(mean(x^2) + epsilon) over the last axis.

    Args:
        epsilon: added to the mean square.
        offset: added to the scale; with 1 the weights start at 0 and weight decay pulls the norm towards the identity
            (Gemma).

    Example:
        >>> norm = RMSNorm(epsilon=0.0)
        >>> norm.build((None, 2))
        >>> [round(float(y), 3) for y in norm(ops.convert_to_tensor([[3.0, 4.0]]))[0]]
        [0.849, 1.131]
    """

    def __init__(self, epsilon: float = 1e-6, *, offset: float = 0.0, name: str = "norm", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.epsilon, self.offset = epsilon, offset

    def build(self, input_shape):
        self.scale = self.weight("scale", (input_shape[-1],), "zeros" if self.offset else "ones")

    def call(self, x, residual=None, rate: float = 0.0, seed=None):
        """Normalise x, or dropout(x) + residual.

        Args:
            x: (..., features).
            residual: the same shape, or None.
            rate, seed: dropout of x, see `aillm_tf.layers.dropout`.

        Returns:
            (..., features) in the compute dtype.
        """
        x = ops.cast(dropout(x, rate, seed), "float32")
        if residual is not None:
            x = x + ops.cast(residual, "float32")
        x = x * ops.rsqrt(ops.mean(ops.square(x), axis=-1, keepdims=True) + self.epsilon)
        return self.cast(x * (ops.cast(self.scale, "float32") + self.offset))


def norm_layer(kind: str, epsilon: float, *, offset: float = 0.0, name: str, dtype=None) -> Layer:
    """LayerNorm for "layer", RMSNorm for "rms".

    Args:
        kind: "layer" or "rms".
        epsilon: see there.
        offset: of the scale of an RMSNorm.
        name: of the layer.
        dtype: its dtype policy.
    """
    if kind == "rms":
        return RMSNorm(epsilon, offset=offset, name=name, dtype=dtype)
    return LayerNorm(epsilon, name=name, dtype=dtype)
