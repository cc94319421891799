"""Autoencoder: an encoder-decoder that writes its input again, all of which it has to say in one vector.

The encoder's hidden states are averaged and squeezed through the bottleneck; the decoder reads nothing else
(Hinton and Salakhutdinov 2006; for sentences Li, Luong and Jurafsky 2015, arXiv:1506.01057).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.data.pipeline import Dataset
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dense import Dense
from aillm_tf.layers.dropout import fold
from aillm_tf.layers.masks import attention_bias
from aillm_tf.models.encoder_decoder import EncoderDecoder
from aillm_tf.tasks.base import Task
from aillm_tf.tasks.corpus import corpus
from aillm_tf.tasks.token_loss import TokenLoss

DECODER_SITE = 1 << 16  # as the encoder-decoder numbers its draws


class Bottleneck(Layer):
    """The mean of the hidden states of a row, in fewer features; and back."""

    def __init__(self, config, size: int, *, name: str = "bottleneck", dtype=None):
        super().__init__(name=name, dtype=dtype)
        stddev = config.initializer_range
        self.config, self.size = config, size
        self.down = Dense(size, stddev=stddev, name="down", dtype=dtype)
        self.up = Dense(config.hidden_size, stddev=stddev, name="up", dtype=dtype)

    def build(self, input_shape):
        self.down.build((None, self.config.hidden_size))
        self.up.build((None, self.size))

    def squeeze(self, hidden, valid):
        """(batch, length, hidden) -> (batch, size) float32 in (-1, 1)."""
        weights = ops.expand_dims(ops.cast(valid, "float32"), -1)
        total = ops.sum(ops.cast(hidden, "float32") * weights, axis=1)
        return ops.tanh(ops.cast(self.down(total / ops.maximum(ops.sum(weights, axis=1), 1.0)), "float32"))

    def call(self, vector):
        """(batch, size) -> (batch, 1, hidden), what the decoder reads."""
        return ops.expand_dims(self.up(vector), 1)


class Autoencoder(TokenLoss, Task):
    """Reconstruct the input through a bottleneck; `answer` gives the vector.

    Args:
        config, tokenizer: of an encoder-decoder.
        size: features of the vector.
        **options: of `TokenLoss` (label_smoothing, z_loss) and `Task`.

    Example:
        >>> model = Autoencoder(config, tokenizer, size=64)  # doctest: +SKIP
        >>> len(model.answer(["a text"])[0]["vector"])  # doctest: +SKIP
        64
    """

    backbone_class = EncoderDecoder

    def __init__(self, config, tokenizer, *, size: int = 128, **options):
        if size < 1:
            raise ValueError(f"size is the number of features of the vector, at least 1, not {size}")
        self.size = size
        super().__init__(config, tokenizer, **options)

    def options(self) -> dict:
        return {**super().options(), "size": self.size}

    def build_heads(self) -> None:
        self.bottleneck = Bottleneck(self.config, self.size, dtype=self.dtype_policy)

    def head_shapes(self) -> dict[str, tuple]:
        return {"bottleneck": (None, self.config.hidden_size)}

    def vectors(self, features: dict, seed=None):
        """(batch, size) float32."""
        valid = features.get("valid")
        if valid is None:
            valid = ops.ones_like(features["token_ids"])
        return self.bottleneck.squeeze(self.backbone.encode(features, seed=seed), valid)

    def hidden(self, features: dict, seed=None):
        """(batch, target, hidden) of the decoder, which reads the vector alone."""
        memory, target = self.bottleneck(self.vectors(features, seed)), features["target_ids"]
        seed, backbone = fold(seed, DECODER_SITE), self.backbone
        bias = attention_bias(features.get("target_valid"), causal=True, length=ops.shape(target)[1])
        x = backbone.decoder_embeddings(target, table=backbone.embeddings.token, seed=seed)
        with warnings.catch_warnings():
            # attention over the one vector has the one weight 1, of which Keras warns
            warnings.filterwarnings("ignore", message="You are using a softmax over axis")
            return backbone.decoder(x, bias=bias, memory=memory, seed=seed)

    def logits(self, features: dict, seed=None):
        """(batch, target, vocabulary) float32, scores of the token that follows each of "target_ids"."""
        return self.backbone.logits(self.hidden(features, seed))

    def scores_of(self, hidden):
        """(..., hidden) -> (..., vocabulary) float32."""
        return self.backbone.logits(hidden)

    def predictions(self, batch: dict, seed=None) -> tuple:
        weights = ops.cast(batch["valid"], "float32") * ops.expand_dims(batch["weight"], -1)
        return self.hidden(batch, seed), batch["token_ids"], weights

    # The vector of a text -------------------------------------------------------------------------------------------

    def answer_tensors(self, features: dict) -> dict:
        valid = ops.cast(ops.not_equal(features["token_ids"], self.tokenizer.pad_id), "int32")
        return {"vector": self.vectors({**features, "valid": valid})}

    def serving_outputs(self, tensors: dict) -> dict:
        return tensors

    def read_answers(self, outputs: dict) -> list[dict]:
        return [{"vector": [float(x) for x in vector]} for vector in np.asarray(outputs["vector"])]

    def dataset(
        self,
        rows: str | Iterable[str],
        *,
        text: str = "text",
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        **batching,
    ) -> Dataset:
        """Texts as batches; a text longer than `max_length` becomes several rows.

        Args:
            rows: a source with a text column (see `aillm_tf.data.sources`), the texts themselves, or a folder that
                `aillm prepare` wrote.
            text, on_bad, encoding_errors: see `aillm_tf.data.rows.texts_of`.
            **batching: batch_size, tokens_per_batch, shuffle, seed, fixed_length: see `Task.batched`.

        Raises:
            ValueError: a bad row; names the file and line.
        """
        start = next(index for index in (self.tokenizer.bos_id, self.tokenizer.pad_id) if index is not None)

        def shifted(example: dict, seed, length) -> dict:
            return {**example, "target_ids": tf.concat([[start], example["token_ids"][:-1]], 0)}

        name = repr(("autoencoder", start, self.tokenizer.fingerprint))
        reading = {"text": text, "on_bad": on_bad, "encoding_errors": encoding_errors}
        return corpus(self, rows, reading, noise=shifted, noise_name=name, keep=("token_ids", "valid"), **batching)
