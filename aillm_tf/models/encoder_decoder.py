"""EncoderDecoder: a bidirectional stack read by a causal one through cross-attention (Vaswani et al. 2017)."""

from __future__ import annotations

from keras import ops

from aillm_tf.layers.base import Layer
from aillm_tf.layers.embeddings import Embeddings
from aillm_tf.layers.masks import attention_bias
from aillm_tf.layers.transformer import Stack
from aillm_tf.models.config import TransformerConfig


class EncoderDecoder(Layer):
    """Source token ids and target token ids -> hidden states of the target; one shared embedding table.

    Args:
        config: `layers` encoder layers and `decoder_layers` decoder layers.
    """

    def __init__(self, config: TransformerConfig, *, name: str = "backbone", dtype=None):
        super().__init__(name=name, dtype=dtype)
        if not config.decoder_layers:
            raise ValueError("an encoder-decoder needs decoder_layers > 0 in its TransformerConfig")
        self.config = config
        self.embeddings = Embeddings(config, dtype=dtype)
        self.encoder = Stack(config, config.layers, causal=False, name="encoder", dtype=dtype)
        self.decoder = Stack(config, config.decoder_layers, causal=True, cross=True, name="decoder", dtype=dtype)

    def build(self, input_shape=None):
        shape = (None, None, self.config.hidden_size)
        self.embeddings.build()
        self.encoder.build(shape)
        self.decoder.build(shape)

    def encode(self, token_ids, valid=None, seed=None):
        """(batch, source) -> (batch, source, hidden)."""
        return self.encoder(self.embeddings(token_ids, seed=seed), bias=attention_bias(valid), seed=seed)

    def call(self, features: dict, seed=None):
        """Hidden states of the target.

        Args:
            features: "token_ids" (batch, source), optional "valid" (batch, source), "target_ids" (batch, target).
            seed: (2,) int32, dropout in training.

        Returns:
            (batch, target, hidden).
        """
        valid, target = features.get("valid"), features["target_ids"]
        memory = self.encode(features["token_ids"], valid, seed=seed)
        # the decoder's draws are numbered after the encoder's
        seed = None if seed is None else seed + ops.convert_to_tensor([0, 1 << 16], dtype="int32")
        causal = attention_bias(causal=True, length=ops.shape(target)[1])
        x = self.embeddings(target, seed=seed)
        return self.decoder(x, bias=causal, memory=memory, memory_bias=attention_bias(valid), seed=seed)
