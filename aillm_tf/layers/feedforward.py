"""FFN(x) = act(x W1 + b1) W2 + b2, and its gated form (act(x Wg) * (x Wu)) W2 (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dense import Dense

ACTIVATIONS = {
    "gelu": fast.gelu,
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),
    "relu": ops.relu,
    "silu": ops.silu,
}


class FeedForward(Layer):
    """The position-wise network of a Transformer block; gate and up projections are one matmul."""

    def __init__(self, config, *, name: str = "ffn", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.gated, self.activation = config.gated, ACTIVATIONS[config.activation]
        options = {"bias": config.bias, "stddev": config.initializer_range, "dtype": dtype}
        self.up = Dense(config.ffn_size * (2 if config.gated else 1), name="up", **options)
        self.down = Dense(config.hidden_size, name="down", **options)
        self.size = config.ffn_size

    def build(self, input_shape):
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], self.size))

    def call(self, x):
        """(..., hidden) -> (..., hidden)."""
        x = self.up(x)  # (..., ffn) or (..., gate | up)
        if self.gated:
            x = self.activation(x[..., : self.size]) * x[..., self.size :]
        else:
            x = self.activation(x)
        return self.down(x)
