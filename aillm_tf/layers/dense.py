"""Dense: y = x W + b as one 2-D matmul over flattened tokens."""

from __future__ import annotations

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer


class Dense(Layer):
    """An affine map of the last axis.

    Leading axes are flattened first: on TensorFlow a 2-D matmul is faster than an einsum over three axes, on
    every device.

    Args:
        units: size of the last axis of the output.
        bias: add a bias.
        stddev: standard deviation of the initial kernel.
    """

    def __init__(self, units: int, *, bias: bool = True, stddev: float = 0.02, name: str = "dense", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.units, self.use_bias, self.stddev = units, bias, stddev
        self.lora = None  # see aillm_tf.layers.lora

    def build(self, input_shape):
        self.kernel = self.weight("kernel", (input_shape[-1], self.units), self.stddev)
        self.bias = self.weight("bias", (self.units,), "zeros") if self.use_bias else None

    def call(self, x, columns: slice = slice(None)):
        """(..., inputs) -> (..., units); `columns` computes only those units."""
        kernel, bias = self.cast(self.kernel), self.bias
        if columns != slice(None):
            kernel = kernel[:, columns]
            bias = None if bias is None else bias[columns]
        x = self.cast(x)
        lead = ops.shape(x)[:-1]
        bias = None if bias is None else self.cast(bias)
        x = ops.reshape(x, (-1, x.shape[-1]))
        y = fast.dense(x, kernel, bias)  # (tokens, units)
        if self.lora is not None:
            y = y + self.lora(x, columns=columns)
        return ops.reshape(y, (*lead, kernel.shape[-1]))
