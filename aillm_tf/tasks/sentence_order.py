"""NextSentence and SentenceOrder: does the second part of a row belong after the first?

Both cut a row at the end of a sentence, at another one every epoch. `NextSentence` (BERT) then puts, half of the time,
a piece of another text in the place of the second part; `SentenceOrder` (ALBERT) exchanges the two. They are
classifiers of pairs, so what they learn to read, [CLS] and the pooler included, is what a `TextClassifier` begins with.

References:
    Devlin et al., "BERT", 2019, section 3.1, https://arxiv.org/abs/1810.04805
    Lan et al., "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations", 2020, section 3.1,
    https://arxiv.org/abs/1909.11942
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from aillm_tf.data.noise_denoising import sentence_numbers
from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.rows import around, sentence_ends
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.tasks.corpus import sentence_rows, sentence_stops

logger = logging.getLogger("aillm_tf")

TRIES = 64  # places drawn, of which the one whose sentences fit best is taken


class SentencePairs(TextClassifier):
    """What both objectives share.

    Args:
        config, tokenizer: of the backbone; the tokenizer puts special tokens around and between a pair of texts.
        **options: of `TextClassifier`, without `labels`, `pair`, `multi_label` and `class_weights`.
    """

    label_pair: tuple[str, str]
    huggingface_head = "classification"

    def __init__(self, config, tokenizer, **options):
        super().__init__(config, tokenizer, labels=self.label_pair, pair=True, **options)

    def options(self) -> dict:
        fixed = ("labels", "pair", "multi_label", "class_weights")
        return {name: value for name, value in super().options().items() if name not in fixed}

    def dataset(
        self,
        rows: str | Iterable[str],
        *,
        text: str = "text",
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        **batching,
    ) -> Dataset:
        """Texts as batches of pairs; a text longer than `max_length` becomes several rows.

        Rows are whole sentences, so that no part ends otherwise than the other. A row of one sentence makes no pair and
        is left out; the log says how many were.

        Args:
            rows: a source with a text column (see `aillm_tf.data.sources`), the texts themselves, or a folder that
                `aillm prepare` wrote, whose documents are read into memory.
            text, on_bad, encoding_errors: see `aillm_tf.data.rows.texts_of`.
            **batching: batch_size, tokens_per_batch, shuffle, seed, fixed_length: see `Task.batched`.

        Raises:
            ValueError: a bad row; names the file and line; or no row makes a pair.
        """
        tokenizer = self.tokenizer
        frame = pair_frame(tokenizer)
        reading = {"text": text, "on_bad": on_bad, "encoding_errors": encoding_errors}
        room = self.max_length - sum(map(len, frame))
        ends = sentence_ends(tokenizer, self.config.vocab_size)
        bodies, documents = _with_cuts(*sentence_rows(tokenizer, rows, room, ends, **reading), ends)
        self.check(documents)
        # the special tokens of a pair stand at the end of the row, so that its length is that of the pair
        special = np.concatenate(frame).astype(np.int32)
        counts = np.diff(bodies.offsets)
        values = np.insert(bodies.values, np.repeat(bodies.offsets[1:], len(special)), np.tile(special, len(counts)))
        columns = {
            "token_ids": Ragged(values, bodies.offsets + len(special) * np.arange(len(counts) + 1)),
            "document": documents.astype(np.int32),
        }
        crc = zlib.crc32(bodies.values.tobytes())
        return self.batched(
            columns,
            noise=self.noising(bodies, documents, frame, ends),
            noise_name=repr((type(self).__name__, crc, tokenizer.fingerprint)),
            **batching,
        )

    def check(self, documents: np.ndarray) -> None:
        """Raises ValueError where these documents cannot teach the objective."""

    def noising(self, bodies: Ragged, documents: np.ndarray, frame: tuple, ends: np.ndarray) -> Callable:
        """The noise as `Dataset` takes it: a row to a pair and its label."""
        pair_of = self.pairing(bodies, documents, ends)
        ends = tf.constant(ends)
        before, between, after = (tf.constant(ids, tf.int32) for ids in frame)
        special = sum(map(len, frame))
        second_segment = int(self.tokenizer.encode(["a"], ["a"]).segment_ids.max())  # RoBERTa: 0

        def noise(example: dict, seed, length) -> dict:
            cut_seed, label_seed, other_seed = tf.unstack(tf.random.split(seed, 3, alg="philox"))
            count = tf.reduce_sum(example["valid"]) - special
            body = example["token_ids"][: tf.maximum(count, 0)]
            cut = random_cut(body, ends, cut_seed)
            label = tf.random.stateless_uniform([], label_seed, 0, 2, tf.int32, alg="philox")
            first, second, label = pair_of(body[:cut], body[cut:], example["document"], label, other_seed)
            parts = [before, first, between, second, after]
            ids = tf.concat(parts, 0)
            segments = second_segment * tf.repeat([0, 0, 0, 1, 1], [tf.size(part) for part in parts])
            room = [[0, length - tf.size(ids)]]
            made = {
                "token_ids": tf.pad(ids, room, constant_values=self.tokenizer.pad_id),
                "segment_ids": tf.pad(segments, room),
                "valid": tf.pad(tf.ones_like(ids), room),
            }
            if isinstance(length, int):
                made = {name: tf.ensure_shape(value, [length]) for name, value in made.items()}
            return {**made, "label": label}

        return noise

    def pairing(self, bodies: Ragged, documents: np.ndarray, ends: np.ndarray) -> Callable:
        """A function of (first, second, document, label, seed) that returns both parts and the label of a row.

        Its arguments are the parts as they stand in the text, (tokens,) int32 each; the number of their document, int32
        scalar; 0 or 1, drawn; and a (2,) int32 seed.

        Args:
            bodies: all rows, without special tokens.
            documents: (rows,) of which document each is.
            ends: (vocabulary,) bool, tokens that end a sentence.
        """
        raise NotImplementedError


class SentenceOrder(SentencePairs):
    """ALBERT's second objective: are the two parts in their order, or exchanged?

    Example:
        >>> model = SentenceOrder(config, tokenizer)  # doctest: +SKIP
        >>> model.answer([("He came in.", "Then he sat down.")])  # doctest: +SKIP
        [{"label": "in_order", "score": 0.9, ...}]
    """

    label_pair = ("in_order", "exchanged")

    def pairing(self, bodies: Ragged, documents: np.ndarray, ends: np.ndarray) -> Callable:
        def pair_of(first, second, document, label, seed):
            first, second = tf.cond(label == 1, lambda: (second, first), lambda: (first, second))
            return first, second, label

        return pair_of


class NextSentence(SentencePairs):
    """BERT's second objective: does the second part follow the first, or is it of another text?

    What stands in its place are whole sentences of another document: of many places drawn, those that come nearest to
    the length of what was there, so that neither the end of a row nor its padding tells.

    Example:
        >>> model = NextSentence(config, tokenizer)  # doctest: +SKIP
    """

    label_pair = ("next", "other")

    def check(self, documents: np.ndarray) -> None:
        if len(np.unique(documents)) < 2:
            raise ValueError("all rows are of one document: the next sentence needs others to draw from")

    def pairing(self, bodies: Ragged, documents: np.ndarray, ends: np.ndarray) -> Callable:
        # where sentences begin and end, in all rows end to end
        stops = sentence_stops(bodies.values, bodies.offsets, ends)
        begins = np.concatenate([[0], stops[:-1]])
        row = np.searchsorted(bodies.offsets, begins, "right") - 1
        of, last = documents[row].astype(np.int32), bodies.offsets[row + 1]
        with tf.device("CPU:0"):
            values, stops, begins, of, last = (tf.constant(x) for x in (bodies.values, stops, begins, of, last))
            stop_before = tf.concat([[0], stops], 0)

        def pair_of(first, second, document, label, seed):
            draws = tf.random.stateless_uniform([TRIES], seed, 0, tf.size(begins), tf.int32, alg="philox")
            start = tf.gather(begins, draws)
            most = tf.minimum(start + tf.size(second, tf.int64), tf.gather(last, draws))
            count = tf.gather(stop_before, tf.searchsorted(stops, most, side="right")) - start
            count = tf.where(tf.gather(of, draws) != document, tf.maximum(count, 0), 0)
            best = tf.argmax(count)
            # where none of the draws will do, which is rare, the row keeps its own second part
            label *= tf.cast(count[best] > 0, tf.int32)
            other = tf.slice(values, start[best : best + 1], count[best : best + 1])
            return first, tf.cond(label == 1, lambda: other, lambda: second), label

        return pair_of


def pair_frame(tokenizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ids that the tokenizer puts before, between and after a pair of texts."""
    before, after = around(tokenizer)
    pair = tokenizer.encode([""], [""]).ids
    return np.array(before), pair[len(before) : len(pair) - len(after)], np.array(after)


def random_cut(tokens: tf.Tensor, ends: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A place where a sentence begins within the row, each equally likely; 0 where there is none."""
    number = sentence_numbers(tokens, ends)
    sentences = tf.reduce_max(tf.concat([number, [0]], 0))
    which = tf.random.stateless_uniform([], seed, 0, tf.maximum(sentences, 1), tf.int32, alg="philox")
    return tf.reduce_sum(tf.cast(number <= which, tf.int32)) * tf.cast(sentences > 0, tf.int32)


def _with_cuts(bodies: Ragged, documents: np.ndarray, ends: np.ndarray) -> tuple[Ragged, np.ndarray]:
    """The rows of two sentences or more."""
    stops = sentence_stops(bodies.values, bodies.offsets, ends)
    sentences = np.diff(np.searchsorted(stops, bodies.offsets, "right"))
    kept, counts = sentences > 1, np.diff(bodies.offsets)
    if not kept.any():
        raise ValueError("no row has two whole sentences (. ! ? 。 ！ ？ … end one): there is no pair to make")
    if not kept.all():
        logger.warning("%d of %d rows are left out: they are one sentence", (~kept).sum(), len(kept))
    values = bodies.values[np.repeat(kept, counts)]
    return Ragged(values, np.concatenate([[0], np.cumsum(counts[kept])])), documents[kept]
