"""Embeddings: token + position + segment, normalised and dropped out as the family wants it."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dense import Dense
from aillm_tf.layers.dropout import dropout
from aillm_tf.layers.normalization import norm_layer
from aillm_tf.layers.positions import sinusoidal

_added = contextvars.ContextVar("aillm_added_to_tokens", default=None)


@contextlib.contextmanager
def added_to_tokens(shift) -> Iterator[None]:
    """Within this context `shift`, (batch, length, embedding_size) float32, is added to the rows of the token table."""
    token = _added.set(shift)
    try:
        yield
    finally:
        _added.reset(token)


class Embeddings(Layer):
    """The input of the stack, (batch, length) int -> (batch, length, hidden).

    `embedding_size < hidden_size` factorises the token table (ALBERT, Lan et al. 2020, arXiv:1909.11942).

    Args:
        config: shape and formula, see `aillm_tf.models.config.TransformerConfig`.
        own_tokens: has a token table; else one is given to every call.

    Example:
        >>> from aillm_tf.models.config import TransformerConfig
        >>> layer = Embeddings(TransformerConfig(vocab_size=9, hidden_size=8, layers=1, heads=2, ffn_size=16))
        >>> layer.build()
        >>> layer(ops.ones((2, 3), "int32")).shape
        TensorShape([2, 3, 8])
    """

    def __init__(self, config, *, own_tokens: bool = True, name: str = "embeddings", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.config, self.own_tokens = config, own_tokens
        self.size = config.embedding_size or config.hidden_size
        self.norm = (
            norm_layer(config.norm, config.norm_epsilon, offset=config.norm_offset, name="norm", dtype=dtype)
            if config.embedding_norm
            else None
        )
        self.projection = (
            Dense(config.hidden_size, stddev=config.initializer_range, name="projection", dtype=dtype)
            if self.size != config.hidden_size
            else None
        )

    def build(self, input_shape=None):
        config = self.config
        if self.own_tokens:
            self.token = self.weight("token", (config.vocab_size, self.size), config.initializer_range)
        if config.position == "learned":
            rows = config.position_offset + config.max_length
            self.position = self.weight("position", (rows, self.size), config.initializer_range)
        if config.segments:
            self.segment = self.weight("segment", (config.segments, self.size), config.initializer_range)
        if self.norm:
            self.norm.build((None, None, self.size))
        if self.projection:
            self.projection.build((None, None, self.size))

    def check_length(self, length: int) -> None:
        """Raises ValueError when the position table has no rows for so many tokens; a tensor is not looked into."""
        if self.config.position == "learned" and isinstance(length, int) and length > self.config.max_length:
            raise ValueError(
                f"{length} tokens are more than the {self.config.max_length} rows of the position table: "
                "give a smaller max_length"
            )

    def call(self, token_ids, segment_ids=None, positions=None, table=None, seed=None, project: bool = True):
        """Look up and add.

        Args:
            token_ids: (batch, length) int32.
            segment_ids: (batch, length) int32, or None: all segment 0.
            positions: (batch or 1, length) int32, or None: 0, 1, 2 ...
            table: (vocabulary, embedding_size), where the layer has no token table of its own.
            seed: (2,) int32, dropout in training.
            project: map embeddings that are narrower than the hidden states to their size.

        Returns:
            (batch, length, hidden) in the compute dtype; not projected, (batch, length, embedding_size).

        Raises:
            ValueError: more tokens than the position table has rows for.
        """
        config, length = self.config, ops.shape(token_ids)[1]
        self.check_length(length)
        # gathered from float32 and added there: the tables are not cast as a whole
        x = ops.take(self.token if self.own_tokens else table, token_ids, axis=0)
        if _added.get() is not None:
            x = x + _added.get()
        if config.embedding_scale != 1.0:
            x = x * config.embedding_scale
        if config.position == "learned":
            first = config.position_offset
            if positions is None:
                x = x + self.position[first : first + length]
            else:
                x = x + ops.take(self.position, positions + first, axis=0)
        elif config.position == "sinusoidal":
            x = x + sinusoidal(ops.arange(length) if positions is None else positions, self.size)
        if config.segments:
            if segment_ids is None:
                x = x + self.segment[0]
            else:
                # a one-hot product: the gradient of a gather from a two-row table is a slow scatter
                one_hot = ops.one_hot(segment_ids, config.segments, dtype="float32")
                x = x + ops.matmul(one_hot, ops.cast(self.segment, "float32"))
        with fast.fused(False):  # a single norm: not worth two programs for every length
            x = self.norm(x) if self.norm else self.cast(x)
        x = dropout(x, config.dropout, seed)
        return self.projection(x) if self.projection and project else x

    def logits(self, x):
        """Scores over the vocabulary with the tied table, (..., embedding_size) -> (..., vocabulary) float32."""
        table = self.cast(self.token)
        lead = ops.shape(x)[:-1]
        scores = fast.matmul_rows(ops.reshape(self.cast(x), (-1, self.size)), table)
        return ops.reshape(ops.cast(scores, "float32"), (*lead, table.shape[0]))
