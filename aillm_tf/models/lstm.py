"""LSTMDecoder: a recurrent language model (Zaremba et al. 2014, arXiv:1409.2329), used as `Decoder` is."""

from __future__ import annotations

from keras import ops

from aillm_tf.layers.base import Layer
from aillm_tf.layers.cache import write_slots
from aillm_tf.layers.dropout import dropout, fold
from aillm_tf.layers.embeddings import Embeddings
from aillm_tf.layers.head import Head
from aillm_tf.layers.recurrent import LSTM
from aillm_tf.models.config import TransformerConfig


class LSTMDecoder(Layer):
    """Embeddings, LSTM layers one above the other, dropout between them, and scores over the vocabulary.

    Args:
        config: with `cell="lstm"`; `vocab_size`, `hidden_size`, `layers`, `dropout` and what the embeddings and the
            head read of it count.

    Example:
        >>> from aillm_tf.models.presets import preset
        >>> decoder = LSTMDecoder(preset("lstm", 100, hidden_size=32))
        >>> decoder.logits(decoder({"token_ids": ops.ones((2, 8), "int32")})).shape
        TensorShape([2, 8, 100])
    """

    def __init__(self, config: TransformerConfig, *, name: str = "backbone", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.config = config
        self.embeddings = Embeddings(config, dtype=dtype)
        self.blocks = [LSTM(config.hidden_size, name=f"layer_{i}", dtype=dtype) for i in range(config.layers)]
        self.head = Head(config, dtype=dtype)

    def build(self, input_shape=None):
        self.embeddings.build()
        for layer in (*self.blocks, self.head):
            layer.build((None, None, self.config.hidden_size))

    def call(self, features: dict, seed=None):
        """Hidden states of a batch.

        Args:
            features: "token_ids" (batch, length) int32; optional "packed_ids" (batch, length), the document of every
                token in a packed row: the state begins anew with every document.
            seed: (2,) int32, dropout in training; None: no dropout.

        Returns:
            (batch, length, hidden) in the compute dtype.
        """
        x, packed = self.embeddings(features["token_ids"], seed=seed), features.get("packed_ids")
        for i, layer in enumerate(self.blocks):
            if packed is None:
                x = layer(x)
            else:
                zeros = ops.zeros((ops.shape(x)[0], self.config.hidden_size), self.compute_dtype)
                starts = ops.concatenate([packed[:, :1] > 0, packed[:, 1:] != packed[:, :-1]], axis=1)
                x, _ = layer.states(x, zeros, zeros, starts)
            x = dropout(x, self.config.dropout, fold(seed, i + 1))
        return x

    def logits(self, hidden):
        """Scores over the vocabulary, (..., hidden) -> (..., vocabulary) float32."""
        return self.head(hidden, table=self.embeddings.token)

    def init_cache(self, batch: int, capacity: int) -> tuple[dict, ...]:
        """An empty cache for `step`.

        States are kept for every position, as keys and values are: a row that was padded goes on from its own last
        token, and a beam or a draft that is dropped leaves nothing behind.

        Args:
            batch: rows.
            capacity: tokens a row may have in all.

        Returns:
            A dict a layer, "hidden" and "memory", (batch, 1, capacity, hidden) in the compute dtype.
        """
        shape = (batch, 1, capacity, self.config.hidden_size)
        return tuple({name: ops.zeros(shape, self.compute_dtype) for name in ("hidden", "memory")} for _ in self.blocks)

    def step(self, token_ids, cache: tuple[dict, ...], at):
        """Hidden states of the next tokens; see `Decoder.step`.

        Args:
            token_ids: (batch, length) int32.
            cache: what `init_cache` or the step before returned; not changed.
            at: position of the first of these tokens: an int, or a scalar or (batch,) int tensor.

        Returns:
            (batch, length, hidden) in the compute dtype, and the new cache.
        """
        x, batch, caches = self.embeddings(token_ids), ops.shape(token_ids)[0], []
        before = ops.broadcast_to(ops.reshape(ops.cast(at, "int32"), (-1, 1, 1, 1)), (batch, 1, 1, 1)) - 1
        for layer, kept in zip(self.blocks, cache, strict=True):
            states = [
                ops.take_along_axis(kept[name], ops.maximum(before, 0), axis=2)[:, 0, 0]
                * self.cast(before[:, 0, 0] >= 0)
                for name in ("hidden", "memory")
            ]
            x, memory = layer.states(x, *states)
            new = {"hidden": x, "memory": memory}
            caches.append({name: write_slots(kept[name], new[name][:, None], at) for name in new})
        return x, tuple(caches)
