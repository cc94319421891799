"""Block and Stack: the Transformer itself.

Post-LN (Vaswani et al. 2017):  H = LN(Attn(H) + H);  H = LN(FFN(H) + H)
Pre-LN (Xiong et al. 2020, arXiv:2002.04745):  H = H + Attn(LN(H));  H = H + FFN(LN(H))
with cross-attention between the two in a decoder that reads an encoder.
"""

from __future__ import annotations

import functools

import keras
from keras import ops

from aillm_tf.layers.attention import Attention
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dropout import dropout, fold
from aillm_tf.layers.feedforward import FeedForward
from aillm_tf.layers.normalization import norm_layer
from aillm_tf.layers.positions import alibi, relative_bucket

SITES = 8  # seeds that one block may fold


class Block(Layer):
    """One layer of an encoder or decoder."""

    def __init__(self, config, *, cross: bool = False, name: str = "block", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.pre, self.rate = config.norm_placement == "pre", config.dropout

        def norm(label):
            return norm_layer(config.norm, config.norm_epsilon, name=label, dtype=dtype)

        self.attention, self.attention_norm = Attention(config, dtype=dtype), norm("attention_norm")
        if cross:
            self.cross_attention = Attention(config.replace(position="none"), name="cross_attention", dtype=dtype)
            self.cross_attention_norm = norm("cross_attention_norm")
        self.cross = cross
        self.ffn, self.ffn_norm = FeedForward(config, dtype=dtype), norm("ffn_norm")

    def build(self, input_shape):
        for layer in self._layers:
            layer.build(input_shape)

    def residual(self, x, sublayer, norm, seed):
        """One sublayer with its residual connection, dropout and norm."""
        if self.pre:
            return x + dropout(sublayer(norm(x)), self.rate, seed)
        return norm(sublayer(x), residual=x, rate=self.rate, seed=seed)

    def call(self, x, bias=None, positions=None, memory=None, memory_bias=None, read=None, seed=None):
        """(batch, length, hidden) -> the same shape, or (batch, read, hidden).

        Args:
            x: (batch, length, hidden).
            bias: float32, broadcastable to (batch, heads, query, key).
            positions: (batch, length) int, for rotary positions.
            memory, memory_bias: an encoder's output (batch, key, hidden) and its bias.
            read: compute only the first `read` positions of the result; they still attend to all of x.
            seed: (2,) int32, dropout in training.
        """
        keys = x
        if read is not None:
            x = x[:, :read]
            bias = bias if bias is None or bias.shape[2] == 1 else bias[:, :, :read]

        def self_attention(h):
            # the norm of pre-LN is per token, so normalising the keys again for a partial read is exact
            source = None if read is None else (self.attention_norm(keys) if self.pre else keys)
            at = positions if read is None or positions is None else positions[:, :read]
            return self.attention(
                h, memory=source, bias=bias, positions=at, memory_positions=positions, seed=fold(seed, 1)
            )

        x = self.residual(x, self_attention, self.attention_norm, fold(seed, 2))
        if self.cross:

            def cross_attention(h):
                return self.cross_attention(h, memory=memory, bias=memory_bias, seed=fold(seed, 3))

            x = self.residual(x, cross_attention, self.cross_attention_norm, fold(seed, 4))
        return self.residual(x, self.ffn, self.ffn_norm, fold(seed, 5))


class Stack(Layer):
    """`layers` blocks, the position bias they share, and the final norm of a pre-LN stack."""

    def __init__(self, config, layers: int, *, causal: bool, cross: bool = False, name: str, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.config, self.causal = config, causal
        self.blocks = [Block(config, cross=cross, name=f"layer_{i}", dtype=dtype) for i in range(layers)]
        self.final_norm = (
            norm_layer(config.norm, config.norm_epsilon, name="final_norm", dtype=dtype)
            if config.norm_placement == "pre"
            else None
        )

    def build(self, input_shape):
        config = self.config
        if config.position == "relative":
            self.relative = self.weight("relative", (config.relative_buckets, config.heads), config.initializer_range)
        for block in self.blocks:
            block.build(input_shape)
        if self.final_norm:
            self.final_norm.build(input_shape)

    def position_bias(self, positions):
        """(batch or 1, heads, length, length) float32 from positions (batch or 1, length), or None."""
        config = self.config
        if config.position == "alibi":
            return alibi(positions, positions, config.heads)
        if config.position == "relative":
            distance = positions[:, None, :] - positions[:, :, None]  # key minus query
            bucket = relative_bucket(
                distance, config.relative_buckets, config.relative_max_distance, bidirectional=not self.causal
            )
            return ops.transpose(ops.cast(ops.take(self.relative, bucket, axis=0), "float32"), (0, 3, 1, 2))
        return None

    def call(self, x, bias=None, positions=None, memory=None, memory_bias=None, read=None, seed=None):
        """Run all blocks; arguments as for `Block`. `read` makes the last block compute only those positions."""
        if positions is None:
            positions = ops.arange(ops.shape(x)[1])[None]
        extra = self.position_bias(positions)
        if extra is not None:
            bias = extra if bias is None else bias + extra
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            # what a gradient flows into; a recomputed block gives none to tensors that it merely captures
            inputs = {"x": x, "bias": bias, "memory": memory}
            inputs = {name: tensor for name, tensor in inputs.items() if tensor is not None}
            run = functools.partial(
                block,
                positions=positions,
                memory_bias=memory_bias,
                read=read if last else None,
                seed=fold(seed, SITES * (i + 1)),
            )
            if self.config.remat and seed is not None:
                run = _recomputed(run, tuple(inputs))
            x = run(**inputs)
        return self.final_norm(x) if self.final_norm else x


def _recomputed(run, names: tuple[str, ...]):
    """`run`, whose activations are computed again in the backward pass; `keras.remat` takes positional tensors only."""
    function = keras.remat(lambda *tensors: run(**dict(zip(names, tensors, strict=True))))
    return lambda **inputs: function(*inputs.values())
