"""Encoder: embeddings and a bidirectional stack (BERT and its kin)."""

from __future__ import annotations

from keras import ops

from aillm_tf.layers.base import Layer
from aillm_tf.layers.embeddings import Embeddings
from aillm_tf.layers.masks import attention_bias
from aillm_tf.layers.transformer import Stack
from aillm_tf.models.config import TransformerConfig


class Encoder(Layer):
    """Token ids -> hidden states, every token seeing every other token of its row.

    Args:
        config: shape and formula.

    Example:
        >>> config = TransformerConfig(vocab_size=100, hidden_size=32, layers=2, heads=2, ffn_size=64)
        >>> Encoder(config)({"token_ids": ops.ones((2, 8), "int32")}).shape
        TensorShape([2, 8, 32])
    """

    def __init__(self, config: TransformerConfig, *, name: str = "backbone", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.config = config
        self.embeddings = Embeddings(config, dtype=dtype)
        self.encoder = Stack(config, config.layers, causal=config.causal, name="encoder", dtype=dtype)

    def build(self, input_shape=None):
        self.embeddings.build()
        self.encoder.build((None, None, self.config.hidden_size))

    def call(self, features: dict, read: int | None = None, seed=None):
        """Hidden states of a batch.

        Args:
            features: "token_ids" (batch, length) int32; optional "valid" (batch, length), 1 where a token is not
                padding; optional "segment_ids" (token types), "positions", "packed_ids" (the document of every token
                in a packed row; attention stays inside one) and, of a decoder, "prefix" (1 where a token is seen by
                those before it too), all (batch, length) int32.
            read: compute only the first `read` positions of the last layer (1 for a classifier that reads [CLS]).
            seed: (2,) int32, dropout in training; None: no dropout.

        Returns:
            (batch, length or read, hidden) in the compute dtype.
        """
        packed = features.get("packed_ids")
        bias = attention_bias(
            features.get("valid"),
            query_segments=packed,
            key_segments=packed,
            causal=self.config.causal,
            prefix=features.get("prefix"),
            length=ops.shape(features["token_ids"])[1],
        )
        positions = features.get("positions")
        x = self.embeddings(features["token_ids"], features.get("segment_ids"), positions, seed=seed)
        return self.encoder(x, bias=bias, positions=positions, read=read, seed=seed)
