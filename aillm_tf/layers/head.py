"""Head: scores of every token of the vocabulary, from the hidden states of a decoder."""

from __future__ import annotations

from keras import ops

from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer


class Head(Layer):
    """softcap(scale (h W) + bias), where W is the transposed token table or, untied, a kernel of its own.

    Args:
        config: of it `tie_embeddings`, `logit_scale`, `logit_bias` and `logit_softcap` are read.

    Raises:
        ValueError: a tied table is narrower than the hidden states.

    Example:
        >>> from aillm_tf.models.config import TransformerConfig
        >>> config = TransformerConfig(vocab_size=9, hidden_size=4, layers=1, heads=1, ffn_size=8)
        >>> Head(config)(ops.ones((2, 3, 4)), table=ops.ones((9, 4))).shape
        TensorShape([2, 3, 9])

    References: Press & Wolf 2017 (arXiv:1608.05859); soft caps: Gemma Team 2024 (arXiv:2408.00118).
    """

    def __init__(self, config, *, name: str = "head", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.config, self.units = config, config.decoder_vocab_size or config.vocab_size
        if config.tie_embeddings and config.embedding_size not in (None, config.hidden_size):
            raise ValueError(
                f"embedding_size {config.embedding_size} is not hidden_size {config.hidden_size}: a token table of "
                "that width cannot score hidden states, set tie_embeddings=False"
            )

    def build(self, input_shape):
        config = self.config
        if not config.tie_embeddings:
            self.kernel = self.weight("kernel", (input_shape[-1], self.units), config.initializer_range)
        if config.logit_bias:
            self.bias = self.weight("bias", (self.units,), "zeros")

    def call(self, hidden, table=None):
        """Score hidden states.

        Args:
            hidden: (..., hidden).
            table: (vocabulary, hidden), where tied.

        Returns:
            (..., vocabulary) float32.
        """
        config, lead = self.config, ops.shape(hidden)[:-1]
        hidden = ops.reshape(self.cast(hidden), (-1, config.hidden_size))
        tied = config.tie_embeddings
        scores = fast.matmul_rows(hidden, self.cast(table)) if tied else ops.matmul(hidden, self.cast(self.kernel))
        scores = ops.cast(scores, "float32")
        if config.logit_scale != 1.0:
            scores = scores * config.logit_scale
        if config.logit_bias:
            scores = scores + ops.cast(self.bias, "float32")
        if config.logit_softcap is not None:
            scores = config.logit_softcap * ops.tanh(scores / config.logit_softcap)
        return ops.reshape(scores, (*lead, self.units))
