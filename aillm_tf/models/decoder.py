"""Decoder: embeddings and a causal stack (GPT and its kin), with scores over the vocabulary."""

from __future__ import annotations

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.cache import positions_at
from aillm_tf.layers.head import Head
from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.encoder import Encoder
from aillm_tf.models.lstm import LSTMDecoder


class Decoder(Encoder):
    """An encoder whose tokens see only what stands before them.

    Args:
        config: shape and formula; `causal` is set here.

    Example:
        >>> decoder = Decoder(TransformerConfig(vocab_size=100, hidden_size=32, layers=2, heads=2, ffn_size=64))
        >>> decoder.logits(decoder({"token_ids": ops.ones((2, 8), "int32")})).shape
        TensorShape([2, 8, 100])
    """

    def __init__(self, config: TransformerConfig, *, name: str = "backbone", dtype=None):
        config = config.replace(causal=True)
        super().__init__(config, name=name, dtype=dtype)
        self.head = Head(config, dtype=dtype)

    def build(self, input_shape=None):
        super().build(input_shape)
        self.head.build((None, None, self.config.hidden_size))

    def logits(self, hidden):
        """Scores over the vocabulary.

        Args:
            hidden: (..., hidden), what `call` or `step` returned.

        Returns:
            (..., vocabulary) float32.
        """
        return fast.head_of_step(self.head)(hidden, table=self.embeddings.token)

    def init_cache(self, batch: int, capacity: int) -> tuple[dict, ...]:
        """An empty cache for `step`.

        Args:
            batch: rows.
            capacity: tokens a row may have in all.

        Returns:
            Arrays (batch, kv_heads, capacity, head width) in the compute dtype, see `Stack.init_cache`.

        Raises:
            ValueError: the capacity is more than the learned positions.
        """
        self.embeddings.check_length(capacity)
        return self.encoder.init_cache(batch, capacity)

    def step(self, token_ids, cache: tuple[dict, ...], at):
        """Hidden states of the next tokens: a prompt at once, or one token of every row.

        Prompts of different length are padded at their end: call `step(prompts, cache, 0)`, read every row at its last
        token, and go on with `at` the lengths; what padding left in the cache is never read.

        Args:
            token_ids: (batch, length) int32.
            cache: what `init_cache` or the step before returned; not changed.
            at: position of the first of these tokens: an int, or a scalar or (batch,) int tensor.

        Returns:
            (batch, length, hidden) in the compute dtype, and the new cache.

        Example:
            >>> decoder = Decoder(TransformerConfig(vocab_size=100, hidden_size=32, layers=2, heads=2, ffn_size=64))
            >>> decoder.build()
            >>> hidden, cache = decoder.step(ops.ones((2, 5), "int32"), decoder.init_cache(2, 16), 0)
            >>> hidden, cache = decoder.step(ops.ones((2, 1), "int32"), cache, ops.convert_to_tensor([5, 3]))
            >>> decoder.logits(hidden).shape
            TensorShape([2, 1, 100])
        """
        x = self.embeddings(token_ids, positions=positions_at(at, ops.shape(token_ids)[1]))
        return self.encoder(x, cache=cache, at=at)


def new_decoder(config: TransformerConfig, *, name: str = "backbone", dtype=None) -> Decoder | LSTMDecoder:
    """The decoder of a config, by its `cell`.

    Args:
        config: shape and formula.
        name, dtype: of the layer.
    """
    kind = LSTMDecoder if config.cell == "lstm" else Decoder
    return kind(config, name=name, dtype=dtype)
