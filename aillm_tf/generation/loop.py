"""The loop that all strategies share, for decoders and encoder-decoders: prefill, then a step for every token.

Notable here:

* A strategy is two functions: one that makes the state after the prompt, one that takes a token more. The loop around
  them, its end, and the bookkeeping are here.
* The cache has a fixed number of slots and shapes are rounded up (`bucket`), so a graph is made once for a size and a
  kind of options, never for a call; numbers such as a temperature are tensors.
* Prompts of different length are padded at their end and every row counts its own positions, so each goes on as it
  would alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.generation import sampling
from aillm_tf.generation.options import GenerationOptions
from aillm_tf.generation.processors import History, process

# Options that are numbers in a graph; all others decide what the graph is.
NUMBERS = {
    "max_new_tokens": tf.int32,
    "min_new_tokens": tf.int32,
    "temperature": tf.float32,
    "top_p": tf.float32,
    "min_p": tf.float32,
    "typical_p": tf.float32,
    "repetition_penalty": tf.float32,
    "length_penalty": tf.float32,
    "diversity_penalty": tf.float32,
    "penalty_alpha": tf.float32,
    "seed": tf.int32,
}


RING_CHUNK = 64  # tokens that are written to a ring cache at once


class State(NamedTuple):
    """Where a text stands, every tensor with the rows first.

    Attributes:
        history: tokens so far.
        cache: of the backbone; it lacks the last token.
        log_probs: (rows, new tokens) float32, what the model gave each new token.
        done: (rows,) bool, nothing is added any more.
        score: (rows,) float32, the sum of log-probabilities by which texts are compared.
        keys: (rows,) uint32, what draws come from.
        more: what a strategy needs besides.
    """

    history: History
    cache: Any
    log_probs: tf.Tensor
    done: tf.Tensor
    score: tf.Tensor
    keys: tf.Tensor
    more: dict[str, tf.Tensor]


def numbers_of(options: GenerationOptions) -> dict[str, tf.Tensor]:
    """The options that are tensors in a graph."""
    return {name: tf.constant(getattr(options, name), dtype) for name, dtype in NUMBERS.items()}


def structure_of(options: GenerationOptions) -> GenerationOptions:
    """The options with every number that a graph takes as a tensor set to one value: equal for equal graphs."""
    same = {
        "max_new_tokens": 1 << 30,
        "min_new_tokens": int(options.min_new_tokens > 0),
        "temperature": float(options.temperature > 0.0),
        "top_p": 1.0 if options.top_p == 1.0 else 0.5,
        "min_p": 0.5 if options.min_p else 0.0,
        "typical_p": 1.0 if options.typical_p == 1.0 else 0.5,
        "repetition_penalty": 1.0 if options.repetition_penalty == 1.0 else 2.0,
        "length_penalty": 1.0,
        "diversity_penalty": float(options.diversity_penalty > 0.0),
        "penalty_alpha": 0.5 if options.penalty_alpha else 0.0,
        "seed": 0,
        "stop_strings": (),
    }
    return dataclasses.replace(options, **same)


def bucket(size: int, least: int = 16) -> int:
    """The next of 16, 24, 32, 48, 64, 96, ...: sizes for which there is a graph."""
    power = least
    while power < size:
        if power * 3 // 2 >= size:
            return power * 3 // 2
        power *= 2
    return power


def ring_slots(backbone, capacity: int) -> int:
    """Slots that the cache needs for texts of up to `capacity` tokens: fewer where all layers have a window.

    Half of what a ring has beside the window is for the tokens that are written at once (`RING_CHUNK`), half for those
    of them that a shorter prompt of the batch reads twice.
    """
    config = backbone.config
    if config.window is None or config.global_layers:
        return capacity
    return min(capacity, bucket(config.window + 2 * RING_CHUNK))


def prefill(backbone, prompt: tf.Tensor, lengths: tf.Tensor, capacity, source: Mapping | None, past=None):
    """The prompt at once, or, where the cache is a ring of fewer slots, in parts.

    Args:
        backbone: a `Decoder`, or an `EncoderDecoder`.
        prompt: (rows, places) int32, padded at the end.
        lengths: (rows,) int32, at least 1.
        capacity: tokens a row may have.
        source: features of an encoder's input, as `EncoderDecoder.encode` takes them; None for a decoder.
        past: a cache that has the first tokens of the prompt already, with `capacity` slots; how many of them it has,
            (rows,) int32; and the tokens after them, (rows, places) int32.

    Returns:
        Hidden states at the last token of every row (rows, hidden), the cache, and the hidden states of all places
        (rows, places, hidden) or None.
    """
    if past is not None:
        cache, at, ids = past
        hidden, cache = backbone.step(ids, in_dtype(cache, backbone.compute_dtype), at)
        return last_hidden(hidden, lengths - at), cache, None
    slots = ring_slots(backbone, capacity) if isinstance(capacity, int) else capacity
    if source is None:
        cache = backbone.init_cache(ops.shape(prompt)[0], slots)
    else:
        cache = backbone.init_cache(backbone.encode(source), slots, valid=source.get("valid"))
    if isinstance(slots, int) and prompt.shape[1] is not None and prompt.shape[1] > slots:
        return *_prefill_in_parts(backbone, prompt, lengths, cache), None
    # one token sees only itself, and Keras warns of a softmax over one key: it is shown the free slots, too
    hidden, cache = backbone.step(prompt, cache, tf.constant(0) if prompt.shape[1] == 1 else 0)
    return last_hidden(hidden, lengths), cache, hidden


def _prefill_in_parts(backbone, prompt: tf.Tensor, lengths: tf.Tensor, cache):
    """The prompt in parts of `RING_CHUNK` tokens; a row that has ended repeats its last ones, which changes nothing."""
    latest = tf.maximum(lengths - RING_CHUNK, 0)

    def part(i, cache, last):
        at = tf.minimum(i * RING_CHUNK, latest)
        ids = tf.gather(prompt, at[:, None] + tf.range(RING_CHUNK)[None], axis=1, batch_dims=1)
        hidden, cache = backbone.step(ids, cache, at)
        return i + 1, cache, tf.where((at == latest)[:, None], last_hidden(hidden, lengths - at), last)

    start = (tf.constant(0), cache, tf.zeros((ops.shape(prompt)[0], backbone.config.hidden_size), cache_dtype(cache)))
    count = -(-prompt.shape[1] // RING_CHUNK)
    _, cache, last = tf.while_loop(lambda i, *_: i < count, part, start)
    return last, cache


def in_dtype(cache, dtype: str):
    """A cache in another floating dtype."""
    return tf.nest.map_structure(lambda x: tf.cast(x, dtype) if x.dtype.is_floating else x, cache)


def cache_dtype(cache) -> tf.DType:
    """The dtype in which a backbone computes that made this cache."""
    return tf.nest.flatten(cache["layers"] if isinstance(cache, dict) else cache)[0].dtype


def begin(prompt: tf.Tensor, lengths: tf.Tensor, source: Mapping | None, capacity, seed: tf.Tensor):
    """The history of a prompt, and the key of every row."""
    places = ops.shape(prompt)[1]
    valid = tf.range(places)[None] < lengths[:, None]
    tokens = tf.pad(tf.where(valid, prompt, -1), [[0, 0], [0, capacity + 1 - places]], constant_values=-1)
    keys = sampling.row_keys(seed, prompt, valid)
    if source is not None:
        ids = source["token_ids"]
        read = tf.cast(source.get("valid", tf.ones_like(ids)), tf.bool)
        keys = sampling.row_keys(tf.bitcast(keys, tf.int32), ids, read)
    return History(tokens, lengths, tf.zeros_like(lengths)), keys


def last_hidden(hidden: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """(rows, places, hidden) -> (rows, hidden) at the last token of every row."""
    last = tf.clip_by_value(lengths - 1, 0, ops.shape(hidden)[1] - 1)
    return tf.gather(hidden, last, axis=1, batch_dims=1)


def ended(history: History, token: tf.Tensor, options: GenerationOptions, numbers: Mapping, limit: int | None):
    """Whether a text ends with the token just appended, (rows,) bool."""
    end = history.count >= numbers["max_new_tokens"]
    if limit is not None:  # no positions are left
        end |= history.length > limit
    for index in options.stop_ids or ():
        end |= token == index
    return end


def start_sample(backbone, prompt, lengths, source, capacity, budget, options, numbers, past=None) -> State:
    """The state of greedy decoding and sampling after the first token."""
    last, cache, _ = prefill(backbone, prompt, lengths, capacity, source, past)
    history, keys = begin(prompt, lengths, source, capacity, numbers["seed"])
    logits = backbone.logits(last)
    returns = options.num_return_sequences
    if returns > 1:
        repeat = lambda tensors: tf.nest.map_structure(lambda x: tf.repeat(x, returns, axis=0), tensors)  # noqa: E731
        history, cache, logits, keys = repeat((history, cache, logits, keys))
        which = tf.range(tf.shape(keys)[0]) % returns
        keys = sampling.row_keys(which, tf.bitcast(keys, tf.int32)[:, None], tf.ones_like(keys, tf.bool)[:, None])
    rows = tf.shape(logits)[0]
    state = State(
        history,
        cache,
        log_probs=tf.zeros((rows, budget)),
        done=tf.zeros((rows,), tf.bool),
        score=tf.zeros((rows,)),
        keys=keys,
        more={},
    )
    return take(state, cache, logits, options, numbers, position_limit(backbone))


def step_sample(backbone, state: State, options: GenerationOptions, numbers: Mapping) -> State:
    """One token more."""
    hidden, cache = backbone.step(state.history.last(1), state.cache, last_place(backbone, state.history))
    return take(state, cache, backbone.logits(hidden[:, 0]), options, numbers, position_limit(backbone))


def take(state: State, cache, logits, options: GenerationOptions, numbers: Mapping, limit: int | None) -> State:
    """Chooses the next token of every row that is not done."""
    uniform = sampling.uniforms(state.keys, state.history.count) if options.temperature else None
    token = sampling.choose(process(logits, state.history, options, numbers), options, numbers, uniform)
    return add(state._replace(cache=cache), token, logits, options, numbers, limit)


def add(state: State, token, logits, options: GenerationOptions, numbers: Mapping, limit: int | None) -> State:
    """Appends the token that was chosen, (rows,), and what `logits` gave it, to every row that is not done."""
    history = state.history
    chosen = tf.gather(tf.nn.log_softmax(logits), token, axis=1, batch_dims=1)
    running = ~state.done
    here = (tf.range(ops.shape(state.log_probs)[1])[None] == history.count[:, None]) & running[:, None]
    history = history.append(token, running)
    return state._replace(
        history=history,
        log_probs=tf.where(here, chosen[:, None], state.log_probs),
        score=state.score + tf.where(running, chosen, 0.0),
        done=state.done | ended(history, token, options, numbers, limit),
    )


def last_place(backbone, history: History) -> tf.Tensor:
    """The position of the last token, (rows,) int32; of one past the last position, which ends a text, that."""
    limit = position_limit(backbone)
    return history.length - 1 if limit is None else tf.minimum(history.length - 1, limit - 1)


def position_limit(backbone) -> int | None:
    """Tokens a text may have in all; None: any number."""
    return backbone.config.max_length if backbone.config.position == "learned" else None


def advance(step: Callable[[State], State], state: State, count: tf.Tensor) -> State:
    """At most `count` more steps, fewer where all rows are done."""
    return tf.while_loop(
        lambda i, state: (i < count) & ~tf.reduce_all(state.done),
        lambda i, state: (i + 1, step(state)),
        (tf.constant(0), state),
    )[1]


def new_tokens(state: State, budget, pad: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The new tokens of every row, (rows, budget) int32 filled up with `pad`, and how many there are, (rows,) int32."""
    history = state.history
    places = (history.length - history.count)[:, None] + tf.range(budget)[None]
    tokens = tf.gather(history.tokens, tf.minimum(places, ops.shape(history.tokens)[1] - 1), axis=1, batch_dims=1)
    return tf.where(tf.range(budget)[None] < history.count[:, None], tokens, pad), history.count


def trimmed(tokens: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Rows without what fills them up."""
    return [row[:count] for row, count in zip(tokens, counts, strict=True)]
