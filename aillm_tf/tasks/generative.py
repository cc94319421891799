"""GenerativeTask: what tasks that write text share. They answer with text, stream it, and export strings to strings.

A subclass gives, besides what `Task` asks for:
  - `backbone_class`: `Decoder` or `EncoderDecoder`; a decoder goes on from the text, an encoder-decoder reads it;
  - `prefix`: put before every text ("" unless it sets another);
  - `target_tokenizer`: of what is written, where that is not `tokenizer`;
  - `start_id`: of an encoder-decoder, the token that its decoder begins with.
Where that is not enough it overrides `features` (texts to ids on the host), `graph_tokenizer` (the same as ops) and
`prompts` (ids to what the decoder goes on from; in TensorFlow, for both).

A decoder reads a text to its end, further than `max_length`, which is that of training rows: up to the positions that
the checkpoint has. Of a longer text it reads the end, see `newest`.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from aillm_tf.data.rows import around
from aillm_tf.generation import beam, loop
from aillm_tf.generation.generator import STRATEGIES, Generated, Generator
from aillm_tf.generation.options import GenerationOptions
from aillm_tf.generation.stream import first_stop, stream_text, tokens_until_stop
from aillm_tf.models.encoder_decoder import EncoderDecoder
from aillm_tf.tasks.base import Task
from aillm_tf.tasks.generative_graph import GraphTexts, filled_rows, open_rows
from aillm_tf.training.strategy import on_jax

STEPS = 16  # between two looks for stop strings

logger = logging.getLogger("aillm_tf")


class GenerativeTask(Task):
    """A task that writes text.

    Args:
        config, tokenizer: of the backbone.
        generation: how to decode: options, or settings as generation_config.json has them; `from_pretrained` takes
            the checkpoint's. `answer` and `stream` take single options that differ.
        **options: of `Task`.
    """

    prefix = ""
    start_id: int | None = None

    def __init__(
        self, config, tokenizer, *, generation: GenerationOptions | Mapping[str, Any] | None = None, **options
    ):
        if not isinstance(generation, GenerationOptions):
            generation = _options(generation or {})
        self.generation, self._generator = generation, None
        if not hasattr(self, "target_tokenizer"):
            self.target_tokenizer = tokenizer
        super().__init__(config, tokenizer, **options)

    def options(self) -> dict:
        return {**super().options(), "generation": self.generation.changed()}

    def generation_options(self, **changes) -> GenerationOptions:
        """The task's options with some changed, and with the tokens that this task begins and ends texts with.

        A temperature that is given asks for a draw, also of a task that answers by a search.
        """
        if changes.get("temperature") and "num_beams" not in changes:
            changes = {"num_beams": 1, "num_beam_groups": 1, "penalty_alpha": 0.0, **changes}
        options = self.generation.replace(**changes)
        if options.stop_ids is None:
            tokenizer = self.target_tokenizer
            ends = (tokenizer.eos_id, tokenizer.sep_id if tokenizer.eos_id is None else None)
            options = options.replace(stop_ids=tuple(index for index in ends if index is not None))
        if self.start_id is not None and options.decoder_start_token_id is None:
            options = options.replace(decoder_start_token_id=self.start_id)
        return options

    # What it goes on from -------------------------------------------------------------------------------------

    @property
    def read_length(self) -> int | None:
        """Tokens of a text that are read, what the tokenizer puts around it included; None: all."""
        return self.max_length if isinstance(self.backbone, EncoderDecoder) else None

    def features(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """See `Task.features`; for a decoder also "lengths" (texts,) int32: padding may be a token that texts have."""
        texts = [self.prefix + text for text in texts] if self.prefix else texts
        if isinstance(self.backbone, EncoderDecoder):
            return super().features(texts, pairs)
        rows = open_rows(self.tokenizer, texts, self.read_length)
        ids = filled_rows(rows, self.tokenizer.pad_id)
        lengths = np.array([len(row) for row in rows], "int32")
        return {"token_ids": ids, "segment_ids": np.zeros_like(ids), "lengths": lengths}

    def prompts(self, features: dict, options: GenerationOptions) -> tuple[tf.Tensor, tf.Tensor, dict | None]:
        """What the decoder goes on from.

        Args:
            features: "token_ids" (rows, places) int32, and "lengths" (rows,), as `features` and `graph_tokenizer` give
                them; without lengths, of callers that tokenize themselves, padding at the end does not count.
            options: how it is decoded.

        Returns:
            Token ids (rows, places), how many of each row count (rows,), and the source of an encoder or None.
        """
        ids = features["token_ids"]
        if isinstance(self.backbone, EncoderDecoder):
            if options.decoder_start_token_id is None:
                raise ValueError("the decoder has no token to begin with: set start_id or decoder_start_token_id")
            ones = tf.ones(tf.shape(ids)[:1], tf.int32)
            valid = tf.cast(ids != self.tokenizer.pad_id, tf.int32)
            return ones[:, None] * options.decoder_start_token_id, ones, {"token_ids": ids, "valid": valid}
        ids = tf.pad(ids, [[0, 0], [0, tf.maximum(1 - tf.shape(ids)[1], 0)]], constant_values=self.tokenizer.pad_id)
        places = tf.range(tf.shape(ids)[1])[None]
        lengths = features.get("lengths")
        if lengths is None:
            lengths = tf.reduce_max(tf.where(ids != self.tokenizer.pad_id, places + 1, 0), axis=1)
        # nothing at all goes on from the token that begins texts
        ids = tf.where((lengths[:, None] == 0) & (places == 0), _first(self.tokenizer), ids)
        return ids, tf.maximum(lengths, 1), None

    @property
    def longest_prompt(self) -> int:
        """Tokens that a decoder goes on from."""
        return max(self.config.max_length, self.max_length)

    def newest(self, ids: tf.Tensor, lengths: tf.Tensor, new_tokens) -> tuple[tf.Tensor, tf.Tensor]:
        """Prompts, of which those longer than `longest_prompt` keep their first special tokens and their end.

        Args:
            ids, lengths: what `prompts` gave for a decoder.
            new_tokens: for so many there is room after a prompt that was cut, but half of the places are the prompt's.
        """
        longest = self.longest_prompt
        kept = tf.where(lengths > longest, tf.maximum(longest - new_tokens, (longest + 1) // 2), lengths)
        places = tf.range(tf.reduce_max(kept))[None]
        places = tf.where(places < len(around(self.tokenizer)[0]), places, places + (lengths - kept)[:, None])
        return tf.gather(ids, tf.minimum(places, tf.shape(ids)[1] - 1), axis=1, batch_dims=1), kept

    # Answers --------------------------------------------------------------------------------------------------

    @property
    def generator(self) -> Generator:
        """What decodes, with the graphs made so far.

        Raises:
            RuntimeError: the backend of Keras is JAX.
        """
        if on_jax():
            raise RuntimeError(
                "text is written by TensorFlow's graphs, and KERAS_BACKEND is jax: save the model (a recipe has, in "
                "RUN/model), then run KERAS_BACKEND=tensorflow aillm generate RUN; a recipe that scores what it writes "
                "goes on to its scores when the same command is run with KERAS_BACKEND=tensorflow"
            )
        if self._generator is None:
            self._generator = Generator(self.backbone)
        return self._generator

    def use_draft(self, draft: GenerativeTask, guesses: int = 4) -> None:
        """From here on let a small model guess tokens, of which this one checks several at once; texts stay its own.

        Args:
            draft: a decoder with the same tokenizer, as this one is.
            guesses: tokens that it guesses at once.

        Raises:
            ValueError: an encoder-decoder, another tokenizer or vocabulary, or a number of guesses that cannot be.

        Reference:
            Leviathan et al. 2023, arXiv:2211.17192.
        """
        if self.config.decoder_layers or draft.config.decoder_layers:
            raise ValueError("a draft is a decoder that guesses for a decoder, and one of the two has an encoder")
        if draft.tokenizer.fingerprint != self.tokenizer.fingerprint:
            raise ValueError("the draft has another tokenizer than the model, whose tokens it is to guess")
        self._generator = Generator(self.backbone, draft=draft.backbone, guesses=guesses)

    def answer(self, texts: Sequence[str], batch_size: int = 32, **options) -> list[dict]:
        """Write a text for every text.

        Args:
            texts: what to go on from, or to read.
            batch_size: texts decoded at once.
            **options: of `GenerationOptions`, in place of the task's own.

        Returns:
            A dict a text: "text", and "score", the mean log-probability of its tokens (see `length_penalty`). With
            `num_return_sequences` above 1, "alternatives" has dicts of the other texts.
        """
        if isinstance(texts, str):
            raise TypeError("answer takes a list of strings, not one string")
        self.check_texts(texts)
        chosen = self.generation_options(**options)
        answers: list = [None] * len(texts)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found = self._texts(self.generate([texts[i] for i in rows], chosen), chosen)
            each = chosen.num_return_sequences
            for place, row in enumerate(rows):
                first, *others = found[place * each : (place + 1) * each]
                answers[row] = {**first, "alternatives": others} if others else first
        return answers

    def check_texts(self, texts: Sequence) -> None:
        """Raises TypeError where one of these is not what `answer` takes."""
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"this task takes a list of strings: answer([text, ...]); {text!r} is not one")

    def generate(self, texts: Sequence[str], options: GenerationOptions | None = None) -> Generated:
        """The new tokens of texts with their log-probabilities, `num_return_sequences` rows for each text.

        Args:
            texts: what to go on from, or to read.
            options: how; the task's own by default.
        """
        options = self.generation_options() if options is None else options
        prompts, source = self.host_prompts(texts, options)
        generator = self.generator
        with self.inference_precision():
            if not options.stop_strings or options.strategy == "beam":
                return self._cut(generator.generate(prompts, options, source=source), options)
            state, rows = generator.start(prompts, options, source=source)
            seen = np.zeros(rows, int)
            while True:
                found = generator.read(state, rows, options)
                lengths = [self._until_stop(ids, options, n) for ids, n in zip(found.tokens, seen, strict=True)]
                ended = np.array([length is not None for length in lengths])
                ended = np.concatenate([ended, np.ones(state.done.shape[0] - rows, bool)])
                state = state._replace(done=state.done | ended)
                if bool(tf.reduce_all(state.done)):
                    return self._cut(found, options)
                seen = np.array([len(ids) for ids in found.tokens])
                state = generator.advance(state, options, STEPS)

    def stream(self, text: str, **options) -> Iterator[str]:
        """Write a text piece by piece, in whole characters.

        Args:
            text: what to go on from, or to read.
            **options: of `GenerationOptions`, in place of the task's own; beam search cannot be streamed.

        Yields:
            Pieces that put together are the "text" that `answer` gives.
        """
        chosen = self.generation_options(**options, num_return_sequences=1)
        prompts, source = self.host_prompts([text], chosen)
        tokens = self.generator.stream(prompts, chosen, source=source)

        def ids():
            while True:
                with self.inference_precision():  # not while the caller has the word
                    token = next(tokens, None)
                if token is None:
                    return
                yield int(token[0])

        yield from stream_text(ids(), self.target_tokenizer, chosen.stop_ids, chosen.stop_strings)

    def host_prompts(self, texts: Sequence, options: GenerationOptions) -> tuple[list[np.ndarray], dict | None]:
        """What a `Generator` goes on from: the prompt of every text, and the source of an encoder or None."""
        features = {name: tf.constant(array) for name, array in self.features(texts).items()}
        ids, lengths, source = self.prompts(features, options)
        if source is None:
            cut = int(tf.reduce_sum(tf.cast(lengths > self.longest_prompt, tf.int32)))
            if cut:
                logger.warning(
                    "%d of %d prompts are longer than the model's %d tokens: they are gone on from their ends alone",
                    cut,
                    len(texts),
                    self.longest_prompt,
                )
            guesses = self.generator.guesses if self.generator.draft is not None else 0
            ids, lengths = self.newest(ids, lengths, options.max_new_tokens + guesses)
        prompts = loop.trimmed(ids.numpy(), lengths.numpy())
        return prompts, None if source is None else {name: tensor.numpy() for name, tensor in source.items()}

    def _until_stop(self, ids: np.ndarray, options: GenerationOptions, seen: int = 0) -> int | None:
        return tokens_until_stop(ids, self.target_tokenizer.decode, options.stop_strings, max(seen - 1, 0))

    def _cut(self, found: Generated, options: GenerationOptions) -> Generated:
        """Texts that have a stop string, without the tokens after it."""
        if not options.stop_strings:
            return found
        counts = [self._until_stop(ids, options) for ids in found.tokens]
        log_probs = [row[:count] for row, count in zip(found.log_probs, counts, strict=True)]
        sums = [row.sum() / max(len(row), 1) ** options.length_penalty for row in log_probs]
        cut = [count is not None for count in counts]
        tokens = [row[:count] for row, count in zip(found.tokens, counts, strict=True)]
        return Generated(tokens, log_probs, np.where(cut, np.array(sums, np.float32), found.scores))

    def _texts(self, found: Generated, options: GenerationOptions) -> list[dict]:
        answers = []
        for ids, score in zip(found.tokens, found.scores, strict=True):
            text = self.target_tokenizer.decode(ids[:-1] if len(ids) and ids[-1] in options.stop_ids else ids)
            answers.append({"text": text[: first_stop(text, options.stop_strings)], "score": float(score)})
        return answers

    # Serving --------------------------------------------------------------------------------------------------

    def graph_tokenizer(self) -> tf.Module:
        return GraphTexts(self)

    def answer_tensors(self, features: dict, numbers: Mapping[str, tf.Tensor] | None = None) -> dict:
        """New tokens as tensors: "token_ids" (rows, tokens) filled up with padding, "lengths" and "score" (rows,)."""
        options = self.generation_options()
        numbers = loop.numbers_of(options) if numbers is None else numbers
        prompt, lengths, source = self.prompts(features, options)
        budget = numbers["max_new_tokens"]
        if source is None:
            prompt, lengths = self.newest(prompt, lengths, budget)
        limit = loop.position_limit(self.backbone)
        capacity = tf.shape(prompt)[1] + budget
        capacity = capacity if limit is None else tf.minimum(capacity, limit)

        def decoded(options: GenerationOptions):
            start, step = STRATEGIES[options.strategy]
            state = start(self.backbone, prompt, lengths, source, capacity, budget, options, numbers)
            state = loop.advance(lambda state: step(self.backbone, state, options, numbers), state, budget)
            if options.strategy == "beam":
                tokens, counts, _, scores = beam.best(state, 1)
            else:
                tokens, counts = loop.new_tokens(state, budget, 0)
                scores = state.score / tf.cast(counts, tf.float32) ** numbers["length_penalty"]
            inside = tf.range(budget)[None] < counts[:, None]
            return tf.where(inside, tokens, self.target_tokenizer.pad_id or 0), counts, scores

        if "num_beams" in numbers:
            drawn = dataclasses.replace(options, num_beams=1, num_beam_groups=1, temperature=0.5, top_p=0.5)
            searched = dataclasses.replace(options, num_beams=2, num_beam_groups=1, temperature=0.0)
            found = tf.cond(numbers["num_beams"] > 1, lambda: decoded(searched), lambda: decoded(drawn))
        else:
            found = decoded(options)
        return dict(zip(("token_ids", "lengths", "score"), found, strict=True))

    def signatures(self, tokenizer: tf.Module) -> dict[str, tuple]:
        """ "serving_default" and "tokens" with the task's own options, and "options", which takes some as scalars."""
        options = self.generation_options()
        if options.num_return_sequences > 1 or options.stop_strings:
            raise ValueError(
                "an export gives one text and stops at tokens: set num_return_sequences 1, no stop_strings"
            )
        text = {"text": tf.TensorSpec((None,), tf.string, name="text")}
        ids = {name: tf.TensorSpec((None, None), tf.int32, name=name) for name in ("token_ids", "segment_ids")}
        scalars = {name: tf.TensorSpec((), dtype, name=name) for name, dtype in SCALARS.items()}

        def texts(found: dict) -> dict:
            return {"text": tokenizer.decode(self.without_stop(found)), "score": found["score"]}

        def serving_default(text):
            return texts(self.answer_tensors(tokenizer(text)))

        def tokens(token_ids, segment_ids):
            return self.answer_tensors({"token_ids": token_ids, "segment_ids": segment_ids})

        def with_options(text, **given):
            asked = given["max_new_tokens"]
            least = tf.debugging.assert_positive(asked, "max_new_tokens: give at least 1")
            with tf.control_dependencies([least]):
                given["max_new_tokens"] = tf.identity(asked)
            return texts(self.answer_tensors(tokenizer(text), {**loop.numbers_of(options), **given}))

        found = {"serving_default": (serving_default, text), "tokens": (tokens, ids)}
        return {**found, "options": (with_options, {**text, **scalars})} if _takes_options(options) else found

    def without_stop(self, found: dict) -> tf.RaggedTensor:
        """The new tokens of `answer_tensors` without the one that ended the text."""
        ids, lengths = found["token_ids"], found["lengths"]
        last = tf.gather(ids, lengths - 1, axis=1, batch_dims=1)
        for index in self.generation_options().stop_ids:
            lengths = tf.where((last == index) & (lengths == found["lengths"]), lengths - 1, lengths)
        return tf.RaggedTensor.from_tensor(ids, lengths=lengths)

    def signature_requests(self, columns: dict[str, list[str]]) -> dict[str, dict[str, list]]:
        requests, options = super().signature_requests(columns), self.generation_options()
        requests["tokens"].pop("lengths", None)
        if not _takes_options(options):
            return requests
        return {**requests, "options": {**columns, **{name: getattr(options, name) for name in SCALARS}}}

    def signature_answers(self, name: str, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if name != "tokens":
            return outputs
        ids = self.without_stop({key: tf.constant(value) for key, value in outputs.items()})
        texts = [self.target_tokenizer.decode(row).encode() for row in ids.to_list()]
        return {"text": np.array(texts, dtype=object), "score": outputs["score"]}

    def serving_outputs(self, tensors: dict) -> dict:
        return tensors

    def read_answers(self, outputs: dict) -> list[dict]:
        return [
            {"text": text.decode(), "score": float(score)}
            for text, score in zip(outputs["text"], outputs["score"], strict=True)
        ]


# Options that the signature "options" takes, each a scalar.
SCALARS = {
    "max_new_tokens": tf.int32,
    "temperature": tf.float32,
    "top_p": tf.float32,
    "seed": tf.int32,
    "num_beams": tf.int32,
}


def _takes_options(options: GenerationOptions) -> bool:
    """Whether the export has the signature "options": its number of beams goes with neither of these."""
    return options.strategy != "contrastive" and options.num_beam_groups == 1


def _options(settings: Mapping[str, Any]) -> GenerationOptions:
    """Options from what `GenerationOptions.changed` wrote, or from a checkpoint's settings."""
    known = {field.name for field in dataclasses.fields(GenerationOptions)}
    return GenerationOptions(**settings) if set(settings) <= known else GenerationOptions.from_settings(settings)


def _first(tokenizer) -> int:
    found = (tokenizer.bos_id, tokenizer.cls_id, tokenizer.eos_id, tokenizer.pad_id)
    return next(index for index in found if index is not None)
