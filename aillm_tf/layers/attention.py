"""Attention(Q, K, V) = softmax(Q K^T / sqrt(d) + bias) V, multi-head and grouped-query, self and cross.

References: Vaswani et al. 2017 (arXiv:1706.03762); grouped queries: Ainslie et al. 2023 (arXiv:2305.13245); norms of
query and key: Henry et al. 2020 (arXiv:2010.04245); soft caps: Gemma Team 2024 (arXiv:2408.00118).
"""

from __future__ import annotations

import itertools

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer
from aillm_tf.layers.cache import read_slots, write_slots
from aillm_tf.layers.dense import Dense
from aillm_tf.layers.dropout import dropout, fold
from aillm_tf.layers.normalization import RMSNorm
from aillm_tf.layers.positions import rotate


class Attention(Layer):
    """Multi-head attention with one fused Q|K|V kernel and softmax in float32.

    With fewer `kv_heads` than `heads`, consecutive query heads share a key and value head.

    Args:
        config: of it `heads`, `kv_heads`, `head_size`, `hidden_size`, `bias`, `qkv_bias`, `qk_norm`, `attention_scale`,
            `attention_softcap` and `attention_dropout` are read.

    Example:
        >>> from aillm_tf.models.config import TransformerConfig
        >>> layer = Attention(TransformerConfig(vocab_size=9, hidden_size=8, layers=1, heads=2, ffn_size=8))
        >>> layer.build((None, None, 8))
        >>> layer(ops.ones((2, 3, 8)), memory=ops.ones((2, 5, 8))).shape
        TensorShape([2, 3, 8])
    """

    def __init__(self, config, *, name: str = "attention", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.heads, self.kv_heads, self.width = config.heads, config.key_value_heads, config.head_width
        self.rate, self.softcap = config.attention_dropout, config.attention_softcap
        self.scale = self.width**-0.5 if config.attention_scale is None else config.attention_scale
        qkv_bias = config.bias if config.qkv_bias is None else config.qkv_bias
        stddev = config.initializer_range
        self.qkv = Dense(
            (self.heads + 2 * self.kv_heads) * self.width, bias=qkv_bias, stddev=stddev, name="qkv", dtype=dtype
        )
        self.out = Dense(config.hidden_size, bias=config.bias, stddev=stddev, name="out", dtype=dtype)
        self.query_norm, self.key_norm = (
            RMSNorm(config.norm_epsilon, offset=config.norm_offset, name=label, dtype=dtype) if config.qk_norm else None
            for label in ("query_norm", "key_norm")
        )

    def build(self, input_shape):
        self.qkv.build(input_shape)
        self.out.build((*input_shape[:-1], self.heads * self.width))
        if self.query_norm:
            self.query_norm.build((self.width,))
            self.key_norm.build((self.width,))

    def split_heads(self, x, *heads: int) -> list:
        """(batch, length, sum of heads * width) -> a tensor (batch, heads, length, width) for each of `heads`."""
        batch, length, parts = ops.shape(x)[0], ops.shape(x)[1], len(heads)
        if len(set(heads)) == 1:  # parts of the first axis lie one after the other and need not be copied
            x = ops.reshape(x, (batch, length, parts, heads[0], self.width))
            return ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), parts)
        x = ops.transpose(ops.reshape(x, (batch, length, sum(heads), self.width)), (0, 2, 1, 3))
        return ops.split(x, list(itertools.accumulate(heads))[:-1], axis=1)

    def queries(self, x):
        """(batch, query, hidden) -> (batch, heads, query, width), before norm and rotation."""
        return self.split_heads(self.qkv(x, columns=slice(0, self.heads * self.width)), self.heads)[0]

    def keys_and_values(self, memory):
        """(batch, key, hidden) -> two tensors (batch, kv_heads, key, width), before norm and rotation."""
        kv = self.qkv(memory, columns=slice(self.heads * self.width, None))
        return self.split_heads(kv, self.kv_heads, self.kv_heads)

    def remember(self, memory) -> dict:
        """The cache with which `call` attends to a memory that never changes.

        Args:
            memory: (batch, key, hidden).

        Returns:
            {"key", "value"}, (batch, kv_heads, key, width) in the compute dtype.
        """
        k, v = self.keys_and_values(memory)
        return {"key": self.key_norm(k) if self.key_norm else k, "value": v}

    def call(
        self,
        x,
        memory=None,
        bias=None,
        angles=None,
        memory_angles=None,
        cache=None,
        at=None,
        write: bool = True,
        seed=None,
    ):
        """Attend from x to memory.

        Args:
            x: (batch, query, hidden).
            memory: (batch, key, hidden) to attend to; x itself by default.
            bias: float32, broadcastable to (batch, heads, query, key).
            angles, memory_angles: rotary positions of x and of memory, see `aillm_tf.layers.positions.rotary_angles`.
            cache: {"key", "value"}, (batch, kv_heads, capacity, width), to attend to instead of memory.
            at: int, or (batch,) or scalar int tensor: the slot of the cache in which the first token of x is written
                before it is read; None: the cache is only read.
            write: False, for x of one token: leave the cache as it is, but attend as if the token were in its slot.
            seed: (2,) int32, attention dropout in training.

        Returns:
            (batch, query, hidden) in the compute dtype; with `at`, that and the new cache, or, not written, the new
            entries {"key", "value"}, (batch, kv_heads, 1, width).
        """
        heads, kv_heads = self.heads, self.kv_heads
        if cache is not None and at is None:
            q, k, v = self.queries(x), None, None
        elif memory is not None:
            q, (k, v) = self.queries(x), self.keys_and_values(memory)
        else:
            q, k, v = self.split_heads(self.qkv(x), heads, kv_heads, kv_heads)
            memory_angles = angles
        if self.query_norm:
            q, k = self.query_norm(q), None if k is None else self.key_norm(k)
        if angles is not None:
            q, k = rotate(q, angles), None if k is None else rotate(k, memory_angles)
        entries = {"key": k, "value": v}
        if at is not None and write:
            cache = entries = {name: write_slots(cache[name], entry, at) for name, entry in entries.items()}
        if cache is not None and write:
            k, v = (read_slots(cache[name], at, ops.shape(x)[1]) for name in ("key", "value"))
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        if kv_heads != heads:
            q, bias = self.grouped(q, bias)
        if at is not None and not write:
            context = self.attention_with_entry(q, entries, cache, at, bias)
        else:
            attend = fast.attention if self.softcap is None else self.capped_attention
            context = attend(q, k, v, bias, self.scale, self.rate, fold(seed, 0))
        if kv_heads != heads:
            context = ops.reshape(context, (batch, heads, length, self.width))
        context = ops.reshape(ops.transpose(context, (0, 2, 1, 3)), (batch, length, heads * self.width))
        y = self.out(context)
        return y if at is None else (y, entries)

    def grouped(self, q, bias):
        """The queries that share a key and value head one below the other, so that keys and values are not repeated.

        Args:
            q: (batch, heads, query, width).
            bias: (batch or 1, heads or 1, query or 1, key), or None.

        Returns:
            (batch, kv_heads, heads / kv_heads * query, width), and a bias of that many queries.
        """
        batch, _, length, width = ops.shape(q)
        group = self.heads // self.kv_heads
        q = ops.reshape(q, (batch, self.kv_heads, group * length, width))
        if bias is None:
            return q, None
        if bias.shape[1] == 1:
            return q, bias if bias.shape[2] == 1 else ops.tile(bias, (1, 1, group, 1))
        rows, keys = ops.shape(bias)[0], ops.shape(bias)[3]
        bias = ops.broadcast_to(bias, (rows, self.heads, length, keys))
        return q, ops.reshape(bias, (rows, self.kv_heads, group * length, keys))

    def attention_with_entry(self, q, entries: dict, cache: dict, at, bias):
        """softmax(scores + bias) v over a cache in whose slot `at` stand other entries than those that count there.

        Args:
            q: (batch, kv_heads, queries, width).
            entries: "key" and "value" of the slot, (batch, kv_heads, 1, width).
            cache: "key" and "value", (batch, kv_heads, capacity, width).
            at: scalar or (batch,) int tensor.
            bias: as for `call`.
        """
        capacity = ops.shape(cache["key"])[2]
        here = ops.equal(ops.arange(capacity), ops.reshape(at, (-1, 1)) % capacity)
        here = here[:, None, None]  # (batch or 1, 1, 1, capacity)
        scores = ops.matmul(q, ops.transpose(cache["key"], (0, 1, 3, 2)))  # (batch, kv_heads, queries, capacity)
        scores = ops.where(here, ops.sum(q * entries["key"], axis=-1, keepdims=True), scores)
        scores = ops.cast(scores, "float32") * self.scale
        if self.softcap is not None:
            scores = self.softcap * ops.tanh(scores / self.softcap)
        weights = ops.cast(ops.softmax(scores if bias is None else scores + bias, axis=-1), q.dtype)
        own = ops.sum(ops.where(here, weights, 0.0), axis=-1, keepdims=True)
        return ops.matmul(ops.where(here, 0.0, weights), cache["value"]) + own * entries["value"]

    def capped_attention(self, q, k, v, bias, scale: float, rate: float, seed):
        """dropout(softmax(cap tanh(q k^T scale / cap) + bias)) v; arguments as of `fast.attention`."""
        scores = ops.cast(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), "float32")  # (batch, heads, query, key)
        scores = self.softcap * ops.tanh(scores * (scale / self.softcap))
        if bias is not None:
            scores = scores + bias
        weights = ops.cast(ops.softmax(scores, axis=-1), q.dtype)
        return ops.matmul(dropout(weights, rate, seed), v)
