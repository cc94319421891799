"""FFN(x) = act(x W1 + b1) W2 + b2, and its gated form (act(x Wg) * (x Wu)) W2 (Shazeer 2020, arXiv:2002.05202)."""

from __future__ import annotations

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dense import Dense
from aillm_tf.layers.dropout import dropout

ACTIVATIONS = {
    "gelu": fast.gelu,
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),
    "relu": ops.relu,
    "silu": ops.silu,
}


class FeedForward(Layer):
    """The position-wise network of a Transformer block; gate and up projections are one matmul.

    Args:
        config: of it `ffn_size`, `hidden_size`, `activation`, `gated`, `bias` and `activation_dropout` are read.

    Example:
        >>> from aillm_tf.models.config import TransformerConfig
        >>> layer = FeedForward(TransformerConfig(vocab_size=9, hidden_size=4, layers=1, heads=1, ffn_size=8))
        >>> layer.build((None, None, 4))
        >>> layer(ops.ones((2, 3, 4))).shape
        TensorShape([2, 3, 4])
    """

    def __init__(self, config, *, name: str = "ffn", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.gated, self.activation = config.gated, ACTIVATIONS[config.activation]
        self.rate = config.activation_dropout
        options = {"bias": config.bias, "stddev": config.initializer_range, "dtype": dtype}
        self.up = Dense(config.ffn_size * (2 if config.gated else 1), name="up", **options)
        self.down = Dense(config.hidden_size, name="down", **options)
        self.size = config.ffn_size

    def build(self, input_shape):
        self.up.build(input_shape)
        self.down.build((*input_shape[:-1], self.size))

    def call(self, x, seed=None):
        """Compute the network for every token.

        Args:
            x: (..., hidden).
            seed: (2,) int32, dropout of the activations in training.

        Returns:
            (..., hidden) in the compute dtype.
        """
        x = self.up(x)  # (..., ffn) or (..., gate | up)
        if self.gated:
            x = self.activation(x[..., : self.size]) * x[..., self.size :]
        else:
            x = self.activation(x)
        return self.down(dropout(x, self.rate, seed))
