"""TokenLoss: what tasks share whose loss is a mean over tokens of a vocabulary."""

from __future__ import annotations

import math

import numpy as np
from keras import ops

from aillm_tf.data.pipeline import Dataset
from aillm_tf.layers.vocabulary_loss import token_losses, vocabulary_loss
from aillm_tf.metrics.bootstrap import Scores, Tally, ratio


def token_scores(sums: dict) -> dict[str, float]:
    """Loss (nats a token), accuracy and perplexity.

    Args:
        sums: "loss", "hits" and "weight" over all tokens, as `aillm_tf.layers.vocabulary_loss` gives them.

    Example:
        >>> token_scores({"loss": 0.0, "hits": 3.0, "weight": 4.0})
        {'loss': 0.0, 'accuracy': 0.75, 'perplexity': 1.0}
    """
    weight = max(sums["weight"], 1e-8)
    loss = sums["loss"] / weight
    return {"loss": loss, "accuracy": sums["hits"] / weight, "perplexity": math.exp(min(loss, 700.0))}


def token_tally(rows: dict[str, np.ndarray], keys=None) -> Tally:
    """The same, an example at a time.

    Args:
        rows: "loss", "hits", "weight" and perhaps "bytes" of every example.
        keys: what the examples are; None: how many tokens they have, which differs where others were predicted.
    """
    columns = {name: np.asarray(rows[name], float) for name in ("loss", "hits", "weight", "bytes") if name in rows}

    def scores(sums: np.ndarray) -> Scores:
        total = {name: sums[..., i] for i, name in enumerate(columns)}
        loss = ratio(total["loss"], total["weight"])
        found = {"loss": loss, "accuracy": ratio(total["hits"], total["weight"])}
        found["perplexity"] = np.exp(np.minimum(loss, 700.0))
        if "bytes" in total:
            found["bits_per_byte"] = ratio(total["loss"], math.log(2.0) * total["bytes"])
        return found

    keys = [f"{weight:g} tokens" for weight in columns["weight"]] if keys is None else keys
    return Tally(np.stack([*columns.values()], axis=-1), scores, keys)


class TokenLoss:
    """Loss, evaluation and scores of a `Task` that says what it predicts.

    The task gives `predictions(batch, seed)`: hidden states (batch, tokens, features), their targets and the weights of
    these (batch, tokens); and `scores_of(hidden)`: logits over the vocabulary.

    Args:
        label_smoothing: share of the target spread evenly over the vocabulary (Szegedy et al. 2015, arXiv:1512.00567);
        z_loss: factor of the squared logsumexp of the scores (Chowdhery et al. 2022, arXiv:2204.02311): both of the
            training loss, scores of evaluation are without them.
        **options: of the `Task`.
    """

    def __init__(self, config, tokenizer, *, label_smoothing: float = 0.0, z_loss: float = 0.0, **options):
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is a share in [0, 1), not {label_smoothing}")
        self.label_smoothing, self.z_loss = label_smoothing, z_loss
        super().__init__(config, tokenizer, **options)

    def options(self) -> dict:
        return {**super().options(), "label_smoothing": self.label_smoothing, "z_loss": self.z_loss}

    def sums(self, batch: dict, seed=None, **options) -> dict:
        """{"loss", "weight", "hits"} over the predictions of a batch, float32 scalars; options of `vocabulary_loss`."""
        hidden, targets, weights = self.predictions(batch, seed)
        return vocabulary_loss(hidden, self.scores_of, targets, weights, **options)

    def loss_terms(self, batch: dict, seed=None):
        options = {"label_smoothing": self.label_smoothing, "z_loss": self.z_loss, "count_hits": False}
        sums = self.sums(batch, seed, **options)
        return sums["loss"], sums["weight"]

    def evaluation(self, batch: dict):
        hidden, targets, weights = self.predictions(batch)
        losses, hits = token_losses(hidden, self.scores_of, targets)
        rows = {"loss": losses * weights, "hits": hits * weights, "weight": weights}
        rows = {name: ops.sum(values, axis=-1) for name, values in rows.items()}
        return {name: ops.sum(values) for name, values in rows.items()}, rows

    def scores(self, sums: dict, rows: dict) -> dict[str, float]:
        return token_scores(sums)

    def tallies(self, rows: dict, x: Dataset) -> list[Tally]:
        return [token_tally(rows)]
