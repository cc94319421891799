"""Decoder: embeddings and a causal stack (GPT and its kin), with scores over the vocabulary."""

from __future__ import annotations

from aillm_tf.layers.dense import Dense
from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.encoder import Encoder


class Decoder(Encoder):
    """An encoder whose tokens see only what stands before them.

    Args:
        config: shape and formula; `causal` is set here.
    """

    def __init__(self, config: TransformerConfig, *, name: str = "backbone", dtype=None):
        config = config.replace(causal=True)
        super().__init__(config, name=name, dtype=dtype)
        self.head = (
            None
            if config.tie_embeddings
            else Dense(config.vocab_size, bias=False, stddev=config.initializer_range, name="head", dtype=dtype)
        )

    def build(self, input_shape=None):
        super().build(input_shape)
        if self.head:
            self.head.build((None, None, self.config.hidden_size))

    def logits(self, hidden):
        """(..., hidden) -> (..., vocabulary) float32."""
        if self.head is None:
            return self.embeddings.logits(hidden)
        from keras import ops

        return ops.cast(self.head(hidden), "float32")
