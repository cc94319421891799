"""EncoderDecoder: a bidirectional stack read by a causal one through cross-attention (Vaswani et al. 2017)."""

from __future__ import annotations

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer
from aillm_tf.layers.cache import positions_at
from aillm_tf.layers.embeddings import Embeddings
from aillm_tf.layers.head import Head
from aillm_tf.layers.masks import attention_bias
from aillm_tf.layers.transformer import Stack
from aillm_tf.models.config import TransformerConfig


class EncoderDecoder(Layer):
    """Source token ids and target token ids -> hidden states of the target.

    Both sides share one token table unless `decoder_vocab_size` is given; positions and embedding norm are their own.

    Args:
        config: `layers` encoder layers and `decoder_layers` decoder layers.

    Raises:
        ValueError: `decoder_layers` is 0.

    Example:
        >>> shape = {"hidden_size": 32, "layers": 2, "decoder_layers": 2, "heads": 2, "ffn_size": 64}
        >>> model = EncoderDecoder(TransformerConfig(vocab_size=100, **shape))
        >>> hidden = model({"token_ids": ops.ones((2, 8), "int32"), "target_ids": ops.ones((2, 5), "int32")})
        >>> model.logits(hidden).shape
        TensorShape([2, 5, 100])
    """

    def __init__(self, config: TransformerConfig, *, name: str = "backbone", dtype=None):
        super().__init__(name=name, dtype=dtype)
        if not config.decoder_layers:
            raise ValueError("an encoder-decoder needs decoder_layers > 0 in its TransformerConfig")
        self.config = config
        self.embeddings = Embeddings(config, dtype=dtype)
        self.encoder = Stack(config, config.layers, causal=False, name="encoder", dtype=dtype)
        target = config.replace(vocab_size=config.decoder_vocab_size or config.vocab_size, segments=0)
        own_tokens = config.decoder_vocab_size is not None
        self.decoder_embeddings = Embeddings(target, own_tokens=own_tokens, name="decoder_embeddings", dtype=dtype)
        self.decoder = Stack(config, config.decoder_layers, causal=True, cross=True, name="decoder", dtype=dtype)
        self.head = Head(config, dtype=dtype)

    def build(self, input_shape=None):
        shape = (None, None, self.config.hidden_size)
        for layer in (self.embeddings, self.encoder, self.decoder_embeddings, self.decoder, self.head):
            layer.build(shape)

    @property
    def target_table(self):
        """The token table of the target, (vocabulary, embedding_size)."""
        return (self.decoder_embeddings if self.decoder_embeddings.own_tokens else self.embeddings).token

    def encode(self, features: dict, seed=None):
        """Hidden states of the source.

        Args:
            features: "token_ids", and optionally "valid", "segment_ids", "positions" and "packed_ids", as for `call`.
            seed: (2,) int32, dropout in training.

        Returns:
            (batch, source, hidden) in the compute dtype.
        """
        packed, positions = features.get("packed_ids"), features.get("positions")
        bias = attention_bias(features.get("valid"), query_segments=packed, key_segments=packed)
        x = self.embeddings(features["token_ids"], features.get("segment_ids"), positions, seed=seed)
        return self.encoder(x, bias=bias, positions=positions, seed=seed)

    def call(self, features: dict, seed=None):
        """Hidden states of the target.

        Args:
            features: "token_ids" (batch, source) and "target_ids" (batch, target), int32. Optionally, in the same
                shapes: "valid" and "target_valid", 1 where a token is not padding; "segment_ids" of the source;
                "positions" and "target_positions"; "packed_ids" and "target_packed_ids", the document of every token
                in packed rows (attention stays inside one, cross-attention too; give both).
            seed: (2,) int32, dropout in training.

        Returns:
            (batch, target, hidden) in the compute dtype.
        """
        memory = self.encode(features, seed=seed)
        # the decoder's draws are numbered after the encoder's
        seed = None if seed is None else seed + ops.convert_to_tensor([0, 1 << 16], dtype="int32")
        target, positions = features["target_ids"], features.get("target_positions")
        packed = features.get("target_packed_ids")
        bias = attention_bias(
            features.get("target_valid"),
            query_segments=packed,
            key_segments=packed,
            causal=True,
            length=ops.shape(target)[1],
        )
        memory_bias = attention_bias(
            features.get("valid"), query_segments=packed, key_segments=features.get("packed_ids")
        )
        x = self.decoder_embeddings(target, positions=positions, table=self.embeddings.token, seed=seed)
        return self.decoder(x, bias=bias, positions=positions, memory=memory, memory_bias=memory_bias, seed=seed)

    def logits(self, hidden):
        """Scores over the vocabulary of the target.

        Args:
            hidden: (..., hidden), what `call` or `step` returned.

        Returns:
            (..., vocabulary) float32.
        """
        return fast.head_of_step(self.head)(hidden, table=self.target_table)

    def init_cache(self, memory, capacity: int, valid=None) -> dict:
        """A cache for `step` that holds the keys and values of the source and none of the target.

        Args:
            memory: (batch, source, hidden), what `encode` returned.
            capacity: tokens a target may have in all.
            valid: (batch, source), 1 where a token of the source is not padding.

        Returns:
            {"layers": see `Stack.init_cache`, "valid": (batch, source) int32}; the first axis of every array is the
            batch.

        Raises:
            ValueError: the capacity is more than the learned positions.
        """
        self.decoder_embeddings.check_length(capacity)
        batch, source = ops.shape(memory)[0], ops.shape(memory)[1]
        valid = ops.ones((batch, source), "int32") if valid is None else ops.cast(valid, "int32")
        return {"layers": self.decoder.init_cache(batch, capacity, memory=memory), "valid": valid}

    def step(self, target_ids, cache: dict, at):
        """Hidden states of the next target tokens: the first few at once, or one token of every row.

        Args:
            target_ids: (batch, length) int32.
            cache: what `init_cache` or the step before returned; not changed.
            at: position of the first of these tokens: an int, or a scalar or (batch,) int tensor.

        Returns:
            (batch, length, hidden) in the compute dtype, and the new cache.
        """
        positions = positions_at(at, ops.shape(target_ids)[1])
        x = self.decoder_embeddings(target_ids, positions=positions, table=self.embeddings.token)
        hidden, layers = self.decoder(x, cache=cache["layers"], at=at, memory_bias=attention_bias(cache["valid"]))
        return hidden, {**cache, "layers": layers}
