"""TextClassifier: one text or a pair of texts -> one of several labels, or any number of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.sources import Labelled, labelled
from aillm_tf.layers.dense import Dense
from aillm_tf.layers.dropout import dropout, fold
from aillm_tf.layers.feedforward import ACTIVATIONS
from aillm_tf.metrics import classification as metrics
from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.tasks.base import Task

HEAD_SITE = 1 << 20  # above the seeds of any stack
POOLER_ACTIVATIONS = {"tanh": ops.tanh, "relu": ACTIVATIONS["relu"], "gelu": ACTIVATIONS["gelu"]}


class TextClassifier(Task):
    """Softmax (or, multi-label, sigmoid) over a pooled row.

    Args:
        config, tokenizer: of the backbone.
        labels: their names, in the order of the outputs.
        pair: a row is two texts (entailment, similarity).
        multi_label: a row may have any number of labels.
        class_weights: weight in the loss of each label's rows (multi-label: of each label's term), in the order
            of `labels`.
        pooling: "first" reads the first token through a dense layer, as BERT's classifiers do, and computes
            the last layer for that token only; "mean" averages all tokens, as sentence encoders do.
        pooler_activation: of that dense layer: "tanh" (BERT, RoBERTa, ALBERT), "relu" (DistilBERT) or "gelu"
            (ELECTRA). `from_pretrained` takes the family's.
        label_smoothing: share of the target spread evenly over all labels (Szegedy et al. 2016).
        **options: of `Task`.

    Example:
        >>> model = TextClassifier.from_pretrained("hf:google-bert/bert-base-uncased", labels=["no", "yes"])
        ... # doctest: +SKIP
        >>> model.answer(["It works."])  # doctest: +SKIP
        [{'label': 'yes', 'score': 0.53, 'probabilities': {'no': 0.47, 'yes': 0.53}}]
    """

    huggingface_head = "classification"

    def __init__(
        self,
        config,
        tokenizer,
        *,
        labels: Sequence[str],
        pair: bool = False,
        multi_label: bool = False,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        pooling: Literal["first", "mean"] = "first",
        pooler_activation: Literal["tanh", "relu", "gelu"] = "tanh",
        **options,
    ):
        labels = list(labels)
        if len(labels) < 2 or len(set(labels)) != len(labels):
            raise ValueError(f"a classifier needs two or more different labels, not {labels}")
        if class_weights is not None and (len(class_weights) != len(labels) or min(class_weights) < 0):
            raise ValueError(f"class weights {list(class_weights)} for {labels}: give one for each, none below 0")
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"label_smoothing is a share in [0, 1), not {label_smoothing}")
        self.label_names, self.pair, self.multi_label = tuple(labels), pair, multi_label
        self.class_weights = None if class_weights is None else tuple(float(w) for w in class_weights)
        if pooling not in ("first", "mean"):
            raise ValueError(f'pooling is "first" or "mean", not {pooling!r}')
        if pooler_activation not in POOLER_ACTIVATIONS:
            raise ValueError(f"pooler_activation is one of {', '.join(POOLER_ACTIVATIONS)}, not {pooler_activation!r}")
        self.label_smoothing, self.pooling, self.pooler_activation = label_smoothing, pooling, pooler_activation
        super().__init__(config, tokenizer, **options)

    @property
    def labels(self) -> list[str]:
        """Label names, in the order of the outputs."""
        return list(self.label_names)

    @property
    def serving_inputs(self) -> tuple[str, ...]:
        return ("text", "pair") if self.pair else ("text",)

    def options(self) -> dict:
        own = ("labels", "pair", "multi_label", "class_weights", "label_smoothing", "pooling", "pooler_activation")
        return {**super().options(), **{name: getattr(self, name) for name in own}}

    def build_heads(self) -> None:
        stddev, policy = self.config.initializer_range, self.dtype_policy
        if self.pooling == "first":
            self.pooler = Dense(self.config.hidden_size, stddev=stddev, name="pooler", dtype=policy)
        self.classifier = Dense(len(self.label_names), stddev=stddev, name="classifier", dtype="float32")

    def head_shapes(self) -> dict[str, tuple]:
        shape = (None, self.config.hidden_size)
        return {"pooler": shape, "classifier": shape} if self.pooling == "first" else {"classifier": shape}

    def pooled(self, features: dict, seed=None):
        """(batch, hidden): what the classifier reads of a row."""
        if self.pooling == "first":
            first = self.backbone(features, read=1, seed=seed)[:, 0]
            return POOLER_ACTIVATIONS[self.pooler_activation](self.pooler(first))
        hidden = ops.cast(self.backbone(features, seed=seed), "float32")
        weights = ops.expand_dims(ops.cast(features["valid"], "float32"), -1)  # (batch, length, 1)
        return ops.sum(hidden * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)

    def logits(self, features: dict, seed=None):
        """(batch, labels) float32."""
        pooled = dropout(self.pooled(features, seed), self.config.dropout, fold(seed, HEAD_SITE))
        return self.classifier(pooled)  # in float32: rounded logits would tie

    def losses(self, logits, labels):
        """The loss of every row, (batch,) float32."""
        smoothing, classes = self.label_smoothing, len(self.label_names)
        if self.multi_label:
            target = labels * (1.0 - smoothing) + 0.5 * smoothing
            # the cross-entropy of a sigmoid, written so that it cannot overflow
            terms = ops.relu(logits) - logits * target + ops.log1p(ops.exp(-ops.abs(logits)))
            if self.class_weights is not None:
                terms = terms * ops.convert_to_tensor(self.class_weights, dtype="float32")
            return ops.mean(terms, axis=-1)
        target = ops.one_hot(labels, classes, dtype="float32") * (1.0 - smoothing) + smoothing / classes
        return -ops.sum(target * ops.log_softmax(logits, axis=-1), axis=-1)

    def row_weights(self, batch: dict):
        """(batch,) float32: 0 for rows that fill the batch, times the class weight of the others."""
        if self.class_weights is None or self.multi_label:
            return batch["weight"]
        weights = ops.convert_to_tensor(self.class_weights, dtype="float32")
        return batch["weight"] * ops.take(weights, batch["label"], axis=0)

    def terms(self, logits, batch: dict):
        """Sum of the losses of a batch, and of their weights."""
        weights = self.row_weights(batch)
        return ops.sum(self.losses(logits, batch["label"]) * weights), ops.sum(weights)

    def loss_terms(self, batch: dict, seed=None):
        return self.terms(self.logits(batch, seed), batch)

    def log_distributions(self, logits, batch: dict):
        """(rows, classes) float32, of several labels (rows, labels, 2), and the weight of each distribution."""
        weights = self.row_weights(batch)
        if not self.multi_label:
            return ops.log_softmax(logits, axis=-1), weights
        both = ops.stack([ops.log_sigmoid(logits), ops.log_sigmoid(-logits)], axis=-1)
        return both, ops.expand_dims(weights, -1) / len(self.label_names)

    def evaluation(self, batch: dict):
        logits = self.logits(batch)
        loss, weight = self.terms(logits, batch)
        rows = {"probabilities": self.probabilities(logits), "label": batch["label"]}
        return {"loss": loss, "weight": weight}, rows

    def scores(self, sums: dict, rows: dict) -> dict[str, float]:
        loss = {"loss": sums["loss"] / max(sums["weight"], 1e-8)}
        if self.multi_label:
            return {**loss, **metrics.multi_label_scores(rows["label"], rows["probabilities"] >= 0.5)}
        return {**loss, **metrics.classification_scores(rows["label"], rows["probabilities"].argmax(-1))}

    def tallies(self, rows: dict, x: Dataset) -> list[Tally]:
        if self.multi_label:
            return [metrics.multi_label_tally(rows["label"], rows["probabilities"] >= 0.5, self.labels)]
        return [metrics.classification_tally(rows["label"], rows["probabilities"].argmax(-1), self.labels)]

    def probabilities(self, logits):
        return ops.sigmoid(logits) if self.multi_label else ops.softmax(logits, axis=-1)

    def answer_tensors(self, features: dict) -> dict:
        valid = ops.cast(ops.not_equal(features["token_ids"], self.tokenizer.pad_id), "int32")
        return {"probabilities": self.probabilities(self.logits({**features, "valid": valid}))}

    def serving_outputs(self, tensors: dict) -> dict:
        probabilities = tensors["probabilities"]
        if self.multi_label:
            return {"probabilities": probabilities}
        best = tf.argmax(probabilities, axis=-1)
        return {
            "label": tf.gather(tf.constant(self.labels), best),
            "score": tf.reduce_max(probabilities, axis=-1),
            "probabilities": probabilities,
        }

    def read_answers(self, outputs: dict) -> list[dict]:
        answers = []
        for row in np.asarray(outputs["probabilities"]):
            named = {label: float(p) for label, p in zip(self.labels, row, strict=True)}
            if self.multi_label:
                answers.append({"labels": [label for label, p in named.items() if p >= 0.5], "probabilities": named})
            else:
                best = int(row.argmax())
                answers.append({"label": self.labels[best], "score": float(row[best]), "probabilities": named})
        return answers

    def dataset(
        self,
        rows: str | dict[str, str] | Labelled,
        *,
        text: str = "text",
        label: str = "label",
        pair: str | None = None,
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        balance: bool = False,
        **batching,
    ) -> Dataset:
        """Labelled texts as batches.

        Args:
            rows: a file or other source (see `aillm_tf.data.sources`), a dict of one source a label, or rows
                read already.
            text, label, pair: names or numbers of the columns.
            on_bad: "raise" at a bad row, or "skip" it and count.
            encoding_errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.
            balance: an epoch has as many rows of every label, drawn anew each time: rows of rare labels several times.
            **batching: batch_size, tokens_per_batch, shuffle, seed, fixed_length: see `Task.batched`.

        Raises:
            ValueError: a bad row, or rows of another kind than the model's; names the file and line.
        """
        if not isinstance(rows, Labelled):
            pair = pair or ("pair" if self.pair else None)
            rows = labelled(
                rows,
                text=text,
                label=label,
                pair=pair,
                labels=self.labels,
                on_bad=on_bad,
                multi_label=self.multi_label,
                errors=encoding_errors,
            )
        elif list(rows.labels) != self.labels:
            raise ValueError(f"the rows have the labels {list(rows.labels)}, the model {self.labels}")
        if (rows.pairs is not None) != self.pair:
            raise ValueError(
                f"the model has pair={self.pair}, the rows are {'pairs' if rows.pairs else 'single texts'}"
            )
        if (np.ndim(rows.label_ids) == 2) != self.multi_label:
            raise ValueError(f"the model has multi_label={self.multi_label}, the rows have labels of another kind")
        if balance and self.multi_label:
            raise ValueError("balance is for rows with one label each, the model has multi_label=True")
        encoded = self.tokenizer.encode(rows.texts, rows.pairs, max_length=self.max_length)
        columns = {"token_ids": Ragged(encoded.ids, encoded.offsets), "label": np.asarray(rows.label_ids)}
        if self.pair:
            columns["segment_ids"] = Ragged(encoded.segment_ids, encoded.offsets)
        return self.batched(columns, balance="label" if balance else None, **batching)
