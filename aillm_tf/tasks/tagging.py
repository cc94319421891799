"""TokenClassifier: a text -> its named entities, with their places; or a list of tokens -> a tag for each."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.data.conll import Tagged, tagged
from aillm_tf.data.pipeline import Dataset
from aillm_tf.data.tagged_rows import LabelIds, pieces_of, special_tokens_around, tagged_rows
from aillm_tf.data.tags import to_iob2
from aillm_tf.layers.crf import CRF
from aillm_tf.layers.dense import Dense
from aillm_tf.layers.dropout import dropout, fold
from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.metrics.entities import entity_scores, entity_tally
from aillm_tf.tasks.base import Task
from aillm_tf.tasks.classification import HEAD_SITE
from aillm_tf.tasks.tagging_graph import cut_windows, entities_of, unit_features, unit_values
from aillm_tf.text.graph_alignment import WordAlignment, word_alignment
from aillm_tf.training.step import programs

TOKENS_AT_ONCE = 1 << 14  # of texts answered together, with padding

logger = logging.getLogger("aillm_tf")


class TokenClassifier(Task):
    """A label for every word, and entities out of the labels.

    Texts may be of any length: what is longer than `max_length` is read in windows that overlap, and every word has its
    label from the window in which it has most context.

    Args:
        config, tokenizer: of the backbone.
        labels: tags of IOB2, in the order of the outputs: "O", and "B-" and "I-" of every type. Heads of checkpoints
            with other tags (IOB1, BIOES) are read, too.
        crf: score sequences of labels by a conditional random field (`aillm_tf.layers.crf`).
        class_weights: weight in the loss of each label, in the order of `labels`; not with a CRF.
        label_pieces: "first" learns the label of a word at its first token, "all" at all of them ("I-" at the
            further ones). The first says the answer.
        overlap: tokens that neighbouring windows share; None: a quarter of `max_length`.
        **options: of `Task`.

    Example:
        >>> model = TokenClassifier.from_pretrained("hf:google-bert/bert-base-cased", labels=["O", "B-LOC", "I-LOC"])
        ... # doctest: +SKIP
        >>> model.answer(["Snow in  Zürich."])  # doctest: +SKIP
        [{'entities': [{'type': 'LOC', 'score': 0.98, 'start': 9, 'end': 15, 'text': 'Zürich'}]}]
        >>> model.answer([["Snow", "in", "Zürich", "."]])  # doctest: +SKIP
        [{'entities': [{'type': 'LOC', 'score': 0.98, 'start': 2, 'end': 3}], 'tags': ['O', 'O', 'B-LOC', 'O']}]
    """

    huggingface_head = "tagging"
    class_head = "tagger"

    def __init__(
        self,
        config,
        tokenizer,
        *,
        labels: Sequence[str],
        crf: bool = False,
        class_weights: Sequence[float] | None = None,
        label_pieces: Literal["first", "all"] = "first",
        overlap: int | None = None,
        max_length: int = 128,
        **options,
    ):
        self.label_ids = LabelIds(labels)
        if label_pieces not in ("first", "all"):
            raise ValueError(f'label_pieces is "first" or "all", not {label_pieces!r}')
        if class_weights is not None:
            if crf:
                raise ValueError("a CRF scores whole sequences, in which labels have no weights: leave one of both out")
            if len(class_weights) != len(labels) or min(class_weights) < 0:
                raise ValueError(f"class weights {list(class_weights)} for {labels}: give one for each, none below 0")
        self.has_crf, self.label_pieces = crf, label_pieces
        self.class_weights = None if class_weights is None else tuple(float(w) for w in class_weights)
        self.around = special_tokens_around(tokenizer)
        room = max_length - sum(map(len, self.around))
        self.given_overlap, self.room = overlap, room
        self.overlap = max(0, min(max_length // 4, room - 1)) if overlap is None else overlap
        if not 0 <= self.overlap < room:
            raise ValueError(f"overlap {overlap}: windows have room for {room} tokens, share fewer, and not below 0")
        super().__init__(config, tokenizer, max_length=max_length, **options)

    @property
    def labels(self) -> list[str]:
        """The tags, in the order of the outputs."""
        return list(self.label_ids.labels)

    def options(self) -> dict:
        own = {name: getattr(self, name) for name in ("labels", "class_weights", "label_pieces")}
        return {**super().options(), **own, "crf": self.has_crf, "overlap": self.given_overlap}

    def build_heads(self) -> None:
        stddev, count = self.config.initializer_range, len(self.label_ids.labels)
        self.tagger = Dense(count, stddev=stddev, name="tagger", dtype="float32")
        if self.has_crf:
            allowed, opening = self.label_ids.follows(), ~self.label_ids.continues
            self.crf = CRF(count, allowed, opening, name="crf", dtype="float32")

    def head_shapes(self) -> dict[str, tuple]:
        shape = (None, None, self.config.hidden_size)
        return {"tagger": shape, "crf": ()} if self.has_crf else {"tagger": shape}

    def logits(self, features: dict, seed=None):
        """(batch, length, labels) float32."""
        hidden = self.backbone(features, seed=seed)
        hidden = dropout(hidden, self.config.dropout, fold(seed, HEAD_SITE))
        return self.tagger(hidden)  # in float32: rounded logits would tie

    def word_weights(self, targets):
        """(batch, length) float32: the class weight of every token that has a label, 0 elsewhere."""
        scored = ops.cast(targets > 0, "float32")
        if self.class_weights is None:
            return scored
        weights = ops.convert_to_tensor(self.class_weights, dtype="float32")
        return scored * ops.take(weights, ops.maximum(targets - 1, 0), axis=0)

    def losses(self, logits, batch: dict):
        """The loss of every row, and the weight of the words in it, each (batch,) float32.

        Args:
            logits: (batch, length, labels) float32.
            batch: "targets" (batch, length) int32, 1 + the number of the label, 0 where there is none; and "opens".
        """
        targets = batch["targets"]
        scored, labels = self.word_weights(targets), ops.maximum(targets - 1, 0)
        if self.has_crf:
            return -self.crf.log_likelihood(logits, labels, scored, batch["opens"]), ops.sum(scored, axis=1)
        picked = ops.one_hot(labels, len(self.label_ids.labels), dtype="float32")
        losses = -ops.sum(picked * ops.log_softmax(logits, axis=-1), axis=-1)
        return ops.sum(losses * scored, axis=1), ops.sum(scored, axis=1)

    def terms(self, logits, batch: dict):
        """Sum of the losses of a batch, and of their weights."""
        losses, weights = self.losses(logits, batch)
        return ops.sum(losses * batch["weight"]), ops.sum(weights * batch["weight"])

    def loss_terms(self, batch: dict, seed=None):
        return self.terms(self.logits(batch, seed), batch)

    def log_distributions(self, logits, batch: dict):
        """(rows, length, labels) float32, and the weight of each token in the loss (rows, length)."""
        return ops.log_softmax(logits, axis=-1), self.word_weights(batch["targets"]) * batch["weight"][:, None]

    def evaluation(self, batch: dict):
        logits = self.logits(batch)
        losses, weights = self.losses(logits, batch)
        sums = {"loss": ops.sum(losses * batch["weight"]), "weight": ops.sum(weights * batch["weight"])}
        predicted = self.best_labels(logits, batch["words"], batch["opens"])
        # Batches are of different lengths, what comes of them is not.
        predicted = ops.pad(predicted, ((0, 0), (0, self.max_length - ops.shape(predicted)[1])))
        return sums, {"predicted": ops.reshape(predicted, (-1, self.max_length)), "loss": losses}

    def best_labels(self, logits, words, opens):
        """(batch, length) int32 from logits, and flags of the tokens that have labels (batch, length) and of the rows
        that begin a text (batch,)."""
        if self.has_crf:
            return self.crf.decode(logits, words, opens)
        return ops.cast(ops.argmax(logits, axis=-1), "int32")

    def probabilities(self, logits, words, opens):
        """(batch, length, labels) float32: of every label, whatever its neighbours are."""
        return self.crf.marginals(logits, words, opens) if self.has_crf else ops.softmax(logits, axis=-1)

    def scores(self, sums: dict, rows: dict) -> dict[str, float]:
        return {"loss": sums["loss"] / max(sums["weight"], 1e-8)}

    def evaluate(self, x: Dataset, *, verbose="auto", return_rows: bool = False):
        """Score all sentences, every token once.

        Args:
            x: a `Dataset` that `dataset` made.
            verbose: 0 for no progress bar.
            return_rows: also give what was predicted.

        Returns:
            What `aillm_tf.metrics.entities.entity_scores` gives, and ``loss``; with `return_rows`, that and "targets"
            and "predicted", IOB2 tags of the corpus' tokens, and "loss", each with one entry a sentence.
        """
        scores, rows = super().evaluate(x, verbose=verbose, return_rows=True)
        predicted = to_iob2(x.alignment.tags(rows["predicted"], self.label_ids), self.labels)
        scores |= entity_scores(x.tagged.tags, predicted)
        losses = np.bincount(x.alignment.sentences, rows["loss"], len(x.tagged))
        found = {"targets": x.tagged.tags, "predicted": predicted, "loss": losses}
        return (scores, found) if return_rows else scores

    def tallies(self, rows: dict, x: Dataset) -> list[Tally]:
        return [entity_tally(rows["targets"], rows["predicted"])]

    def dataset(
        self,
        rows: str | Tagged,
        *,
        tokens: str = "tokens",
        tags: str = "tags",
        text: str = "text",
        spans: str = "spans",
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        balance: bool = False,
        **batching,
    ) -> Dataset:
        """Sentences with entities as batches.

        Args:
            rows: a CoNLL or jsonl file or other source (see `aillm_tf.data.conll.tagged`), or rows read already.
            tokens, tags, text, spans: names of the columns.
            on_bad: "raise" at a bad sentence, or "skip" it and count.
            encoding_errors: "replace" reads undecodable bytes as U+FFFD instead of calling the sentence bad.
            balance: an epoch has as many rows for every type that is the rarest in their sentences, and as many without
                entities, drawn anew each time.
            **batching: batch_size, tokens_per_batch, shuffle, seed, fixed_length: see `Task.batched`.

        Entities of a type that the model has no label for are scored as missed, and counted; their words are O in the
        loss.

        Raises:
            ValueError: a bad sentence, named by file and line; or, where there is nothing else to score or it is to be
                learned from (`shuffle`), a type of entity that the model has no label for.
        """
        if not isinstance(rows, Tagged):
            columns = {"tokens": tokens, "tags": tags, "text": text, "spans": spans}
            rows = tagged(rows, **columns, on_bad=on_bad, errors=encoding_errors)
        self._check_types(rows, learned=batching.get("shuffle", False))
        every = self.label_pieces == "all"
        once = not every and not self.has_crf  # a chain has no gaps
        alignment = tagged_rows(rows, self.tokenizer, self.label_ids, self.max_length, self.overlap, every, once)
        columns = alignment.columns
        if balance:
            columns = {**columns, "rarest": rows.rarest_types()[alignment.sentences]}
        data = self.batched(columns, balance="rarest" if balance else None, **batching)
        data.tagged, data.alignment = rows, alignment  # what the scores are made of
        return data

    def _check_types(self, rows: Tagged, learned: bool) -> None:
        kinds = rows.entity_counts
        unknown = sorted(set(kinds) - set(self.label_ids.types))
        if not unknown:
            return
        if learned or len(unknown) == len(kinds):
            known = ", ".join(self.label_ids.types)
            raise ValueError(f"the data has entities of type {unknown[0]!r}; the model knows {known}")
        count = sum(kinds[kind] for kind in unknown)
        logger.warning(
            "%d of %d entities are of types that the model has no label for (%s): they are scored as missed",
            count,
            kinds.total(),
            ", ".join(unknown),
        )

    # Answers ----------------------------------------------------------------------------------------------------

    def features(self, texts: Sequence[str] | Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """Texts, or lists of tokens, as `unit_features` has them."""
        align, units = word_alignment(), None
        with tf.device("CPU:0"):
            if len(texts) and not isinstance(texts[0], str):
                joined, *spans = align.join(tf.ragged.constant([list(row) for row in texts], tf.string, 1))
                units = (*spans, np.cumsum([0, *map(len, texts)]))
                texts = [text.decode() for text in joined.numpy()]
            pieces = pieces_of(self.tokenizer, texts)
            made = unit_features(
                align,
                tf.constant(list(texts), tf.string),
                *map(tf.constant, pieces),
                units and tuple(map(tf.convert_to_tensor, units)),
                every_piece=self.label_pieces == "all",
            )
        return {name: value.numpy() for name, value in made.items()}

    def answer(self, texts: Sequence[str] | Sequence[Sequence[str]], batch_size: int = 32) -> list[dict]:
        """Find the entities, in float32.

        Args:
            texts: strings of any length; or lists of tokens.
            batch_size: texts computed at once, fewer where they are long.

        Returns:
            For every text {"entities": [{"type", "score", "start", "end", "text"}, ...]} in their order, where
            ``text[start:end]`` is the entity and the score the mean probability of its words' labels. For every list of
            tokens start and end count tokens, there is no "text", and "tags" has a tag for each token.
        """
        if isinstance(texts, str):
            raise TypeError("answer takes a list of strings, or of lists of tokens, not one string")
        raw = [isinstance(text, str) for text in texts]
        for text, is_raw in zip(texts, raw, strict=True):
            if is_raw != raw[0] or not (is_raw or all(isinstance(token, str) and token for token in text)):
                raise TypeError(f"answer takes strings, or lists of tokens none of which is empty: {text!r:.80}")
        if self._answer is None:
            self._answer = programs().make_answer_function(self)
        lengths = [len(text) if is_raw else sum(map(len, text)) for text, is_raw in zip(texts, raw, strict=True)]
        # Similar lengths together, so that little padding is computed.
        order = sorted(range(len(texts)), key=lambda i: lengths[i])
        answers: list = [None] * len(texts)
        while order:
            longest = max(lengths[order[min(batch_size, len(order)) - 1]], 1)
            count = max(1, min(batch_size, TOKENS_AT_ONCE // longest))
            rows, order = order[:count], order[count:]
            chosen = [texts[i] for i in rows]
            features = self.features(chosen)
            with self.inference_precision():
                tensors = self._answer({name: tf.constant(value) for name, value in features.items()})
            outputs = {name: np.asarray(value) for name, value in self.serving_outputs(tensors).items()}
            if not raw[0]:
                outputs["tags"] = self._tag_names(tensors["tags"]).numpy()
            for row, text, answer in zip(rows, chosen, self.read_answers(outputs), strict=True):
                if raw[0]:
                    for entity in answer["entities"]:
                        entity["text"] = text[entity["start"] : entity["end"]]
                answers[row] = answer
        return answers

    def answer_tensors(self, features: dict) -> dict:
        """Entities as numbers; see `aillm_tf.tasks.tagging_graph.entities_of`."""
        cut = cut_windows(features, self.around, self.tokenizer.pad_id, self.room, self.overlap)
        front = len(self.around[0])
        width = tf.shape(cut.words)[1]
        logits = self.logits({"token_ids": cut.token_ids, "valid": cut.valid})[:, front : front + width]
        opens = tf.cast(tf.equal(cut.firsts, 0), tf.int32)
        best = self.best_labels(logits, cut.words, opens)
        score = tf.gather(self.probabilities(logits, cut.words, opens), best, batch_dims=2)
        tags, scores = (unit_values(features, cut, values, self.room, self.overlap) for values in (best, score))
        return entities_of(features, tags, scores, self.label_ids)

    def serving_outputs(self, tensors: dict) -> dict:
        there = tf.sequence_mask(tensors["counts"], tf.shape(tensors["types"])[1])
        types = tf.where(there, tf.gather(tf.constant(self.label_ids.types), tensors["types"]), "")
        return {"types": types, **{name: tensors[name] for name in ("scores", "starts", "ends", "counts")}}

    def _tag_names(self, tags: tf.Tensor) -> tf.Tensor:
        names = tf.constant([*self.label_ids.labels, ""])
        return tf.gather(names, tf.where(tags < 0, tf.size(names) - 1, tags))

    def read_answers(self, outputs: dict) -> list[dict]:
        answers = []
        for row, count in enumerate(np.asarray(outputs["counts"]).tolist()):
            names = ("types", "scores", "starts", "ends", *(["entities"] if "entities" in outputs else []))
            columns = (np.asarray(outputs[name][row])[:count].tolist() for name in names)
            entities = [dict(zip(("type", "score", "start", "end", "text"), found)) for found in zip(*columns)]  # noqa: B905
            for entity in entities:
                entity |= {name: value.decode() for name, value in entity.items() if isinstance(value, bytes)}
            answer = {"entities": entities}
            if "tags" in outputs:
                answer["tags"] = [tag.decode() for tag in np.asarray(outputs["tags"][row]).tolist() if tag]
            answers.append(answer)
        return answers

    # Serving ----------------------------------------------------------------------------------------------------

    def graph_tokenizer(self) -> tf.Module:
        tokenizer = super().graph_tokenizer()
        tokenizer.align = WordAlignment()
        return tokenizer

    def signatures(self, tokenizer: tf.Module) -> dict[str, tuple]:
        """``serving_default``: text (rows,); ``pretokenized``: tokens (rows, tokens), rows filled up with "".

        Both give columns with as many places as the row with most entities has, and "counts" (rows,), how many of them
        count: "types", "scores", "starts", "ends". These are characters (code points) of the text, and there is
        "entities", the texts themselves; or numbers of tokens, and there is "tags" (rows, tokens).
        """

        def found(text, units=None):
            pieces = tokenizer.tokens_with_offsets(text)
            parts = (pieces[name].values for name in ("token_ids", "starts", "ends"))
            splits = pieces["token_ids"].row_splits
            every = self.label_pieces == "all"
            with tf.device("CPU:0"):
                features = unit_features(tokenizer.align, text, *parts, splits, units, every_piece=every)
            return self.answer_tensors(features)

        def serving_default(text):
            text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
            outputs = self.serving_outputs(found(text))
            shape = tf.shape(outputs["starts"])
            every = tf.repeat(text, shape[1])
            starts, ends = (tf.reshape(outputs[name], [-1]) for name in ("starts", "ends"))
            parts = tf.strings.substr(every, tf.where(ends > starts, starts, 0), ends - starts, unit="UTF8_CHAR")
            return {**outputs, "entities": tf.reshape(parts, shape)}

        def pretokenized(tokens):
            rows = tf.RaggedTensor.from_tensor(tokens, padding="")
            text, starts, ends = tokenizer.align.join(rows)
            tensors = found(text, (starts, ends, rows.row_splits))
            tags = self._tag_names(tensors["tags"])
            missing = tf.shape(tokens)[1] - tf.shape(tags)[1]
            return {**self.serving_outputs(tensors), "tags": tf.pad(tags, [[0, 0], [0, missing]])}

        text = {"text": tf.TensorSpec((None,), tf.string, name="text")}
        words = {"tokens": tf.TensorSpec((None, None), tf.string, name="tokens")}
        return {"serving_default": (serving_default, text), "pretokenized": (pretokenized, words)}

    def signature_requests(self, columns: dict[str, list[str]]) -> dict[str, dict[str, list]]:
        rows = self.signature_texts("pretokenized", columns["text"])
        most = max(map(len, rows))
        padded = [row + [""] * (most - len(row)) for row in rows]
        return {"serving_default": columns, "pretokenized": {"tokens": padded}}

    def signature_texts(self, name: str, texts: list[str]) -> list:
        return [text.split() for text in texts] if name == "pretokenized" else texts

    def signature_answers(self, name: str, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return outputs
