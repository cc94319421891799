"""Beam search with length penalty, and diverse beams.

Finished texts are kept beside the running ones, `num_beams` of the best scores; a prompt is done when no running beam
is likely to beat the worst of them. As in transformers, candidates are the best `num_beams * max(2, 1 + stop ids)`
continuations; one that ends counts only where it is among the first `num_beams`, and the best that go on run on.

References: Wu et al. 2016 (arXiv:1609.08144); diverse beams: Vijayakumar et al. 2018 (arXiv:1610.02424).
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf
from keras import ops

from aillm_tf.generation import loop
from aillm_tf.generation.loop import State
from aillm_tf.generation.options import GenerationOptions
from aillm_tf.generation.processors import History, process
from aillm_tf.layers.cache import reorder

NEVER = -1e9  # a score that no text has


def start(backbone, prompt, lengths, source, capacity, budget, options, numbers) -> State:
    """The state after the first token of every beam. `done` is per prompt; history and cache are per beam."""
    last, cache, _ = loop.prefill(backbone, prompt, lengths, capacity, source)
    history, keys = loop.begin(prompt, lengths, source, capacity, numbers["seed"])
    logits = backbone.logits(last)
    groups, beams = options.num_beam_groups, _beams(options, numbers)
    history, cache, logits = tf.nest.map_structure(
        lambda x: tf.repeat(x, groups * beams, axis=0), (history, cache, logits)
    )
    searches = tf.shape(lengths)[0] * groups  # each group of beams is a search of its own
    here = tf.stack([searches, beams])
    all_new = tf.stack([searches, beams, budget])
    more = {
        # at first all beams are alike: only one of them counts
        "running": tf.where(tf.range(beams)[None] == 0, tf.zeros(here), NEVER),
        "scores": tf.fill(here, NEVER),
        "finished": tf.zeros(here, tf.bool),
        "counts": tf.zeros(here, tf.int32),
        "tokens": tf.zeros(all_new, tf.int32),
        "log_probs": tf.zeros(all_new),
    }
    state = State(
        history,
        cache,
        log_probs=tf.zeros(tf.stack([searches * beams, budget])),
        done=tf.zeros(tf.shape(lengths), tf.bool),
        score=tf.zeros(tf.shape(lengths)),
        keys=keys,
        more={**more, "open": tf.ones(tf.stack([searches]), tf.bool)},
    )
    return extend(state, logits, options, numbers, loop.position_limit(backbone))


def step(backbone, state: State, options: GenerationOptions, numbers: Mapping) -> State:
    """One token more for every beam."""
    hidden, cache = backbone.step(state.history.last(1), state.cache, loop.last_place(backbone, state.history))
    logits = backbone.logits(hidden[:, 0])
    return extend(state._replace(cache=cache), logits, options, numbers, loop.position_limit(backbone))


def extend(state: State, logits, options: GenerationOptions, numbers: Mapping, limit: int | None) -> State:
    """Continues the best beams, keeps those that end, and sees who is done."""
    history, more = state.history, state.more
    groups, beams = options.num_beam_groups, _beams(options, numbers)
    vocabulary = ops.shape(logits)[1]
    searches = tf.shape(more["running"])[0]
    log_probs = tf.nn.log_softmax(logits)
    candidates = max(2, 1 + len(options.stop_ids or ())) * beams

    best = _best_in_groups(log_probs, history, more["running"], candidates, options, numbers)
    scores, beam, token = best  # (searches, candidates) each
    flat = tf.range(searches)[:, None] * beams + beam  # (searches, candidates), the row of each candidate
    given = tf.gather(tf.reshape(log_probs, [-1]), flat * vocabulary + token)
    count = history.count[0] + 1  # of all beams alike
    ends = _ends(tf.gather(history.length, flat) + 1, token, count, options, numbers, limit)

    # the best that go on
    going, places = tf.math.top_k(scores + tf.where(ends, NEVER, 0.0), beams)
    chosen = tf.reshape(tf.gather(flat, places, axis=1, batch_dims=1), [-1])
    next_token = tf.reshape(tf.gather(token, places, axis=1, batch_dims=1), [-1])
    next_given = tf.reshape(tf.gather(given, places, axis=1, batch_dims=1), [-1])
    moved = History(*(tf.gather(x, chosen) for x in history)).append(next_token, tf.ones_like(next_token, tf.bool))
    past = tf.gather(state.log_probs, chosen)
    new_at = tf.range(ops.shape(past)[1])[None] == count - 1

    # the best that have ended
    open_ = more["open"]
    counted = ends & (tf.range(candidates)[None] < beams)
    normal = scores / tf.cast(count, tf.float32) ** numbers["length_penalty"]
    normal = tf.where(counted & open_[:, None], normal, normal + NEVER)
    budget = ops.shape(past)[1]
    tokens = _with(_new(history, flat, budget), token, count)
    given = _with(tf.gather(state.log_probs, flat), given, count)
    merged = {
        "scores": tf.concat([more["scores"], normal], 1),
        "finished": tf.concat([more["finished"], counted & open_[:, None]], 1),
        "counts": tf.concat([more["counts"], tf.zeros_like(token) + count], 1),
        "tokens": tf.concat([more["tokens"], tokens], 1),
        "log_probs": tf.concat([more["log_probs"], given], 1),
    }
    _, places = tf.math.top_k(merged["scores"], beams)
    more = {name: tf.gather(x, places, axis=1, batch_dims=1) for name, x in merged.items()}

    open_ &= _may_improve(going, more, count, options, numbers) & ~tf.reduce_all(ends, axis=1)
    if options.early_stopping is True:
        open_ &= ~tf.reduce_all(more["finished"], axis=1)
    return state._replace(
        history=moved,
        cache=reorder(state.cache, chosen),
        log_probs=tf.where(new_at, next_given[:, None], past),
        done=state.done | ~tf.reduce_any(tf.reshape(open_, [-1, groups]), axis=1),
        more={**more, "running": going, "open": open_},
    )


def best(state: State, returns: int) -> tuple[tf.Tensor, ...]:
    """The best finished texts of every prompt, best first.

    Returns:
        Tokens (prompts * returns, budget) int32, their number (prompts * returns,), log-probabilities of the tokens in
        the shape of the tokens, and scores (prompts * returns,).
    """
    more, prompts = state.more, tf.shape(state.done)[0]
    together = {
        name: tf.reshape(more[name], tf.concat([[prompts, -1], tf.shape(more[name])[2:]], 0))
        for name in ("tokens", "counts", "log_probs", "scores")
    }
    _, places = tf.math.top_k(together["scores"], returns)
    found = {name: tf.gather(x, places, axis=1, batch_dims=1) for name, x in together.items()}
    return tuple(tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0)) for x in found.values())


def _beams(options: GenerationOptions, numbers: Mapping):
    """Beams of a group: a tensor in an export that takes it as an input."""
    return numbers["num_beams"] if "num_beams" in numbers else options.num_beams // options.num_beam_groups


def _best_in_groups(log_probs, history: History, running, candidates, options: GenerationOptions, numbers: Mapping):
    """The best continuations of every search: scores, beams and tokens, (searches, candidates) each."""
    groups, beams, vocabulary = options.num_beam_groups, tf.shape(running)[1], ops.shape(log_probs)[1]
    if groups == 1:
        return _top(process(log_probs, history, options, numbers), running, candidates)
    # (prompts, groups, beams, ...), one group after the other: later ones see what earlier ones took
    apart = lambda x: tf.reshape(x, tf.concat([[-1, groups, beams], tf.shape(x)[1:]], 0))  # noqa: E731
    log_probs, tokens, lengths, counts = (apart(x) for x in (log_probs, *history))
    running = tf.reshape(running, tf.stack([-1, groups, beams]))
    taken = tf.zeros(tf.stack([tf.shape(running)[0], vocabulary]))
    found = []
    for group in range(groups):
        flat = lambda x: tf.reshape(x[:, group], tf.concat([[-1], tf.shape(x)[3:]], 0))  # noqa: B023, E731
        lowered = log_probs[:, group] - numbers["diversity_penalty"] * taken[:, None]
        lowered = tf.reshape(lowered, tf.stack([-1, vocabulary]))
        scores = process(lowered, History(flat(tokens), flat(lengths), flat(counts)), options, numbers)
        top = _top(scores, running[:, group], candidates)
        token, stops = top[2], tf.zeros_like(top[2], tf.bool)
        for index in options.stop_ids or ():
            stops |= token == index
        _, places = tf.math.top_k(top[0] + tf.where(stops, NEVER, 0.0), beams)
        going = tf.gather(token, places, axis=1, batch_dims=1)
        taken += tf.reduce_sum(tf.one_hot(going, vocabulary), axis=1)
        found.append(top)
    return [tf.reshape(tf.stack(parts, axis=1), tf.stack([-1, candidates])) for parts in zip(*found, strict=True)]


def _top(scores, running, candidates):
    """The best of (searches * beams, vocabulary) scores beside what the beams have: scores, beams, tokens."""
    vocabulary = ops.shape(scores)[1]
    summed = tf.reshape(scores, tf.stack([tf.shape(running)[0], -1, vocabulary])) + running[..., None]
    found, place = tf.math.top_k(tf.reshape(summed, tf.stack([tf.shape(running)[0], -1])), candidates)
    return found, place // vocabulary, place % vocabulary


def _ends(length, token, count, options: GenerationOptions, numbers: Mapping, limit: int | None):
    """Whether a candidate is a finished text, (searches, candidates) bool."""
    ends = tf.zeros_like(token, tf.bool) | (count >= numbers["max_new_tokens"])
    if limit is not None:
        ends |= length > limit
    for index in options.stop_ids or ():
        ends |= token == index
    return ends


def _new(history: History, flat, budget):
    """The new tokens of rows, (searches, candidates, budget)."""
    places = (history.length - history.count)[:, None] + tf.range(budget)[None]
    places = tf.minimum(places, ops.shape(history.tokens)[1] - 1)
    return tf.gather(tf.gather(history.tokens, places, axis=1, batch_dims=1), flat)


def _with(rows, last, count):
    """Rows (searches, candidates, budget) whose entry number `count` is `last`."""
    return tf.where(tf.range(ops.shape(rows)[2])[None, None] == count - 1, last[..., None], rows)


def _may_improve(going, more: Mapping, count, options: GenerationOptions, numbers: Mapping):
    """Whether the best running beam may still beat the worst finished one, (searches,) bool."""
    penalty = numbers["length_penalty"]
    length = tf.cast(count, tf.float32)
    if options.early_stopping == "never":
        length = tf.where(penalty > 0.0, tf.cast(numbers["max_new_tokens"], tf.float32), length)
    worst = tf.where(more["finished"], tf.reduce_min(more["scores"], axis=1, keepdims=True), NEVER)
    return tf.reduce_any(going[:, :1] / length**penalty > worst, axis=1)
