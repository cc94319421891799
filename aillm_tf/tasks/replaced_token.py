"""ReplacedToken: tell which tokens a small masked language model has replaced (ELECTRA).

Every token of a row teaches something, not only the masked ones. Two models learn at once: the generator predicts
masked tokens, as `MaskedLM` does; the discriminator, which is the model one keeps, reads the row with the generator's
guesses in the gaps and says of every token whether it is the original.

Reference: Clark et al., 2020, ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators,
https://arxiv.org/abs/2003.10555
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.data.pipeline import Dataset
from aillm_tf.layers import fast
from aillm_tf.layers.base import Layer
from aillm_tf.layers.dense import Dense
from aillm_tf.layers.dropout import fold
from aillm_tf.layers.feedforward import ACTIVATIONS
from aillm_tf.layers.masks import attention_bias
from aillm_tf.layers.transformer import Stack
from aillm_tf.layers.vocabulary_loss import SCORES, token_losses, vocabulary_loss
from aillm_tf.metrics.bootstrap import Scores, Tally, ratio
from aillm_tf.tasks import files
from aillm_tf.tasks.base import Task
from aillm_tf.tasks.corpus import corpus
from aillm_tf.tasks.masked_lm import MaskedLMHead, masking

FATES = (0.85, 0.0)  # as ELECTRA's code has it: the others stay
GENERATOR_SITE = 1 << 18  # above the seeds of the discriminator's stack


def generator_config(config, size: float):
    """The shape of the generator: as many layers, a share of the heads and of the inner sizes."""
    heads = max(1, round(config.heads * size))
    while heads % max(1, round(config.key_value_heads * size)):
        heads += 1
    return config.replace(
        heads=heads,
        kv_heads=max(1, round(config.key_value_heads * size)),
        head_size=config.head_width,
        hidden_size=heads * config.head_width,
        ffn_size=max(1, round(config.ffn_size * size)),
        embedding_size=config.embedding_size or config.hidden_size,
    )


class Generator(Layer):
    """A smaller stack over the discriminator's embeddings, and the head of a masked language model.

    Args:
        config: of the generator.
        activation: of its head.
    """

    def __init__(self, config, activation: str, *, name: str = "generator", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.config = config
        # a projection in any case: the generator's hidden states are narrower than the embeddings
        self.projection = Dense(config.hidden_size, stddev=config.initializer_range, name="projection", dtype=dtype)
        self.encoder = Stack(config, config.layers, causal=False, name="encoder", dtype=dtype)
        self.mlm = MaskedLMHead(config, activation, dtype=dtype)

    def build(self, input_shape=None):
        config = self.config
        self.projection.build((None, None, config.embedding_size))
        self.encoder.build((None, None, config.hidden_size))
        self.mlm.build((None, config.hidden_size))

    def call(self, features: dict, embeddings=None, seed=None):
        """Hidden states, (batch, length, hidden)."""
        seed, packed = fold(seed, GENERATOR_SITE), features.get("packed_ids")
        positions = features.get("positions")
        x = embeddings(features["token_ids"], features.get("segment_ids"), positions, seed=seed, project=False)
        bias = attention_bias(features.get("valid"), query_segments=packed, key_segments=packed)
        return self.encoder(self.projection(x), bias=bias, positions=positions, seed=seed)


class DiscriminatorHead(Layer):
    """One score a token: dense, activation, dense."""

    def __init__(self, config, *, name: str = "discriminator", dtype=None):
        super().__init__(name=name, dtype=dtype)
        stddev, self.activation = config.initializer_range, ACTIVATIONS[config.activation]
        self.transform = Dense(config.hidden_size, stddev=stddev, name="transform", dtype=dtype)
        self.out = Dense(1, stddev=stddev, name="out", dtype="float32")

    def build(self, input_shape):
        self.transform.build(input_shape)
        self.out.build(input_shape)

    def call(self, hidden):
        """(batch, length, hidden) -> (batch, length) float32."""
        return ops.squeeze(self.out(self.activation(self.transform(hidden))), -1)


class ReplacedToken(Task):
    """ELECTRA's pretraining objective; the backbone is the discriminator.

    The loss is that of the generator plus `discriminator_weight` times that of the discriminator. Each is a mean over
    what it predicts; the discriminator's is that of every row, weighted by the row's number of masked tokens, so that
    both are sums over rows and the loss of a batch does not depend on how it is cut into micro-batches.

    Args:
        config, tokenizer: of the discriminator.
        rate: share of the tokens that are masked.
        generator_size: of the generator, as a share of the discriminator's heads, hidden and inner sizes.
        discriminator_weight: of its loss.
        whole_word, spans, masks: as of `MaskedLM`.
        transform_activation: of the generator's head.
        **options: of `Task`.

    `save` keeps both, to go on with; `save_huggingface` and a task made of what `save` wrote take the discriminator:

        >>> TextClassifier.from_pretrained("runs/electra/model", labels=["no", "yes"])  # doctest: +SKIP
    """

    huggingface_head = "replaced_token"

    def __init__(
        self,
        config,
        tokenizer,
        *,
        rate: float = 0.15,
        generator_size: float = 0.25,
        discriminator_weight: float = 50.0,
        whole_word: bool = False,
        spans: bool = False,
        masks: int | None = None,
        transform_activation: str = "gelu",
        **options,
    ):
        if not 0.0 < rate < 1.0:
            raise ValueError(f"rate is the share of tokens to mask, in (0, 1), not {rate}")
        if not 0.0 < generator_size <= 1.0:
            raise ValueError(f"generator_size is a share of the discriminator's, in (0, 1], not {generator_size}")
        if tokenizer.mask_id is None:
            raise ValueError("the tokenizer has no mask token: the generator needs one")
        self.rate, self.generator_size, self.discriminator_weight = rate, generator_size, discriminator_weight
        self.whole_word, self.spans, self.masks = whole_word, spans, masks
        self.transform_activation = transform_activation
        super().__init__(config, tokenizer, **options)

    def options(self) -> dict:
        own = ("rate", "generator_size", "discriminator_weight", "whole_word", "spans", "masks")
        return {**super().options(), **{name: getattr(self, name) for name in (*own, "transform_activation")}}

    def build_heads(self) -> None:
        shape = generator_config(self.config, self.generator_size)
        self.generator = Generator(shape, self.transform_activation, dtype=self.dtype_policy)
        self.discriminator = DiscriminatorHead(self.config, dtype=self.dtype_policy)

    def head_shapes(self) -> dict[str, tuple]:
        return {"generator": (), "discriminator": (None, self.config.hidden_size)}

    def logits(self, features: dict, seed=None):
        """(batch, length) float32, above 0 where a token was rather replaced."""
        return self.discriminator(self.backbone(features, seed=seed))

    def guesses(self, hidden, draws):
        """Tokens drawn from the generator's distribution, (batch, predictions) int32.

        Args:
            hidden: (batch, predictions, hidden) of the generator.
            draws: (batch, predictions) float32 in [0, 1), one a token. They come with the batch, so that what is drawn
                depends neither on the number of replicas nor on where the batch is cut.
        """

        shape = ops.shape(draws)
        hidden, draws = ops.reshape(ops.stop_gradient(hidden), (-1, hidden.shape[-1])), ops.reshape(draws, (-1,))
        tokens, size = ops.shape(draws)[0], self.tokenizer.vocab_size

        def drawn(hidden, draws, places):
            # a table padded to a round size has rows that are no tokens
            below = ops.cumsum(ops.softmax(self.scores_of(hidden)[..., :size], axis=-1), axis=-1)
            chosen = ops.sum(ops.cast(below <= ops.expand_dims(draws, -1) * below[..., -1:], "float32"), axis=-1)
            return ops.scatter(ops.expand_dims(places, -1), ops.minimum(chosen, size - 1.0), (tokens,))

        # chunk by chunk, as the loss: each gives its places of the whole, and zeros elsewhere
        chunk = max(128, SCORES // self.config.vocab_size)
        count = (max(0, tokens - 1) if isinstance(tokens, int) else ops.maximum(0, tokens - 1)) // chunk
        tensors = (hidden, draws, ops.arange(tokens))
        found = drawn(*(x[count * chunk :] for x in tensors))
        found = fast.sum_of_chunks(drawn, tensors, chunk, count, found)
        return ops.reshape(ops.cast(ops.stop_gradient(found), "int32"), shape)

    def scores_of(self, hidden):
        """(..., hidden of the generator) -> (..., vocabulary) float32."""
        return self.generator.mlm(hidden, embeddings=self.backbone.embeddings)

    def terms(self, batch: dict, seed=None) -> tuple[tuple, dict]:
        """What `loss_terms` and `scores` are made of.

        Returns:
            Hidden states, targets and weights of the generator's predictions, as `vocabulary_loss` takes them; and what
            the discriminator did with the result, (batch,) float32 each.
        """
        at, row = batch["target_positions"], ops.expand_dims(batch["weight"], -1)
        predicted = batch["target_weights"] * row  # (batch, predictions)
        hidden = self.generator(batch, embeddings=self.backbone.embeddings, seed=seed)
        hidden = ops.take_along_axis(hidden, ops.expand_dims(at, -1), axis=1)
        # the original row with the guesses in the gaps
        guesses = self.guesses(hidden, batch["draws"])
        length = ops.shape(batch["original_ids"])[1]
        filled = ops.equal(ops.expand_dims(at, -1), ops.arange(length))  # (batch, predictions, length)
        filled = ops.cast(filled, "int32") * ops.expand_dims(ops.cast(batch["target_weights"], "int32"), -1)
        gaps = ops.sum(filled, axis=1)
        token_ids = ops.where(
            ops.cast(gaps, "bool"), ops.sum(filled * ops.expand_dims(guesses, -1), axis=1), batch["original_ids"]
        )
        replaced = ops.cast(ops.not_equal(token_ids, batch["original_ids"]), "float32")
        logits = self.logits({**batch, "token_ids": token_ids}, seed=seed)
        # the cross-entropy of a sigmoid, written so that it cannot overflow
        losses = ops.relu(logits) - logits * replaced + ops.log1p(ops.exp(-ops.abs(logits)))

        real = ops.cast(batch["valid"], "float32")
        tokens, predictions = ops.sum(real, axis=1), ops.sum(predicted, axis=1)
        per_token = real * ops.expand_dims(predictions / ops.maximum(tokens, 1.0), -1)
        real = real * row  # (batch, length)
        found = ops.cast(logits > 0, "float32")
        rows = {
            "scaled_loss": losses * per_token,
            "discriminator_loss": losses * real,
            "hits": ops.cast(ops.equal(found, replaced), "float32") * real,
            "replaced": replaced * real,
            "found": replaced * found * real,
            "tokens": real,
        }
        rows = {name: ops.sum(values, axis=-1) for name, values in rows.items()}
        return (hidden, batch["targets"], predicted), rows

    def loss_terms(self, batch: dict, seed=None):
        (hidden, targets, weights), rows = self.terms(batch, seed)
        generator = vocabulary_loss(hidden, self.scores_of, targets, weights, count_hits=False)
        return generator["loss"] + self.discriminator_weight * ops.sum(rows["scaled_loss"]), generator["weight"]

    def evaluation(self, batch: dict):
        (hidden, targets, weights), rows = self.terms(batch)
        losses, hits = token_losses(hidden, self.scores_of, targets)
        generator = {"generator_loss": losses * weights, "generator_hits": hits * weights, "predictions": weights}
        rows |= {name: ops.sum(values, axis=-1) for name, values in generator.items()}
        return {name: ops.sum(values) for name, values in rows.items()}, rows

    def scores(self, sums: dict, rows: dict) -> dict[str, float]:
        return {name: float(value) for name, value in self._scores(sums).items()}

    def _scores(self, sums: dict) -> dict:
        generator = ratio(sums["generator_loss"], sums["predictions"])
        return {
            "loss": generator + self.discriminator_weight * ratio(sums["scaled_loss"], sums["predictions"]),
            "perplexity": np.exp(np.minimum(generator, 700.0)),  # of the generator
            "accuracy": ratio(sums["hits"], sums["tokens"]),
            "generator_loss": generator,
            "generator_accuracy": ratio(sums["generator_hits"], sums["predictions"]),
            "discriminator_loss": ratio(sums["discriminator_loss"], sums["tokens"]),
            "replaced_share": ratio(sums["replaced"], sums["tokens"]),
            "replaced_found": ratio(sums["found"], sums["replaced"]),
        }

    def tallies(self, rows: dict, x: Dataset) -> list[Tally]:
        names = [name for name in rows if name != "row"]

        def scores(sums: np.ndarray) -> Scores:
            return self._scores(dict(zip(names, np.moveaxis(sums, -1, 0), strict=True)))

        return [Tally(np.stack([rows[name] for name in names], -1).astype(float), scores, rows["predictions"].tolist())]

    # The probability of every token that it was replaced ------------------------------------------------------------

    def answer_tensors(self, features: dict) -> dict:
        valid = ops.cast(ops.not_equal(features["token_ids"], self.tokenizer.pad_id), "int32")
        scores = ops.sigmoid(self.logits({**features, "valid": valid}))
        return {"token_ids": ops.cast(features["token_ids"], "int32"), "valid": valid, "scores": scores}

    def serving_outputs(self, tensors: dict) -> dict:
        return {**tensors, "tokens": tf.gather(tf.constant(self.tokenizer.vocabulary), tensors["token_ids"])}

    def read_answers(self, outputs: dict) -> list[dict]:
        return [
            {
                "tokens": [
                    {"token": tokens[i].decode(), "score": float(scores[i])} for i in np.flatnonzero(np.asarray(valid))
                ]
            }
            for tokens, scores, valid in zip(outputs["tokens"], outputs["scores"], outputs["valid"], strict=True)
        ]

    # Data and files ---------------------------------------------------------------------------------------------

    def dataset(
        self,
        rows: str | Iterable[str],
        *,
        text: str = "text",
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        **batching,
    ) -> Dataset:
        """Texts as batches of masked rows, see `MaskedLM.dataset`.

        Raises:
            ValueError: a bad row; names the file and line.
        """
        masked = masking(self, fates=FATES)

        def noise(example: dict, seed, length) -> dict:
            mask_seed, draw_seed = tf.unstack(tf.random.split(seed, 2, alg="philox"))
            made = masked(dict(example), mask_seed, length)
            draws = tf.random.stateless_uniform(tf.shape(made["targets"]), draw_seed, alg="philox")
            made["draws"] = tf.ensure_shape(draws, made["targets"].shape)
            return {**made, "original_ids": example["token_ids"]}

        name = repr(("replaced", self.rate, self.whole_word, self.spans, self.masks, self.tokenizer.fingerprint))
        reading = {"text": text, "on_bad": on_bad, "encoding_errors": encoding_errors}
        return corpus(self, rows, reading, noise=noise, noise_name=name, **batching)

    def save_huggingface(self, folder: str | Path) -> None:
        """Write the discriminator as a folder that `transformers.ElectraForPreTraining` loads.

        Args:
            folder: made if missing.

        Raises:
            ValueError: the backbone is not of ELECTRA's formula.
        """
        from aillm_tf.weights.saving import save_pretrained

        kept = {name: array for name, array in files.arrays_of(self).items() if not name.startswith("generator/")}
        config = self.config.replace(model_type="electra")
        save_pretrained(folder, config, kept, self.tokenizer, head=self.huggingface_head)
