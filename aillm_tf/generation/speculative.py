"""Speculative decoding: a small model guesses, the large one checks the guesses at once (Leviathan et al. 2023).

A guess x with probability q(x) for the small model and p(x) for the large one is kept with probability min(1, p/q);
at the first that is not, a token is drawn from max(0, p - q) instead, so texts are distributed as the large model's
alone are. Greedy is the case where p and q are certain. Rows keep different numbers of guesses: each counts its own
positions, and what a cache holds of refused guesses is overwritten.

Reference: Leviathan et al. 2023 (arXiv:2211.17192).
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from keras import ops

from aillm_tf.generation import loop, sampling
from aillm_tf.generation.loop import State
from aillm_tf.generation.options import GenerationOptions
from aillm_tf.generation.processors import History, process

STREAMS = 64  # numbers that a row may draw for one token


def check(backbone, draft, guesses: int) -> None:
    """Raises ValueError where a draft cannot guess for a backbone."""
    large, small = (x.config.decoder_vocab_size or x.config.vocab_size for x in (backbone, draft))
    if large != small:
        raise ValueError(f"the draft scores {small} tokens, the model {large}: a draft needs the model's vocabulary")
    most = (STREAMS - 1) // 3  # a guess takes three numbers, and the token after the last one a number more
    if not 1 <= guesses <= most:
        raise ValueError(f"guesses is {guesses}: give 1 to {most}")


def start(draft, backbone, prompt, lengths, source, capacity, budget, options, numbers) -> State:
    """The state after the first token, which the large model chooses."""
    state = loop.start_sample(backbone, prompt, lengths, source, capacity, budget, options, numbers)
    _, cache, _ = loop.prefill(draft, prompt, lengths, capacity, source)
    if options.num_return_sequences > 1:
        cache = tf.nest.map_structure(lambda x: tf.repeat(x, options.num_return_sequences, axis=0), cache)
    return state._replace(more={"draft": cache, "rounds": tf.zeros_like(state.score)})


def step(draft, guesses: int, backbone, state: State, options: GenerationOptions, numbers: Mapping) -> State:
    """At least one token more, and as many as `guesses` + 1."""
    begun, limit = state.history, loop.position_limit(backbone)
    uniform = lambda stream: sampling.uniforms(state.keys, begun.count * STREAMS + stream)  # noqa: E731

    # the small model guesses; its cache may lack two tokens, where all guesses of the round before were kept
    at = tf.maximum(begun.length - 2, 0)
    ids = tf.gather(begun.tokens, at[:, None] + tf.range(2)[None], axis=1, batch_dims=1)
    hidden, cache = draft.step(tf.maximum(ids, 0), state.more["draft"], at)
    hidden = loop.last_hidden(hidden, begun.length - at)
    history, everywhere = begun, tf.ones_like(state.done)
    guessed, beliefs = [], []
    for i in range(guesses):
        q = probabilities(draft.logits(hidden), history, options, numbers)
        guess = sampling.draw_from(q, uniform(i))
        history = history.append(guess, everywhere)
        guessed.append(guess)
        beliefs.append(q)
        if i + 1 < guesses:
            hidden, cache = draft.step(guess[:, None], cache, history.length - 1)
            hidden = hidden[:, 0]

    # the large model checks all of them
    ids = tf.concat([begun.last(1), tf.stack(guessed, axis=1)], axis=1)
    hidden, large_cache = backbone.step(ids, state.cache, begun.length - 1)
    logits = backbone.logits(hidden)  # (rows, guesses + 1, vocabulary)
    history, kept = begun, everywhere
    for i in range(guesses + 1):
        p = probabilities(logits[:, i], history, options, numbers)
        rest, agreed = p, tf.zeros_like(kept)
        token = sampling.draw_from(p, uniform(guesses + i))
        if i < guesses:
            q, guess = beliefs[i], guessed[i]
            of_guess = [tf.gather(x, guess, axis=1, batch_dims=1) for x in (p, q)]
            agreed = uniform(2 * guesses + 1 + i) * of_guess[1] < of_guess[0]
            rest = tf.maximum(p - q, 0.0)
            token = tf.where(agreed, guess, sampling.draw_from(rest, uniform(guesses + i)))
        # rows that refused a guess before this place are at their end
        frozen = state._replace(done=state.done | ~kept)
        added = loop.add(frozen, token, logits[:, i], options, numbers, limit)
        ended = tf.where(kept, added.done, state.done)
        state = added._replace(done=ended)
        kept &= agreed & ~ended
        history = history.append(token, everywhere)
    more = {"draft": cache, "rounds": state.more["rounds"] + tf.where(begun.count < state.history.count, 1.0, 0.0)}
    return state._replace(cache=large_cache, more=more)


def probabilities(logits, history: History, options: GenerationOptions, numbers: Mapping) -> tf.Tensor:
    """The distribution of the next token, (rows, vocabulary) float64: certain where decoding is greedy."""
    scores = process(logits, history, options, numbers)
    vocabulary = ops.shape(scores)[1]
    if not options.temperature:
        return tf.one_hot(tf.argmax(scores, axis=-1), vocabulary, dtype=tf.float64)
    scores, ids = sampling.candidates(scores, options, numbers)
    p = tf.cast(tf.nn.softmax(scores), tf.float64)
    if ids is None:
        return p
    rows = tf.broadcast_to(tf.range(ops.shape(p)[0])[:, None], tf.shape(ids))
    return tf.scatter_nd(tf.stack([rows, ids], axis=-1), p, tf.stack([ops.shape(p)[0], vocabulary]))
