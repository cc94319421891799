"""generate: prompts of token ids in, new tokens out; and the graphs behind it, each made once.

A `Generator` belongs to a backbone and keeps its graphs. `generate` finds the backbone's own.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from aillm_tf.generation import beam, contrastive, loop, speculative
from aillm_tf.generation.loop import State, bucket
from aillm_tf.generation.options import GenerationOptions
from aillm_tf.generation.programs import Programs, Weights
from aillm_tf.layers import fast
from aillm_tf.layers.base import computing_in

STRATEGIES = {
    "sample": (loop.start_sample, loop.step_sample),
    "beam": (beam.start, beam.step),
    "contrastive": (contrastive.start, contrastive.step),
}

COMPILERS = ("auto", "xla", "blocks", "graph")
FEW_ROWS = 16  # a step of so many rows takes as long as reading the weights


class Generated(NamedTuple):
    """New tokens, `num_return_sequences` rows for each prompt one below the other.

    Attributes:
        tokens: a (tokens,) int32 array a row, with the token that ended it.
        log_probs: a (tokens,) float32 array a row, the log-probability that the model gave each of them.
        scores: (rows,) float32, the sum of log-probabilities divided by the number of tokens to the power of
            `length_penalty`; of beam search, with penalties, what beams are ordered by.
    """

    tokens: list[np.ndarray]
    log_probs: list[np.ndarray]
    scores: np.ndarray


class Generator:
    """The decoding of one backbone.

    Args:
        backbone: a built `Decoder` or `EncoderDecoder`.
        compiler: how a step is compiled: "xla" as a whole, what GPUs and TPUs want; "blocks" one program for all blocks
            (see `aillm_tf.generation.programs`), fastest on a CPU for few rows; "graph" not at all; "auto" chooses.
            On a CPU for which TensorFlow has no XLA (the package tensorflow-tpu) always "graph".
        draft: a small backbone of the same vocabulary, which guesses tokens that `backbone` checks; see
            `aillm_tf.generation.speculative`. Texts are distributed as without it.
        guesses: tokens that it guesses at once, 1 to 21.

    Attributes:
        compiled: how many graphs were made.

    Raises:
        ValueError: no such compiler; or a draft of another vocabulary, or too few or too many guesses.

    Example:
        >>> from aillm_tf.models.config import TransformerConfig
        >>> from aillm_tf.models.decoder import Decoder
        >>> decoder = Decoder(TransformerConfig(vocab_size=100, hidden_size=32, layers=2, heads=2, ffn_size=64))
        >>> decoder.build()
        >>> generator = Generator(decoder)
        >>> len(generator.generate([[1, 2, 3], [4]], GenerationOptions(max_new_tokens=5)).tokens[1])
        5
    """

    def __init__(self, backbone, *, compiler: str = "auto", draft=None, guesses: int = 4):
        if compiler not in COMPILERS:
            raise ValueError(f"compiler is one of {', '.join(COMPILERS)}, not {compiler!r}")
        if draft is not None:
            speculative.check(backbone, draft, guesses)
        self.backbone, self.compiler, self.compiled = backbone, compiler, 0
        self.draft, self.guesses = draft, guesses
        self._weights: Weights | None = None
        self._filled = False  # the copies with the present weights
        self._functions: dict[tuple, tf.types.experimental.PolymorphicFunction] = {}

    def generate(
        self,
        prompts: Sequence[Sequence[int]] | None = None,
        options: GenerationOptions | None = None,
        *,
        source: Mapping[str, np.ndarray] | None = None,
    ) -> Generated:
        """New tokens after prompts; see `generate`."""
        options = options or GenerationOptions()
        state, rows = self.start(prompts, options, source=source)
        state = self.advance(state, options, options.max_new_tokens)
        return self.read(state, rows, options)

    def stream(
        self,
        prompts: Sequence[Sequence[int]] | None = None,
        options: GenerationOptions | None = None,
        *,
        source: Mapping[str, np.ndarray] | None = None,
    ) -> Iterator[np.ndarray]:
        """The next token of every row, (rows,) int32, one after the other; -1 in rows that have ended.

        Raises:
            ValueError: beam search, whose texts are not known before its end.
        """
        options = options or GenerationOptions()
        if options.strategy == "beam":
            raise ValueError("beam search knows its text only at the end: stream with num_beams 1")
        state, rows = self.start(prompts, options, source=source)
        before = np.zeros(rows, int)
        while True:
            history, done = state.history, state.done.numpy()[:rows]
            tokens, counts = history.tokens.numpy()[:rows], history.count.numpy()[:rows]
            first = history.length.numpy()[:rows] - counts
            for count in range((counts - before).max()):  # one, or several where a draft guessed
                at = before + count
                token = tokens[np.arange(rows), np.minimum(first + at, tokens.shape[1] - 1)]
                yield np.where(at < counts, token, -1)
            if done.all():
                return
            before = counts
            state = self.advance(state, options, 1)

    def start(
        self, prompts, options: GenerationOptions, *, source=None, past: State | None = None
    ) -> tuple[State, int]:
        """Read the prompts and choose the first token of each.

        Args:
            prompts, options, source: as for `generate`.
            past: of a decoder, what an earlier text of one prompt has come to, such as a conversation so far: the
                tokens that the prompt begins with as that text did are not computed again.

        Returns:
            A `State`, and how many of its rows are real.
        """
        prompts, source, rows = self._padded(prompts, options, source)
        prompt, lengths = prompts
        longest = int(lengths.max())
        # a draft model guesses past the end of what is kept
        guesses = self.guesses if self.draft is not None else 0
        longest_text = longest + options.max_new_tokens + guesses
        budget = bucket(options.max_new_tokens)
        # of the buckets alone: prompts of one bucket share a graph
        capacity = bucket(prompt.shape[1] + budget + guesses)
        limit = loop.position_limit(self.backbone)
        if self.draft is not None:
            most = min(loop.position_limit(each) or longest_text for each in (self.backbone, self.draft))
            if longest_text > most:
                raise ValueError(
                    f"{longest_text} tokens with guesses are more than the {most} positions of the model or its draft"
                )
        if limit is not None:
            if longest > limit:
                raise ValueError(f"a prompt of {longest} tokens is longer than the model's {limit} positions: cut it")
            capacity = min(capacity, limit)
        capacity = max(capacity, prompt.shape[1])
        how = self._how(len(lengths) * options.num_beams * options.num_return_sequences)
        self._filled = False
        if how == "copies" and self._weights is None:
            self._weights = Weights(self.backbone)
        inputs = (tf.constant(prompt), tf.constant(lengths), source, loop.numbers_of(options))
        known = () if past is None else self._known(past, prompt[0, : lengths[0]], capacity, options)
        state = self._function("start", options, how, capacity, budget)(*inputs, *known)
        if len(lengths) > rows:
            # rows that only fill the bucket
            real = np.arange(len(lengths)) < rows
            each = state.done.shape[0] // len(lengths)
            state = state._replace(done=state.done | ~np.repeat(real, each))
        return state, rows * options.num_return_sequences

    def _known(self, past: State, prompt: np.ndarray, capacity: int, options: GenerationOptions) -> tuple:
        """What of a prompt is in the cache of an earlier text: see `past` of `loop.prefill`; () where nothing is."""
        if options.strategy != "sample" or self.draft is not None or past.history.length.shape[0] != 1:
            raise ValueError("only one greedy or drawn text without a draft goes on from an earlier one")
        if self.backbone.config.cell == "lstm" or loop.ring_slots(self.backbone, capacity) < capacity:
            return ()  # what a ring has lost is not known, and a recurrent state is that of a whole text
        # the cache lacks the last token; and the prompt's last one is computed again, for the scores after it
        earlier = past.history.tokens[0].numpy()[: int(past.history.length[0]) - 1]
        longest = min(len(earlier), len(prompt) - 1)
        differ = np.flatnonzero(earlier[:longest] != prompt[:longest])
        at = int(differ[0]) if len(differ) else longest
        if not at:
            return ()
        ids = np.zeros((1, min(bucket(len(prompt) - at), capacity - at)), "int32")
        ids[0, : len(prompt) - at] = prompt[at:]
        cache = tf.nest.map_structure(lambda x: _with_slots(x, capacity), past.cache)
        return cache, tf.constant([at]), tf.constant(ids)

    def advance(self, state: State, options: GenerationOptions, count: int) -> State:
        """The state after at most `count` more steps."""
        how = self._how(state.history.length.shape[0])
        if how == "copies" and not self._filled:
            self._weights.fill()
            self._filled = True
        return self._function("advance", options, how)(state, loop.numbers_of(options), tf.constant(count))

    def read(self, state: State, rows: int, options: GenerationOptions) -> Generated:
        """What a state has come to."""
        if options.strategy == "beam":
            tokens, counts, log_probs, scores = beam.best(state, options.num_return_sequences)
        else:
            tokens, counts = loop.new_tokens(state, state.log_probs.shape[1], 0)
            log_probs = state.log_probs
            scores = state.score / tf.cast(counts, tf.float32) ** options.length_penalty
        counts = counts.numpy()[:rows]
        return Generated(
            loop.trimmed(tokens.numpy()[:rows], counts),
            loop.trimmed(log_probs.numpy()[:rows], counts),
            scores.numpy()[:rows],
        )

    def _padded(self, prompts, options: GenerationOptions, source):
        """Arrays in the sizes of their buckets, and how many rows are real."""
        config = self.backbone.config
        if config.decoder_layers and source is None:
            raise ValueError("an encoder-decoder generates from a source: give source={'token_ids': ...}")
        if prompts is None:
            if options.decoder_start_token_id is None:
                raise ValueError("give prompts, or decoder_start_token_id for a decoder that reads an encoder")
            prompts = [[options.decoder_start_token_id]] * len(source["token_ids"])
        if source is not None and len(prompts) != len(source["token_ids"]):
            raise ValueError(f"{len(prompts)} prompts for {len(source['token_ids'])} sources: give one for each")
        lengths = np.array([len(prompt) for prompt in prompts], "int32")
        if not len(lengths) or not lengths.min():
            raise ValueError("every prompt needs a token at least: begin it with the tokenizer's bos_id or eos_id")
        rows, size = len(lengths), bucket(len(lengths), 1)
        limit = loop.position_limit(self.backbone)
        places = 1 if lengths.max() == 1 else bucket(lengths.max())
        places = places if limit is None else max(min(places, limit), lengths.max())
        prompt = np.zeros((size, places), "int32")
        for row, ids in zip(prompt, prompts, strict=False):
            row[: len(ids)] = ids
        prompt[rows:, 0] = prompt[0, 0]
        lengths = np.concatenate([lengths, np.ones(size - rows, "int32")])
        if source is not None:
            ids = np.asarray(source["token_ids"], "int32")
            length = bucket(ids.shape[1])
            length = length if config.position != "learned" else max(min(length, config.max_length), ids.shape[1])
            features = {"valid": np.ones_like(ids), **source}
            space = [(0, size - rows), (0, length - ids.shape[1])]
            features = {name: np.pad(np.asarray(array, "int32"), space) for name, array in features.items()}
            features["valid"][rows:, 0] = 1
            source = {name: tf.constant(array) for name, array in features.items()}
        return (prompt, lengths), source, rows

    def _strategy(self, options: GenerationOptions):
        if self.draft is None:
            return STRATEGIES[options.strategy]
        if options.strategy != "sample":
            raise ValueError(f"a draft model guesses what is greedy or drawn, not {options.strategy} search")
        start = functools.partial(speculative.start, self.draft)
        return start, functools.partial(speculative.step, self.draft, self.guesses)

    def _how(self, rows: int) -> str:
        """How a step of so many rows is compiled: see `compiler`; "copies" are blocks that read bfloat16 copies."""
        how = self.compiler
        if self.draft is not None and how in ("auto", "blocks"):
            how = "graph"  # programs are for one token a row
        on_cpu = not any(tf.config.list_logical_devices(kind) for kind in ("GPU", "TPU"))
        if on_cpu and not fast.xla_on_cpu():
            return "graph"
        if how == "auto":
            # programs compute in float32: they would read weights of another dtype more slowly, but for one row
            few = rows == 1 or (rows <= FEW_ROWS and self.backbone.variable_dtype == "float32")
            how = "xla" if not on_cpu else "blocks" if few else "graph"
        in_bfloat16 = self.backbone.compute_dtype == "bfloat16"
        return "copies" if how == "blocks" and rows == 1 and in_bfloat16 else how

    def _function(self, what: str, options: GenerationOptions, how: str, capacity: int = 0, budget: int = 0):
        """The graph for options of a kind; tf.function itself keeps one for every size."""
        structure = loop.structure_of(options)
        key = (what, structure, how, capacity, budget, self.backbone.compute_dtype)
        if key not in self._functions:
            start, step = self._strategy(options)

            in_blocks = how in ("blocks", "copies")
            programs = Programs(self._weights if how == "copies" else None, compiled=in_blocks)

            def started(prompt, lengths, source, numbers, *past):
                self.compiled += 1
                # only `loop.start_sample` takes a past
                known = {"past": past} if past else {}
                state = start(self.backbone, prompt, lengths, source, capacity, budget, structure, numbers, **known)
                # programs compute in float32
                return state._replace(cache=loop.in_dtype(state.cache, "float32")) if in_blocks else state

            def advanced(state, numbers, count):
                self.compiled += 1
                with contextlib.ExitStack() as within:
                    if in_blocks:
                        within.enter_context(computing_in(self.backbone, "float32"))
                    if how != "xla":
                        within.enter_context(fast.steps_by(programs))
                    return loop.advance(lambda state: step(self.backbone, state, structure, numbers), state, count)

            function = {"start": started, "advance": advanced}[what]
            compiled = how == "xla" and what == "advance"
            self._functions[key] = tf.function(function, autograph=False, jit_compile=compiled)
        return self._functions[key]


def _with_slots(array: tf.Tensor, capacity: int) -> tf.Tensor:
    """(rows, heads, slots, width) with another number of slots."""
    more = max(capacity - array.shape[2], 0)
    return tf.pad(array, [[0, 0], [0, 0], [0, more], [0, 0]])[:, :, :capacity]


def generator_of(backbone) -> Generator:
    """The backbone's generator, the same at every call."""
    return backbone.__dict__.setdefault("_generator", Generator(backbone))


def generate(
    backbone,
    prompts: Sequence[Sequence[int]] | None = None,
    options: GenerationOptions | None = None,
    *,
    source: Mapping[str, np.ndarray] | None = None,
) -> Generated:
    """Decode new tokens.

    Args:
        backbone: a built `Decoder` or `EncoderDecoder`.
        prompts: token ids of every row, of any lengths, at least one each; None, for an encoder-decoder:
            `decoder_start_token_id` alone.
        options: how; greedy by default.
        source: of an encoder-decoder: "token_ids" (rows, places) int32, and "valid", 1 where they are not padding.

    Returns:
        Tokens, their log-probabilities and scores.

    Raises:
        ValueError: a prompt without tokens or longer than the model, or an encoder-decoder without a source.

    Example:
        >>> from aillm_tf.weights.backbones import load_backbone
        >>> backbone, tokenizer = load_backbone("gpt2-folder")  # doctest: +SKIP
        >>> generate(backbone, [[15496]], GenerationOptions(max_new_tokens=20)).tokens  # doctest: +SKIP
    """
    if options is not None:
        options.warn_of_unused()
    return generator_of(backbone).generate(prompts, options, source=source)
