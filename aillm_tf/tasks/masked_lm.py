"""MaskedLM: predict the tokens that were hidden (Devlin et al. 2019, arXiv:1810.04805).

Masks are drawn anew every epoch in the input pipeline, from (seed, epoch, row) only. Logits are computed at the
masked positions alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.data.noise import mask_tokens, predictions_per_row
from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.sources import read_table
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dense import Dense
from aillm_tf.layers.feedforward import ACTIVATIONS
from aillm_tf.layers.normalization import norm_layer
from aillm_tf.tasks.base import Task


class MaskedLMHead(Layer):
    """Dense, activation, norm, then the tied embedding table and a bias of its own."""

    def __init__(self, config, activation: str, *, name: str = "mlm", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.config, self.size = config, config.embedding_size or config.hidden_size
        self.activation = ACTIVATIONS[activation]
        self.transform = Dense(self.size, stddev=config.initializer_range, name="transform", dtype=dtype)
        self.norm = norm_layer(config.norm, config.norm_epsilon, name="norm", dtype=dtype)

    def build(self, input_shape):
        self.transform.build(input_shape)
        self.norm.build((None, self.size))
        self.bias = self.weight("bias", (self.config.vocab_size,), "zeros")

    def call(self, hidden, embeddings=None):
        """(..., hidden) -> (..., vocabulary) float32."""
        return embeddings.logits(self.norm(self.activation(self.transform(hidden)))) + self.bias


class MaskedLM(Task):
    """BERT's pretraining objective.

    Args:
        config, tokenizer: of the backbone.
        rate: share of the tokens to predict; of those 80 % become [MASK], 10 % a random token, 10 % stay.
        whole_word: hide all pieces of a word together.
        transform_activation: of the dense layer before the vocabulary; None: as in the layers. RoBERTa and ELECTRA
            have "gelu" whatever their layers have; `from_pretrained` takes the family's.
        **options: of `Task`.
    """

    def __init__(
        self,
        config,
        tokenizer,
        *,
        rate: float = 0.15,
        whole_word: bool = False,
        transform_activation: str | None = None,
        **options,
    ):
        if not 0.0 < rate < 1.0:
            raise ValueError(f"rate is the share of tokens to mask, in (0, 1), not {rate}")
        if tokenizer.mask_id is None:
            raise ValueError("the tokenizer has no mask token: masked language modelling needs one")
        if transform_activation not in (None, *ACTIVATIONS):
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"transform_activation is one of {known} or None, not {transform_activation!r}")
        self.rate, self.whole_word = rate, whole_word
        self.transform_activation = transform_activation or config.activation
        super().__init__(config, tokenizer, **options)

    huggingface_head = "masked_lm"

    def options(self) -> dict:
        own = ("rate", "whole_word", "transform_activation")
        return {**super().options(), **{name: getattr(self, name) for name in own}}

    def build_heads(self) -> None:
        self.mlm = MaskedLMHead(self.config, self.transform_activation, dtype=self.dtype_policy)

    def head_shapes(self) -> dict[str, tuple]:
        return {"mlm": (None, self.config.hidden_size)}

    def logits(self, features: dict, positions=None, seed=None):
        """(batch, length or predictions, vocabulary) float32, at `positions` (batch, predictions) only if given."""
        hidden = self.backbone(features, seed=seed)
        if positions is not None:
            hidden = ops.take_along_axis(hidden, ops.expand_dims(positions, -1), axis=1)
        return self.mlm(hidden, embeddings=self.backbone.embeddings)

    def losses(self, logits, batch: dict):
        """Cross-entropy and weight of every prediction, (batch, predictions) float32 each."""
        target = ops.squeeze(ops.take_along_axis(logits, ops.expand_dims(batch["targets"], -1), axis=-1), -1)
        weights = batch["target_weights"] * ops.expand_dims(batch["weight"], -1)
        return ops.logsumexp(logits, axis=-1) - target, weights

    def loss_terms(self, batch: dict, seed=None):
        losses, weights = self.losses(self.logits(batch, batch["target_positions"], seed), batch)
        return ops.sum(losses * weights), ops.sum(weights)

    def evaluation(self, batch: dict):
        logits = self.logits(batch, batch["target_positions"])
        losses, weights = self.losses(logits, batch)
        hits = ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.cast(batch["targets"], "int64")), "float32")
        return {
            "loss": ops.sum(losses * weights),
            "accuracy": ops.sum(hits * weights),
            "weight": ops.sum(weights),
        }, {}

    def scores(self, sums: dict, rows: dict) -> dict[str, float]:
        weight = max(sums["weight"], 1e-8)
        loss = sums["loss"] / weight
        return {"loss": loss, "accuracy": sums["accuracy"] / weight, "perplexity": math.exp(min(loss, 700.0))}

    # The five likeliest tokens for every [MASK] of a text -------------------------------------------------------

    def answer_tensors(self, features: dict) -> dict:
        valid = ops.cast(ops.not_equal(features["token_ids"], self.tokenizer.pad_id), "int32")
        # a table padded to a round size has rows that are no tokens
        logits = self.logits({**features, "valid": valid})[..., : self.tokenizer.vocab_size]
        probabilities = ops.softmax(logits, axis=-1)
        scores, tokens = ops.top_k(probabilities, 5)
        masked = ops.equal(features["token_ids"], self.tokenizer.mask_id)
        return {"masked": masked, "token_ids": ops.cast(tokens, "int32"), "scores": scores}

    def serving_outputs(self, tensors: dict) -> dict:
        return {**tensors, "tokens": tf.gather(tf.constant(self.tokenizer.vocabulary), tensors["token_ids"])}

    def read_answers(self, outputs: dict) -> list[dict]:
        answers = []
        for masked, tokens, scores in zip(outputs["masked"], outputs["tokens"], outputs["scores"], strict=True):
            at = np.flatnonzero(masked)
            answers.append(
                {
                    "masks": [
                        [
                            {"token": token.decode(), "score": float(score)}
                            for token, score in zip(tokens[i], scores[i], strict=True)
                        ]
                        for i in at
                    ]
                }
            )
        return answers

    def dataset(
        self,
        rows: str | Iterable[str],
        *,
        text: str = "text",
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        **batching,
    ) -> Dataset:
        """Texts as batches of masked rows; a text longer than `max_length` becomes several rows.

        Args:
            rows: a source with a text column (see `aillm_tf.data.sources`), or the texts themselves.
            text: name or number of the column.
            on_bad: "raise" at a bad row, or "skip" it and count.
            encoding_errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.
            **batching: batch_size, tokens_per_batch, shuffle, seed, fixed_length: see `Task.batched`.

        Raises:
            ValueError: a bad row; names the file and line.
        """
        if isinstance(rows, str):
            table = read_table(rows, columns=[text], on_bad=on_bad, errors=encoding_errors)
            rows = table.columns[text]
        tokenizer = self.tokenizer
        encoded = tokenizer.encode([row for row in rows if row.strip()])
        ids, offsets = split_rows(encoded.ids, encoded.offsets, self.max_length, tokenizer)
        special = np.zeros(self.config.vocab_size, bool)
        special[tokenizer.special_ids] = True
        continuation = np.zeros(self.config.vocab_size, bool)
        continuation[: len(tokenizer.continuation)] = tokenizer.continuation
        special, continuation = tf.constant(special), tf.constant(continuation) if self.whole_word else None
        rate = self.rate

        def noise(example: dict, seed, length) -> dict:
            token_ids, positions, targets, weights = mask_tokens(
                example["token_ids"],
                example["valid"],
                seed,
                mask_id=tokenizer.mask_id,
                vocab_size=tokenizer.vocab_size,
                special=special,
                continuation=continuation,
                rate=rate,
                max_predictions=predictions_per_row(length, rate),
            )
            return {
                **example,
                "token_ids": token_ids,
                "target_positions": positions,
                "targets": targets,
                "target_weights": weights,
            }

        noise_name = repr(("masked", rate, self.whole_word, tokenizer.fingerprint))
        return self.batched({"token_ids": Ragged(ids, offsets)}, noise=noise, noise_name=noise_name, **batching)


def split_rows(ids: np.ndarray, offsets: np.ndarray, max_length: int, tokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Cut rows longer than `max_length` into pieces, each between its own [CLS] and [SEP]; nothing is lost."""
    if np.diff(offsets).max(initial=0) <= max_length:
        return ids, offsets
    pieces = []
    for start, end in itertools.pairwise(offsets):
        row = ids[start:end]
        if len(row) <= max_length:
            pieces.append(row)
            continue
        body = row[1:-1]  # without [CLS] and [SEP]
        for at in range(0, len(body), max_length - 2):
            pieces.append(np.concatenate([[tokenizer.cls_id], body[at : at + max_length - 2], [tokenizer.sep_id]]))
    return np.concatenate(pieces).astype(ids.dtype), np.concatenate([[0], np.cumsum([len(p) for p in pieces])])
