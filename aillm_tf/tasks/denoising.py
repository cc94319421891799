"""Denoising: an encoder-decoder that writes what noise took from a text: BART's five noises and T5's span corruption.

Noise is drawn anew every epoch in the input pipeline, from (seed, epoch, row) only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import tensorflow as tf

from aillm_tf.data import noise_denoising as noises
from aillm_tf.data.pipeline import Dataset
from aillm_tf.data.rows import around, sentence_ends
from aillm_tf.tasks.base import Task
from aillm_tf.tasks.corpus import corpus
from aillm_tf.tasks.sequence_to_sequence import SequenceToSequence
from aillm_tf.text.sentinels import sentinel_ids

# share of the tokens that a noise hides, as its paper has it
RATES = {
    "span_corruption": 0.15,
    "token_masking": 0.15,
    "token_deletion": 0.15,
    "text_infilling": 0.3,
    "sentence_permutation": None,
    "document_rotation": None,
    "prefix": None,
}
SHORTEST = 2  # tokens of a text, so that there is something to hide and something to keep
SPLITS = ("span_corruption", "prefix")  # noises whose target is what is missing, not the whole text
Noise = Literal[
    "span_corruption",
    "token_masking",
    "token_deletion",
    "text_infilling",
    "sentence_permutation",
    "document_rotation",
    "prefix",
]


class Denoising(SequenceToSequence):
    """BART's and T5's pretraining objectives.

    Args:
        config, tokenizer: of an encoder-decoder.
        noise: one or several, applied in this order. BART's: "token_masking", "token_deletion", "text_infilling" (spans
            of Poisson length become one mask), "sentence_permutation", "document_rotation"; its own choice is
            ("sentence_permutation", "text_infilling"), and the target is the whole text. T5's: "span_corruption"; the
            target is what the sentinels stand for. "prefix": the target is how the text goes on (prefix language
            modelling). The last two come last or alone.
        rate: share of the tokens that are hidden; None: 0.15, and 0.3 for text_infilling. BART's paper states neither
            for masking and deletion.
        span_length: mean length of a span, in tokens, of text_infilling and span_corruption.
        **options: of `SequenceToSequence`; `max_target_length` is that of `max_length` if not given.

    Raises:
        ValueError: no such noise, or the tokenizer lacks the mask token or the sentinels that it needs.

    Example:
        >>> model = Denoising(config, tokenizer, noise=("sentence_permutation", "text_infilling"))  # doctest: +SKIP
        >>> model.fill(["The ___ sat on the mat."])  # doctest: +SKIP
        [{"text": "The cat sat on the mat.", "score": -0.2}]
    """

    def __init__(
        self,
        config,
        tokenizer,
        *,
        noise: Noise | Sequence[Noise] = ("sentence_permutation", "text_infilling"),
        rate: float | None = None,
        span_length: float = noises.SPAN_MEAN,
        max_length: int = 128,
        max_target_length: int | None = None,
        **options,
    ):
        noise = (noise,) if isinstance(noise, str) else tuple(noise)
        unknown = [name for name in noise if name not in RATES]
        if unknown or not noise:
            raise ValueError(f"noise {unknown or noise}: choose from {', '.join(RATES)}")
        if any(name in SPLITS for name in noise[:-1]):
            raise ValueError(f"{' and '.join(SPLITS)} say what the target is, so they come last: not {noise}")
        if rate is not None and not 0.0 < rate < 1.0:
            raise ValueError(f"rate is the share of tokens to hide, in (0, 1), not {rate}")
        if span_length < 1.0:
            raise ValueError(f"span_length is the mean number of tokens of a span, at least 1, not {span_length}")
        if {"token_masking", "text_infilling"} & set(noise) and tokenizer.mask_id is None:
            raise ValueError(f"the tokenizer has no mask token: {noise} needs one, see Tokenizer.with_special_tokens")
        self.sentinels = sentinel_ids(tokenizer)
        if "span_corruption" in noise and len(self.sentinels) < 2:
            raise ValueError(
                "the tokenizer has no <extra_id_0>, <extra_id_1>, ...: span_corruption needs them, see "
                "aillm_tf.text.sentinels.with_sentinels, or train one with `aillm prepare --sentinels 100`"
            )
        self.noise, self.rate, self.span_length = noise, rate, span_length
        super().__init__(
            config, tokenizer, max_length=max_length, max_target_length=max_target_length or max_length, **options
        )

    def options(self) -> dict:
        return {**super().options(), "noise": self.noise, "rate": self.rate, "span_length": self.span_length}

    def dataset(
        self,
        rows: str | Iterable[str],
        *,
        text: str = "text",
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        **batching,
    ) -> Dataset:
        """Texts as batches of noised rows; a text longer than `max_length` becomes several rows.

        A row of a prepared corpus that holds several documents is one text here, as in T5: attention passes from one to
        the next.

        Args:
            rows: a source with a text column (see `aillm_tf.data.sources`), the texts themselves, or a folder that
                `aillm prepare` wrote.
            text, on_bad, encoding_errors: see `aillm_tf.data.rows.texts_of`.
            **batching: batch_size, tokens_per_batch (of the text), shuffle, seed, fixed_length: see `Task.batched`.

        Raises:
            ValueError: a bad row; names the file and line.
        """
        name = repr(("denoising", self.noise, self.rate, self.span_length, self.start_id, self.tokenizer.fingerprint))
        reading = {"text": text, "on_bad": on_bad, "encoding_errors": encoding_errors, "shortest": SHORTEST}
        return corpus(
            self, rows, reading, noise=self.noising(), noise_name=name, keep=("token_ids", "valid"), **batching
        )

    def batched(self, columns: dict, **options) -> Dataset:
        return Task.batched(self, columns, **options)  # the target is made of the one side that there is

    def noising(self) -> Callable:
        """The noise as `Dataset` takes it: a row of tokens to source and target."""
        tokenizer = self.tokenizer
        before, after = (tf.constant(ids, tf.int32) for ids in around(tokenizer))
        steps = [_steps(self)[name] for name in self.noise]

        def noise(example: dict, seed, length) -> dict:
            # a row that only fills the batch has no tokens; its padding is noised in their place
            count = tf.maximum(tf.reduce_sum(example["valid"]), SHORTEST)
            ids = example["token_ids"][:count]
            # a piece of a long document may stand without its special tokens
            head = before[: tf.size(before) * _equal(ids[: tf.size(before)], before)]
            tail = after[: tf.size(after) * _equal(ids[count - tf.size(after) :], after)]
            body = ids[tf.size(head) : count - tf.size(tail)]
            source, target = body, body
            for step, key in zip(steps, tf.unstack(tf.random.split(seed, len(steps), alg="philox")), strict=True):
                made = step(source, key)
                source, target = made if isinstance(made, tuple) else (made, target)
            source, target = (tf.concat([head, part, tail], 0) for part in (source, target))
            given = tf.concat([[self.start_id], target[:-1]], 0)[: tf.size(target)]
            widths = self.widths(length)
            one = tf.ones_like
            return {
                "token_ids": _filled(source, widths[0], tokenizer.pad_id),
                "valid": _filled(one(source), widths[0], 0),
                "target_ids": _filled(given, widths[1], tokenizer.pad_id),
                "targets": _filled(target, widths[1], tokenizer.pad_id),
                "target_weights": _filled(one(target, tf.float32), widths[1], 0.0),
            }

        return noise

    def widths(self, length):
        """Places that source and target of a batch have, where its texts have `length`."""
        if self.noise[-1] != "span_corruption":
            return length, length
        special = sum(map(len, around(self.tokenizer)))
        rate = self.rate or RATES["span_corruption"]
        return noises.corruption_widths(length, rate, self.span_length, special)

    def fill(self, texts: Sequence[str], *, gap: str = "___", **options) -> list[dict]:
        """Fill the gaps of texts, with what the model learned to do.

        Args:
            texts: with `gap` wherever something is missing.
            gap: what marks a gap.
            **options: as of `answer`.

        Returns:
            A dict a text: "text", the whole, and "score". With span_corruption also "gaps", what was put into each.

        Raises:
            ValueError: this model's noise leaves no gaps, or a text has more of them than there are sentinels.
        """
        if "span_corruption" in self.noise:
            return [self._filled_spans(text.split(gap), options) for text in texts]
        if not {"token_masking", "text_infilling"} & set(self.noise):
            raise ValueError(f"a model that learned from {', '.join(self.noise)} knows no gaps")
        mask = self.tokenizer.special_tokens["mask"]
        return self.answer([text.replace(gap, mask) for text in texts], **options)

    def _filled_spans(self, pieces: list[str], options: dict) -> dict:
        if len(pieces) > len(self.sentinels):
            raise ValueError(f"{len(pieces) - 1} gaps, but {len(self.sentinels)} sentinels: one is needed at the end")
        before, after = around(self.tokenizer)
        ids = list(before)
        for number, piece in enumerate(pieces):
            encoded = self.tokenizer.encode([piece]).ids.tolist()
            ids += [self.sentinels[number - 1]] * (number > 0) + encoded[len(before) : len(encoded) - len(after)]
        chosen = self.generation_options(**options)
        source = {"token_ids": np.array([ids + after], np.int32)}
        prompts, lengths, memory = self.prompts({name: tf.constant(x) for name, x in source.items()}, chosen)
        with self.inference_precision():
            found = self.generator.generate(
                [prompts.numpy()[0, : lengths.numpy()[0]]],
                chosen,
                source={name: tensor.numpy() for name, tensor in memory.items()},
            )
        said: dict[int, list[int]] = {}
        at: list[int] = []
        for token in found.tokens[0].tolist():
            if token in self.sentinels:
                at = said.setdefault(token, [])
            elif token not in chosen.stop_ids:
                at.append(token)
        gaps = [self.tokenizer.decode(said.get(index, [])).strip() for index in self.sentinels[: len(pieces) - 1]]
        text = "".join(piece + gap for piece, gap in zip(pieces, [*gaps, ""], strict=True))
        return {"text": text, "gaps": gaps, "score": float(found.scores[0])}


def _steps(task: Denoising) -> dict[str, Callable]:
    """name -> function of (tokens, seed)."""
    mask, length = task.tokenizer.mask_id, task.span_length
    rates = {name: task.rate or rate for name, rate in RATES.items()}
    ends = tf.constant(sentence_ends(task.tokenizer, task.config.vocab_size))
    sentinels = tf.constant(task.sentinels, tf.int32)
    return {
        "token_masking": lambda t, s: noises.mask(t, s, mask_id=mask, rate=rates["token_masking"]),
        "token_deletion": lambda t, s: noises.delete(t, s, rate=rates["token_deletion"]),
        "text_infilling": lambda t, s: noises.infill(t, s, mask_id=mask, rate=rates["text_infilling"], mean=length),
        "sentence_permutation": lambda t, s: noises.permute_sentences(t, s, ends=ends),
        "document_rotation": noises.rotate,
        "span_corruption": lambda t, s: noises.corrupt_spans(
            t, s, sentinels=sentinels, rate=rates["span_corruption"], mean=length
        ),
        "prefix": noises.split_prefix,
    }


def _equal(one: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """1 where all are equal, else 0: int32."""
    return tf.cast(tf.reduce_all(one == other), tf.int32)


def _filled(values: tf.Tensor, width, with_value) -> tf.Tensor:
    """(width,), statically where it is known."""
    padded = tf.pad(values, [[0, width - tf.size(values)]], constant_values=with_value)
    return tf.ensure_shape(padded, [width]) if isinstance(width, int) else padded
