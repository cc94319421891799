"""QuestionAnswering: a question and a context of any length -> the stretch of the context that answers it, or none.

A long context is read in overlapping windows. Every token starts answers in one of them only, the one with the most
context around it; the best span over all windows wins. "No answer" is the first token of a row; its score for a
question is the lowest of its windows', as an answer need be in one of them only (Devlin et al. 2019).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.squad import Questions, read_squad
from aillm_tf.data.windows import (
    Tokens,
    Windows,
    answer_tokens,
    make_windows,
    pair_layout,
    question_room,
    row_targets,
    tokens_of,
)
from aillm_tf.layers.dense import Dense
from aillm_tf.metrics import squad as metrics
from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.tasks.answer_spans import LOW, best_answers, candidates, in_chunks
from aillm_tf.tasks.base import Task

QUESTIONS_AT_ONCE = 1024  # whose windows are cut at the same time

logger = logging.getLogger("aillm_tf")


class QuestionAnswering(Task):
    """Extractive question answering.

    Args:
        config, tokenizer: of the backbone.
        max_length: tokens of a row: a question and a window of its context.
        stride: tokens that neighbouring windows share.
        max_question_length: tokens of a question that are read.
        max_answer_length: tokens that an answer may have.
        n_best: spans that share the probability of a question.
        unanswerable: some questions have no answer (SQuAD v2.0). Without it (v1.1) there always is one.
        no_answer_threshold: probability of no answer above which the answer is "". See `tune`.
        scoring: "squad" for English, "cmrc" for Chinese, whose characters are words.
        **options: of `Task`.

    Example:
        >>> model = QuestionAnswering.from_pretrained("hf:deepset/minilm-uncased-squad2")  # doctest: +SKIP
        >>> model.answer([("Who led the Norse?", "The Norse leader Rollo swore fealty.")])  # doctest: +SKIP
        [{'answer': 'Rollo', 'score': 0.91, 'start': 17, 'end': 22, 'no_answer': 0.04}]

    Reference:
        Rajpurkar et al. 2018 (arXiv:1806.03822); Devlin et al. 2019 (arXiv:1810.04805), section 4.3
    """

    serving_inputs = ("question", "context")
    serving_facts = ("scoring", "unanswerable")
    huggingface_head = "question_answering"

    def __init__(
        self,
        config,
        tokenizer,
        *,
        max_length: int = 384,
        stride: int = 128,
        max_question_length: int = 64,
        max_answer_length: int = 30,
        n_best: int = 20,
        unanswerable: bool = True,
        no_answer_threshold: float = 0.5,
        scoring: Literal["squad", "cmrc"] = "squad",
        **options,
    ):
        for name, value, least in (
            ("stride", stride, 0),
            ("max_question_length", max_question_length, 1),
            ("max_answer_length", max_answer_length, 1),
            ("n_best", n_best, 1),
        ):
            if value < least:
                raise ValueError(f"{name} is {value}: give at least {least}")
        if not 0.0 <= no_answer_threshold <= 1.0:
            raise ValueError(f"no_answer_threshold is a probability, not {no_answer_threshold}")
        if scoring not in ("squad", "cmrc"):
            raise ValueError(f'scoring is "squad" or "cmrc", not {scoring!r}')
        self.stride, self.max_question_length, self.max_answer_length = stride, max_question_length, max_answer_length
        self.n_best, self.unanswerable, self.scoring = n_best, unanswerable, scoring
        self.no_answer_threshold = no_answer_threshold
        self.layout = pair_layout(tokenizer)
        special = sum(part.token is not None for part in self.layout)
        if max_length < special + 4:
            raise ValueError(f"max_length {max_length} leaves no room for a question and a window of its context")
        super().__init__(config, tokenizer, max_length=max_length, **options)

    def options(self) -> dict:
        own = ("stride", "max_question_length", "max_answer_length", "n_best", "unanswerable", "no_answer_threshold")
        return {**super().options(), **{name: getattr(self, name) for name in (*own, "scoring")}}

    def build_heads(self) -> None:
        self.spans = Dense(2, stddev=self.config.initializer_range, name="spans", dtype="float32")

    def head_shapes(self) -> dict[str, tuple]:
        return {"spans": (None, None, self.config.hidden_size)}

    # What it learns ---------------------------------------------------------------------------------------------

    def logits(self, features: dict, seed=None):
        """(batch, length, 2) float32: how much an answer starts, and ends, at each token."""
        return self.spans(self.backbone(features, seed=seed))

    def losses(self, logits, batch: dict):
        """Mean cross-entropy of start and end over the tokens of a row, (batch,) float32."""
        logits = self.among_tokens(logits, batch)
        targets = ops.stack([batch["start"], batch["end"]], axis=-1)  # (batch, 2)
        target = ops.take_along_axis(logits, ops.expand_dims(targets, 1), axis=1)[:, 0]
        return ops.mean(ops.logsumexp(logits, axis=1) - target, axis=-1)

    def among_tokens(self, logits, batch: dict):
        """Logits (batch, length, 2) that are low at padding."""
        padding = ops.cast(batch["valid"], "float32") - 1.0
        return logits - LOW * ops.expand_dims(padding, -1)

    def terms(self, logits, batch: dict):
        """Sum of the losses of a batch, and of their weights."""
        losses, weights = self.losses(logits, batch), batch["weight"] * batch["learned"]
        return ops.sum(losses * weights), ops.sum(weights)

    def loss_terms(self, batch: dict, seed=None):
        return self.terms(self.logits(batch, seed), batch)

    def log_distributions(self, logits, batch: dict):
        """(rows, 2, length) float32 of start and end, and the weight of each in the loss (rows, 2)."""
        edges = ops.transpose(self.among_tokens(logits, batch), (0, 2, 1))
        weights = 0.5 * batch["weight"] * batch["learned"]
        return ops.log_softmax(edges, axis=-1), ops.stack([weights, weights], axis=-1)

    # How it answers ---------------------------------------------------------------------------------------------

    @property
    def answering(self) -> dict:
        """How `best_answers` decides."""
        return {"unanswerable": self.unanswerable, "threshold": self.no_answer_threshold}

    def answer_tensors(self, features: dict) -> dict:
        rows = {name: features[name] for name in ("token_ids", "segment_ids", "role", "starts", "ends")}
        positions = tf.range(tf.shape(rows["token_ids"])[1])[tf.newaxis]
        rows["valid"] = tf.cast(positions < tf.cast(features["lengths"], tf.int32)[:, tf.newaxis], tf.int32)

        def spans_of(chunk):
            found = candidates(self.logits(chunk), chunk["role"], self.max_answer_length, self.n_best)
            for name in ("starts", "ends"):  # tokens to characters
                found[name] = tf.gather(chunk[name], found[name], batch_dims=1)
            return found

        found = in_chunks(spans_of, rows, self.n_best)
        context = features["context"]
        best = best_answers(found, features["example"], tf.size(context), **self.answering)
        start, end = (tf.where(best["silent"], 0, best[name]) for name in ("start", "end"))
        return {
            "answer": tf.strings.substr(context, start, end - start, unit="UTF8_CHAR"),
            "score": best["score"],
            "start": start,
            "end": end,
            "no_answer": best["no_answer"],
        }

    def serving_outputs(self, tensors: dict) -> dict:
        return tensors

    def read_answers(self, outputs: dict) -> list[dict]:
        names = ("answer", "score", "start", "end", "no_answer")
        rows = zip(*(outputs[name].tolist() for name in names), strict=True)
        return [dict(zip(names, (row[0].decode(), *row[1:]), strict=True)) for row in rows]

    def windows(self, questions: tf.RaggedTensor, contexts: Tokens, context_of) -> Windows:
        """Questions beside windows of their contexts; see `make_windows`."""
        return make_windows(
            questions,
            contexts,
            context_of,
            self.layout,
            max_length=self.max_length,
            max_question_length=self.max_question_length,
            stride=self.stride,
            pad=self.tokenizer.pad_id,
        )

    def window_features(self, questions: tf.RaggedTensor, contexts: Tokens, context_of) -> dict[str, tf.Tensor]:
        """What `answer_tensors` reads, but for the contexts' strings."""
        windows = self.windows(questions, contexts, context_of)
        columns = {name: getattr(windows, name) for name in ("token_ids", "segment_ids", "lengths", "example", "role")}
        return {**columns, "starts": windows.gather(contexts.starts), "ends": windows.gather(contexts.ends)}

    def features(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Questions and contexts as windows; see `window_features`."""
        distinct = {context: i for i, context in enumerate(dict.fromkeys(pairs))}
        asked, contexts = (tokens_of(self.tokenizer, part) for part in (texts, list(distinct)))
        features = self.window_features(asked.ids, contexts, [distinct[context] for context in pairs])
        return {**features, "context": np.array([context.encode() for context in pairs], object)}

    # Serving ----------------------------------------------------------------------------------------------------

    def signatures(self, tokenizer: tf.Module) -> dict[str, tuple]:
        def serving_default(question, context):
            # bytes that are not UTF-8 become replacement characters first, so that characters are counted alike
            context = tf.strings.unicode_transcode(context, "UTF-8", "UTF-8")
            spans = tokenizer.tokens_with_offsets(context)
            edges = (tf.cast(spans[name].flat_values, tf.int32) for name in ("starts", "ends"))
            contexts = Tokens(spans["token_ids"], *edges)
            questions = tokenizer.tokens_with_offsets(question)["token_ids"]
            features = self.window_features(questions, contexts, tf.range(tf.size(context, tf.int64)))
            return self.answer_tensors({**features, "context": context})

        texts = {name: tf.TensorSpec((None,), tf.string, name=name) for name in self.serving_inputs}
        return {"serving_default": (serving_default, texts)}

    def signature_requests(self, columns: dict[str, list[str]]) -> dict[str, dict[str, list]]:
        return {"serving_default": columns}

    # Data and scores --------------------------------------------------------------------------------------------

    def dataset(self, rows: str | Questions, *, on_bad: str = "raise", **batching) -> Dataset:
        """Questions as batches of windows.

        Args:
            rows: a source as `aillm_tf.data.squad.read_squad` takes it, or what it returned.
            on_bad: "raise" at a question that cannot be read, or "skip" it and count.
            **batching: batch_size (windows), tokens_per_batch, shuffle, seed, fixed_length: see `Task.batched`.

        Raises:
            ValueError: a question that cannot be read, unlabelled questions, or questions without an answer for a
                model that always answers.
        """
        questions = rows if isinstance(rows, Questions) else read_squad(rows, on_bad=on_bad)
        questions.check_answers(self.unanswerable)
        asked, contexts = (tokens_of(self.tokenizer, part) for part in (questions.questions, questions.contexts))
        targets = answer_tokens(questions, contexts)
        room = question_room(self.layout, self.max_length, self.max_question_length)
        for count, what in (
            ((asked.ids.row_lengths() > room).numpy().sum(), f"are cut to {room} tokens"),
            ((targets[:, 0] == -2).sum(), "are not learned from: no token is in their answers"),
        ):
            if count:
                logger.warning("%d of %d questions %s", count, len(questions), what)
        parts = []
        for at in range(0, len(questions), QUESTIONS_AT_ONCE):
            few = slice(at, at + QUESTIONS_AT_ONCE)
            made = self.windows(asked.ids[few], contexts, questions.context_of[few])
            windows = Windows(*(tensor.numpy() for tensor in made))
            inside = np.arange(windows.token_ids.shape[1]) < windows.lengths[:, None]
            parts.append(
                {
                    **{name: getattr(windows, name)[inside] for name in ("token_ids", "segment_ids", "role")},
                    **row_targets(windows, targets[windows.example + at]),
                    "lengths": windows.lengths,
                    "example": windows.example + at,
                    "shift": windows.first - windows.lead,
                }
            )
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        offsets = np.concatenate([[0], np.cumsum(columns.pop("lengths"))])
        example, shift = columns.pop("example"), columns.pop("shift")
        columns |= {name: Ragged(columns[name], offsets) for name in ("token_ids", "segment_ids", "role")}
        data = self.batched(columns, **batching)
        spans = np.stack([contexts.starts.numpy(), contexts.ends.numpy()], axis=-1)
        data.asked = Asked(questions, example, shift, spans)
        return data

    def evaluation(self, batch: dict):
        logits = self.logits(batch)
        loss, weight = self.terms(logits, batch)
        return {"loss": loss, "weight": weight}, candidates(logits, batch["role"], self.max_answer_length, self.n_best)

    def scores(self, sums: dict, rows: dict) -> dict[str, float]:
        return {"loss": sums["loss"] / max(sums["weight"], 1e-8)}

    def evaluate(self, x: Dataset, *, verbose="auto", return_rows: bool = False):
        """Scores all questions as the official scripts do.

        Args:
            x: a `Dataset` of `self.dataset`.
            verbose: 0 for no progress bar.
            return_rows: also give columns with one entry a question: "id", "answer", "start", "end", "score",
                "no_answer", "exact", "f1", "best" (the best span, also where no answer is likelier) and "n_best" (a
                list of (text, probability)).

        Returns:
            Metric -> value, EM ("exact") and F1 in per cent; with questions of either sort also of those with and
            without an answer, and what the best threshold would give. With `return_rows`, that and the columns.
        """
        if not hasattr(x, "asked"):
            raise TypeError("evaluate takes a Dataset as model.dataset(...) makes it")
        scores, rows = super().evaluate(x, verbose=verbose, return_rows=True)
        questions, example, shift, spans = x.asked
        for name, edge in (("starts", 0), ("ends", 1)):
            # in a row without any candidate the place is anywhere
            place = np.clip(rows[name] + shift[:, None], 0, max(len(spans) - 1, 0))
            rows[name] = spans[place, edge] if len(spans) else np.zeros_like(place)
        best = best_answers(rows, example, len(questions), **self.answering)
        best = {name: value.numpy() for name, value in best.items()}
        contexts = [questions.contexts[i] for i in questions.context_of]
        texts = [text[a:b] for text, a, b in zip(contexts, best["start"], best["end"], strict=True)]
        answers = ["" if silent else text for silent, text in zip(best["silent"], texts, strict=True)]
        kind = metrics.rules(self.scoring, self.unanswerable)
        scored = metrics.score(answers, questions.golds, kind)
        scores |= {name: value for name, value in scored.summary.items() if not name.endswith("total")}
        if self.unanswerable:
            any_threshold = metrics.score(texts, questions.golds, kind, best["no_answer"]).summary
            scores |= {name: value for name, value in any_threshold.items() if name.startswith("best_")}
        scores["examples"] = len(questions)
        if not return_rows:
            return scores
        columns = zip(contexts, best["n_best_starts"], best["n_best_ends"], best["n_best_shares"], strict=True)
        return scores, {
            "id": np.array(questions.ids, object),
            "answer": np.array(answers, object),
            "start": np.where(best["silent"], 0, best["start"]),
            "end": np.where(best["silent"], 0, best["end"]),
            "score": best["score"],
            "no_answer": best["no_answer"],
            "exact": scored.exact,
            "f1": scored.f1,
            "best": np.array(texts, object),
            "n_best": [
                [(text[a:b], float(p)) for a, b, p in zip(*column, strict=True) if p > 0] for text, *column in columns
            ],
        }

    def tallies(self, rows: dict, x: Dataset) -> list[Tally]:
        return [metrics.answer_tally(rows["exact"], rows["f1"], x.asked.questions.golds, rows["id"])]

    def tune(self, data: Dataset, verbose="auto") -> float:
        """Chooses the threshold on the probability of no answer that gives the best F1.

        Args:
            data: questions that were not trained on.
            verbose: 0 for no progress bar.

        Returns:
            The threshold, which `answer`, exports and the saved task use from now on.
        """
        if not self.unanswerable:
            raise ValueError("a model that always answers (unanswerable=False) has no threshold to tune")
        self.no_answer_threshold = self.evaluate(data, verbose=verbose)["best_f1_thresh"]
        self._answer = None
        return self.no_answer_threshold


class Asked(NamedTuple):
    """What a Dataset's windows are of.

    Args:
        questions: with their contexts and answers.
        example: (windows,) int64, the question of each.
        shift: (windows,) int64, to be added to a place in a row to get the token, counted over all contexts.
        spans: (tokens of all contexts, 2), first character of each and the one after its last.
    """

    questions: Questions
    example: np.ndarray
    shift: np.ndarray
    spans: np.ndarray
