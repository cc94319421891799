"""Block and Stack: the Transformer itself.

Post-LN (Vaswani et al. 2017):  H = LN(Attn(H) + H);  H = LN(FFN(H) + H)
Pre-LN (Xiong et al. 2020, arXiv:2002.04745):  H = H + Attn(LN(H));  H = H + FFN(LN(H))
Sandwich (Ding et al. 2021, arXiv:2105.13290):  H = H + LN(Attn(LN(H)));  H = H + LN(FFN(LN(H)))
with cross-attention between the two in a decoder that reads an encoder.
"""

from __future__ import annotations

import functools

import keras
from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.attention import Attention
from aillm_tf.layers.base import Layer
from aillm_tf.layers.cache import positions_at, slot_positions
from aillm_tf.layers.dropout import dropout, fold
from aillm_tf.layers.feedforward import FeedForward
from aillm_tf.layers.masks import past_bias, window_bias
from aillm_tf.layers.normalization import norm_layer
from aillm_tf.layers.positions import alibi, relative_bucket, rotary_angles, rotary_frequencies

SITES = 8  # seeds that one block may fold
KINDS = (False, True)  # of layers: without and with a window


class Block(Layer):
    """One layer of an encoder or decoder: attention, cross-attention in a decoder that reads an encoder, and FFN.

    Args:
        config: shape and formula, see `aillm_tf.models.config.TransformerConfig`.
        cross: with cross-attention.

    Example:
        >>> from aillm_tf.models.config import TransformerConfig
        >>> block = Block(TransformerConfig(vocab_size=9, hidden_size=8, layers=1, heads=2, ffn_size=16))
        >>> block.build((None, None, 8))
        >>> block(ops.ones((2, 3, 8))).shape
        TensorShape([2, 3, 8])
    """

    def __init__(self, config, *, cross: bool = False, name: str = "block", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.placement, self.rate, self.cross = config.norm_placement, config.dropout, cross
        self.attention, self.ffn = Attention(config, dtype=dtype), FeedForward(config, dtype=dtype)
        if cross:
            self.cross_attention = Attention(config, name="cross_attention", dtype=dtype)
        after = ("_norm", "_post_norm") if self.placement == "sandwich" else ("_norm",)
        for sublayer in ("attention", "cross_attention", "ffn") if cross else ("attention", "ffn"):
            for label in (sublayer + end for end in after):
                norm = norm_layer(config.norm, config.norm_epsilon, offset=config.norm_offset, name=label, dtype=dtype)
                setattr(self, label, norm)

    def build(self, input_shape):
        for layer in self._layers:
            layer.build(input_shape)

    def before(self, x, sublayer: str):
        """What enters a sublayer."""
        return x if self.placement == "post" else getattr(self, f"{sublayer}_norm")(x)

    def after(self, x, y, sublayer: str, seed):
        """x with y, what a sublayer made of it: dropout, residual connection and norm."""
        if self.placement == "post":
            return getattr(self, f"{sublayer}_norm")(y, residual=x, rate=self.rate, seed=seed)
        if self.placement == "sandwich":
            y = getattr(self, f"{sublayer}_post_norm")(y)
        return x + dropout(y, self.rate, seed)

    def call(
        self,
        x,
        bias=None,
        angles=None,
        memory=None,
        memory_bias=None,
        read: int | None = None,
        cache=None,
        at=None,
        write: bool = True,
        seed=None,
    ):
        """Compute the block.

        Args:
            x: (batch, length, hidden).
            bias: float32, broadcastable to (batch, heads, query, key).
            angles: rotary positions, see `aillm_tf.layers.positions.rotary_angles`.
            memory, memory_bias: an encoder's output (batch, key, hidden) and its bias.
            read: compute only the first `read` positions of the result; they still attend to all of x.
            cache, at: keys and values of earlier tokens and where x stands, see `Stack.call`.
            write: False, for x of one token: the "self" of the cache returned has the new entries only.
            seed: (2,) int32, dropout in training.

        Returns:
            (batch, length or read, hidden) in the compute dtype; with a cache, that and the new cache.
        """
        h, source, source_angles = self.before(x, "attention"), None, None
        if read is not None:
            source, source_angles = h, angles
            x, h = first(x, read), first(h, read)
            angles = None if angles is None else tuple(part[:, :, :read] for part in angles)
            bias = bias if bias is None or bias.shape[2] == 1 else bias[:, :, :read]
        inputs = {"bias": bias, "angles": angles, "seed": fold(seed, 1)}
        if cache is None:
            y = self.attention(h, memory=source, memory_angles=source_angles, **inputs)
        else:
            y, entries = self.attention(h, cache=cache["self"], at=at, write=write, **inputs)
            cache = {**cache, "self": entries}
        x = self.after(x, y, "attention", fold(seed, 2))
        if self.cross:
            h, remembered = self.before(x, "cross_attention"), None if cache is None else cache["memory"]
            y = self.cross_attention(h, memory=memory, bias=memory_bias, cache=remembered, seed=fold(seed, 3))
            x = self.after(x, y, "cross_attention", fold(seed, 4))
        y = self.ffn(self.before(x, "ffn"), seed=fold(seed, 6))
        x = self.after(x, y, "ffn", fold(seed, 5))
        return x if cache is None else (x, cache)


class Stack(Layer):
    """Blocks one after the other, what they share of positions and masks, and the final norm unless post-LN.

    Args:
        config: shape and formula, see `aillm_tf.models.config.TransformerConfig`.
        layers: number of blocks; with `config.shared_layers` they are one and the same.
        causal: relative positions look back only.
        cross: with cross-attention.

    Raises:
        ValueError: a kind of `rope_scaling` that is not supported.

    Example:
        >>> from aillm_tf.models.config import TransformerConfig
        >>> config = TransformerConfig(vocab_size=9, hidden_size=8, layers=2, heads=2, ffn_size=16)
        >>> stack = Stack(config, 2, causal=False, name="encoder")
        >>> stack.build((None, None, 8))
        >>> stack(ops.ones((2, 3, 8))).shape
        TensorShape([2, 3, 8])
    """

    def __init__(self, config, layers: int, *, causal: bool, cross: bool = False, name: str, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.config, self.causal, self.depth = config, causal, layers
        count = min(1, layers) if config.shared_layers else layers
        self.blocks = [Block(config, cross=cross, name=f"layer_{i}", dtype=dtype) for i in range(count)]
        # layers without a window are one kind and layers with it the other; what depends on the kind is made once
        self.windowed = [config.window is not None and i not in config.global_layers for i in range(layers)]
        self.frequencies = tuple(_frequencies(config, kind) if kind in self.windowed else None for kind in KINDS)
        self.final_norm = (
            None
            if config.norm_placement == "post"
            else norm_layer(config.norm, config.norm_epsilon, offset=config.norm_offset, name="final_norm", dtype=dtype)
        )

    def build(self, input_shape):
        config = self.config
        if config.position == "relative":
            self.relative = self.weight("relative", (config.relative_buckets, config.heads), config.initializer_range)
        for block in self.blocks:
            block.build(input_shape)
        if self.final_norm:
            self.final_norm.build(input_shape)

    def position_bias(self, positions, key_positions=None):
        """The bias that positions add to the scores.

        Args:
            positions: (batch or 1, query) int.
            key_positions: (batch or 1, key) int; as of the queries by default.

        Returns:
            (batch or 1, heads, query, key) float32, or None.
        """
        config = self.config
        key_positions = positions if key_positions is None else key_positions
        if config.position == "alibi":
            return alibi(positions, key_positions, config.heads)
        if config.position == "relative":
            distance = key_positions[:, None, :] - positions[:, :, None]
            bucket = relative_bucket(
                distance, config.relative_buckets, config.relative_max_distance, bidirectional=not self.causal
            )
            return ops.transpose(ops.cast(ops.take(self.relative, bucket, axis=0), "float32"), (0, 3, 1, 2))
        return None

    def init_cache(self, batch: int, capacity: int, memory=None) -> tuple[dict, ...]:
        """An empty cache.

        Args:
            batch: rows.
            capacity: tokens a row may have.
            memory: (batch, key, hidden), an encoder's output, of which keys and values are computed here, once.

        Returns:
            A dict a layer: "self", and "memory" where there is one, of {"key", "value"} in the compute dtype. The first
            axis of every array is the batch, so that beams are reordered by a gather from all of them.
        """
        config = self.config
        shape = (batch, config.key_value_heads, capacity, config.head_width)
        caches = []
        for i in range(self.depth):
            cache = {"self": {name: ops.zeros(shape, self.compute_dtype) for name in ("key", "value")}}
            if memory is not None:
                cache["memory"] = self.block(i).cross_attention.remember(memory)
            caches.append(cache)
        return tuple(caches)

    def block(self, i: int) -> Block:
        """The block of layer i."""
        return self.blocks[0 if self.config.shared_layers else i]

    def call(
        self,
        x,
        bias=None,
        positions=None,
        memory=None,
        memory_bias=None,
        read: int | None = None,
        cache=None,
        at=None,
        seed=None,
    ):
        """Run all blocks.

        Args:
            x: (batch, length, hidden).
            bias: float32, broadcastable to (batch, heads, query, key); with a cache, causality is added here.
            positions: (batch, length) int; 0, 1, 2 ... by default, counted from `at` with a cache.
            memory, memory_bias: an encoder's output (batch, key, hidden) and its bias. With a cache only the bias.
            read: the last block computes only the first `read` positions.
            cache: what `init_cache` or the call before returned; not changed.
            at: where the first token of x stands: an int (then only the slots up to it are read), or a scalar or
                (batch,) int tensor. See `aillm_tf.layers.cache`: a cache of fewer slots than there are tokens is a
                ring, which is exact for layers with a window where it has room for the window and x.
            seed: (2,) int32, dropout in training.

        Returns:
            (batch, length or read, hidden) in the compute dtype; with a cache, that and the new cache.
        """
        length = ops.shape(x)[1]
        if cache is None:
            queries, keys = ops.arange(length)[None], length
        else:
            queries = positions_at(at, length)
            keys = ops.arange(at + length, dtype="int32")[None] if isinstance(at, int) else None
            if keys is None:
                keys = slot_positions(queries[:, -1:], ops.shape(cache[0]["self"]["key"])[2])
            past = past_bias(queries, keys)
            bias = past if bias is None else bias + past
        if positions is None:
            positions = queries
        extra = self.position_bias(positions, None if cache is None else keys)
        if extra is not None:
            bias = extra if bias is None else bias + extra
        biases = [bias, None]
        if any(self.windowed):
            near = window_bias(queries, keys, self.config.window)
            biases[1] = near if bias is None else bias + near
        angles = [None if turns is None else rotary_angles(positions, turns) for turns in self.frequencies]
        caches = []
        for i, kind in enumerate(self.windowed):
            # what a gradient flows into; a recomputed block gives none to tensors that it merely captures
            inputs = {"x": x, "bias": biases[kind], "memory": memory}
            inputs = {name: tensor for name, tensor in inputs.items() if tensor is not None}
            run = functools.partial(
                self.block(i),
                angles=angles[kind],
                memory_bias=memory_bias,
                read=read if i == self.depth - 1 else None,
                seed=fold(seed, SITES * (i + 1)),
            )
            if cache is not None:
                run = fast.block_of_step(run, self, i) if isinstance(length, int) and length == 1 else run
                x, updated = run(cache=cache[i], at=at, **inputs)
                caches.append(updated)
                continue
            if self.config.remat and seed is not None:
                run = _recomputed(run, tuple(inputs))
            x = run(**inputs)
        x = self.final_norm(x) if self.final_norm else x
        return x if cache is None else (x, tuple(caches))


def remat_of(model: keras.layers.Layer) -> bool:
    """Whether a model computes its blocks again in the backward pass."""
    return any(part.config.remat for part in model._flatten_layers() if isinstance(part, Stack))


def set_remat(model: keras.layers.Layer, remat: bool) -> None:
    """Lets a model compute its blocks again in the backward pass, or not; for steps that are traced afterwards."""
    for part in model._flatten_layers():
        if isinstance(part, Stack):
            part.config = part.config.replace(remat=remat)


def _frequencies(config, windowed: bool):
    """The rotary frequencies of layers with or without the window, or None."""
    if config.position != "rotary":
        return None
    if windowed and config.rope_theta_window is not None:
        return rotary_frequencies(config.head_width, config.rope_theta_window)
    return rotary_frequencies(config.head_width, config.rope_theta, config.rope_scaling)


def _recomputed(run, names: tuple[str, ...]):
    """`run`, whose activations are computed again in the backward pass."""
    function = fast.recomputed(lambda *tensors: run(**dict(zip(names, tensors, strict=True))))
    return lambda **inputs: function(*inputs.values())


def first(x, count: int):
    """x[:, :count] whose length is known when traced: a fused program would be compiled for every length of x else."""
    return ops.reshape(x[:, :count], (ops.shape(x)[0], count, x.shape[-1]))
