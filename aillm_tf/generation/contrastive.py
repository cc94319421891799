"""Contrastive search: likely tokens whose hidden states do not repeat earlier ones (Su et al. 2022, arXiv:2202.06417).

score(v) = (1 - alpha) p(v) - alpha max_j cos(h_v, h_j), over the `top_k` likeliest tokens v and all tokens j before.
The hidden state of each candidate costs a step of its own: rows and candidates are one batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from keras import ops

from aillm_tf.generation import loop
from aillm_tf.generation.loop import State
from aillm_tf.generation.options import GenerationOptions
from aillm_tf.generation.processors import process


def start(backbone, prompt, lengths, source, capacity, budget, options, numbers) -> State:
    """The state after the first token; its cache has all tokens of the history, and `more` the scores of the next."""
    last, cache, hidden = loop.prefill(backbone, prompt, lengths, capacity, source)
    if hidden is None:
        raise ValueError("contrastive search looks at all of the prompt: it is longer than the window's ring cache")
    history, keys = loop.begin(prompt, lengths, source, capacity, numbers["seed"])
    places = [[0, 0], [0, capacity - ops.shape(hidden)[1]], [0, 0]]
    state = State(
        history,
        cache,
        log_probs=tf.zeros(tf.stack([tf.shape(lengths)[0], budget])),
        done=tf.zeros(tf.shape(lengths), tf.bool),
        score=tf.zeros(tf.shape(lengths)),
        keys=keys,
        more={"logits": backbone.logits(last), "hidden": tf.pad(_unit(hidden), places)},
    )
    return step(backbone, state, options, numbers)


def step(backbone, state: State, options: GenerationOptions, numbers: Mapping) -> State:
    """One token more."""
    limit = loop.position_limit(backbone)
    history, past, alpha = state.history, state.more["hidden"], numbers["penalty_alpha"]
    rows, count = tf.shape(history.length)[0], min(options.top_k, state.more["logits"].shape[-1])
    scores = process(state.more["logits"], history, options, numbers)
    p, tokens = tf.math.top_k(tf.nn.softmax(scores), count)  # (rows, candidates)
    every = tf.repeat(tf.range(rows), count)
    repeated = tf.nest.map_structure(lambda x: tf.gather(x, every), state.cache)
    at = history.length if limit is None else tf.minimum(history.length, limit - 1)
    hidden, cache = backbone.step(tf.reshape(tokens, [-1, 1]), repeated, tf.gather(at, every))
    units = tf.reshape(_unit(hidden), tf.stack([rows, count, ops.shape(past)[2]]))
    cosines = tf.matmul(units, past, transpose_b=True)  # (rows, candidates, places)
    before = tf.range(ops.shape(past)[1])[None] < history.length[:, None]
    repetition = tf.reduce_max(tf.where(before[:, None], cosines, -1.0), axis=-1)
    choice = tf.argmax((1.0 - alpha) * p - alpha * repetition, axis=-1, output_type=tf.int32)

    token = tf.gather(tokens, choice, axis=1, batch_dims=1)
    chosen = tf.range(rows) * count + choice
    here = tf.range(ops.shape(past)[1])[None] == history.length[:, None]
    unit = tf.gather(units, choice, axis=1, batch_dims=1)
    more = {
        "logits": backbone.logits(tf.gather(hidden[:, 0], chosen)),
        "hidden": tf.where(here[..., None], unit[:, None], past),
    }
    state = loop.add(state, token, state.more["logits"], options, numbers, limit)
    return state._replace(cache=tf.nest.map_structure(lambda x: tf.gather(x, chosen), cache), more=more)


def _unit(hidden):
    """Vectors of length 1, float32."""
    return tf.math.l2_normalize(tf.cast(hidden, tf.float32), axis=-1)
