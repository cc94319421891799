"""Attention(Q, K, V) = softmax(Q K^T / sqrt(d) + bias) V, multi-head and grouped-query, self and cross.

References: Vaswani et al. 2017 (arXiv:1706.03762); grouped queries: Ainslie et al. 2023 (arXiv:2305.13245).
"""

from __future__ import annotations

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dense import Dense
from aillm_tf.layers.dropout import fold
from aillm_tf.layers.positions import rotary


class Attention(Layer):
    """Multi-head attention with one fused Q|K|V kernel and softmax in float32.

    With fewer `kv_heads` than `heads`, consecutive query heads share a key and value head.
    """

    def __init__(self, config, *, name: str = "attention", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.heads, self.kv_heads, self.width = config.heads, config.key_value_heads, config.head_width
        self.rate = config.attention_dropout
        self.theta = config.rope_theta if config.position == "rotary" else None
        qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
        stddev = config.initializer_range
        self.qkv = Dense(
            (self.heads + 2 * self.kv_heads) * self.width, bias=qkv_bias, stddev=stddev, name="qkv", dtype=dtype
        )
        self.out = Dense(config.hidden_size, bias=config.bias, stddev=stddev, name="out", dtype=dtype)

    def build(self, input_shape):
        self.qkv.build(input_shape)
        self.out.build((*input_shape[:-1], self.heads * self.width))

    def split_heads(self, x, heads: int):
        """(batch, length, heads * width) -> (batch, heads, length, width)."""
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        return ops.transpose(ops.reshape(x, (batch, length, heads, self.width)), (0, 2, 1, 3))

    def call(self, x, memory=None, bias=None, positions=None, memory_positions=None, seed=None):
        """Attend from x to memory.

        Args:
            x: (batch, query, hidden).
            memory: (batch, key, hidden) to attend to; x itself by default.
            bias: float32, broadcastable to (batch, heads, query, key).
            positions, memory_positions: (batch, query), (batch, key) int, for rotary positions.
            seed: (2,) int32, attention dropout in training.

        Returns:
            (batch, query, hidden).
        """
        heads, kv_heads = self.heads, self.kv_heads
        if memory is None:
            qkv = self.split_heads(self.qkv(x), heads + 2 * kv_heads)
            q, k, v = ops.split(qkv, (heads, heads + kv_heads), axis=1)
            memory_positions = positions
        else:
            q = self.split_heads(self.qkv(x, columns=slice(0, heads * self.width)), heads)
            kv = self.split_heads(self.qkv(memory, columns=slice(heads * self.width, None)), 2 * kv_heads)
            k, v = ops.split(kv, 2, axis=1)
        if self.theta is not None:
            q, k = rotary(q, positions, self.theta), rotary(k, memory_positions, self.theta)
        if kv_heads != heads:
            k, v = (ops.repeat(t, heads // kv_heads, axis=1) for t in (k, v))
        context = fast.attention(q, k, v, bias, self.width**-0.5, self.rate, fold(seed, 0))
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        context = ops.reshape(ops.transpose(context, (0, 2, 1, 3)), (batch, length, heads * self.width))
        return self.out(context)
