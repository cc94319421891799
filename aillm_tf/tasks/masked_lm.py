"""MaskedLM: predict the tokens that were hidden (Devlin et al. 2019, arXiv:1810.04805).

Masks are drawn anew every epoch in the input pipeline, from (seed, epoch, row) only. Logits are computed at the
masked positions alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.data.noise import BERT_FATES, few_masks, mask_tokens, predictions_per_row
from aillm_tf.data.pipeline import Dataset
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dense import Dense
from aillm_tf.layers.feedforward import ACTIVATIONS
from aillm_tf.layers.normalization import norm_layer
from aillm_tf.tasks.base import Task
from aillm_tf.tasks.corpus import corpus
from aillm_tf.tasks.token_loss import TokenLoss


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


class MaskedLM(TokenLoss, Task):
    """BERT's pretraining objective.

    Args:
        config, tokenizer: of the backbone.
        rate: share of the tokens to predict; of those 80 % become [MASK], 10 % a random token, 10 % stay.
        whole_word: hide all pieces of a word together; `dataset(words=...)` says what a Chinese word is.
        spans: hide spans of words (of tokens, without whole_word), as long as SpanBERT's. Its second loss, which
            predicts a span from the tokens beside it, is not here.
        masks: how many different masks a row has in all. None: a new one every epoch (dynamic, as RoBERTa); 1: always
            the same (static); 10: one of ten, as BERT, whose data were ten masked copies.
        transform_activation: of the dense layer before the vocabulary; None: as in the layers. RoBERTa and ELECTRA
            have "gelu" whatever their layers have; `from_pretrained` takes the family's.
        **options: of `TokenLoss` (label_smoothing, z_loss) and `Task`.
    """

    def __init__(
        self,
        config,
        tokenizer,
        *,
        rate: float = 0.15,
        whole_word: bool = False,
        spans: bool = False,
        masks: int | None = None,
        transform_activation: str | None = None,
        **options,
    ):
        if masks is not None and masks < 1:
            raise ValueError(f"masks is {masks}: give the number of different masks of a row, or None for new ones")
        if not 0.0 < rate < 1.0:
            raise ValueError(f"rate is the share of tokens to mask, in (0, 1), not {rate}")
        if tokenizer.mask_id is None:
            raise ValueError("the tokenizer has no mask token: masked language modelling needs one")
        if transform_activation not in (None, *ACTIVATIONS):
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"transform_activation is one of {known} or None, not {transform_activation!r}")
        self.rate, self.whole_word, self.spans, self.masks = rate, whole_word, spans, masks
        self.transform_activation = transform_activation or config.activation
        super().__init__(config, tokenizer, **options)

    huggingface_head = "masked_lm"

    def options(self) -> dict:
        own = ("rate", "whole_word", "spans", "masks", "transform_activation")
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
        return self.scores_of(hidden)

    def predictions(self, batch: dict, seed=None) -> tuple:
        hidden = self.backbone(batch, seed=seed)
        hidden = ops.take_along_axis(hidden, ops.expand_dims(batch["target_positions"], -1), axis=1)
        weights = batch["target_weights"] * ops.expand_dims(batch["weight"], -1)
        return hidden, batch["targets"], weights

    def scores_of(self, hidden):
        """(..., hidden) -> (..., vocabulary) float32."""
        return self.mlm(hidden, embeddings=self.backbone.embeddings)

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
        words: Literal["pieces", "spaces", "collocations"] = "pieces",
        text: str = "text",
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        **batching,
    ) -> Dataset:
        """Texts as batches of masked rows; a text longer than `max_length` becomes several rows.

        Args:
            rows: a source with a text column (see `aillm_tf.data.sources`), the texts themselves, or a folder that
                `aillm prepare` wrote.
            words: what a whole word is. "pieces": as the vocabulary says, where a Chinese character is a word;
                "spaces": what stands between spaces, also in Chinese; "collocations": Chinese characters that stand
                together often. See `aillm_tf.data.words`.
            text, on_bad, encoding_errors: see `aillm_tf.data.rows.texts_of`.
            **batching: batch_size, tokens_per_batch, shuffle, seed, fixed_length: see `Task.batched`.

        Raises:
            ValueError: a bad row; names the file and line.
        """
        if words != "pieces" and not self.whole_word:
            raise ValueError(f"words={words!r} says what a whole word is: make the task with whole_word=True")
        name = repr(("masked", self.rate, self.whole_word, self.spans, self.masks, self.tokenizer.fingerprint))
        reading = {"words": words, "text": text, "on_bad": on_bad, "encoding_errors": encoding_errors}
        return corpus(self, rows, reading, noise=masking(self, by_row=words != "pieces"), noise_name=name, **batching)


def masking(task, *, by_row: bool = False, fates: tuple[float, float] = BERT_FATES) -> Callable:
    """The noise of a task with `rate`, `whole_word`, `spans` and `masks`, as `Dataset` takes it.

    Args:
        task: whose options they are.
        by_row: what continues a word is the column "continues", not a property of the token.
        fates: see `mask_tokens`.
    """
    tokenizer, rate, masks = task.tokenizer, task.rate, task.masks
    special = np.zeros(task.config.vocab_size, bool)
    special[tokenizer.special_ids] = True
    continuation = np.zeros(task.config.vocab_size, bool)
    continuation[: len(tokenizer.continuation)] = tokenizer.continuation
    special, continuation = tf.constant(special), tf.constant(continuation)
    by_id = task.whole_word and not by_row
    spans = task.spans

    def noise(example: dict, seed, length) -> dict:
        seed = seed if masks is None else few_masks(example["token_ids"], example["valid"], seed, masks)
        token_ids, positions, targets, weights = mask_tokens(
            example["token_ids"],
            example["valid"],
            seed,
            mask_id=tokenizer.mask_id,
            vocab_size=tokenizer.vocab_size,
            special=special,
            continuation=continuation if by_id else None,
            continues=example.pop("continues") if by_row else None,
            spans=spans,
            rate=rate,
            fates=fates,
            max_predictions=predictions_per_row(length, rate),
        )
        return {
            **example,
            "token_ids": token_ids,
            "target_positions": positions,
            "targets": targets,
            "target_weights": weights,
        }

    return noise
