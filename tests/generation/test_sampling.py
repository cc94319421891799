"""Filters of sampling against their definitions in numpy, and draws against the exact distribution."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from aillm_tf.generation import GenerationOptions, sampling
from aillm_tf.generation.loop import numbers_of

RANDOM = np.random.default_rng(2)
LOGITS = RANDOM.normal(0, 2, (3, 25)).astype("float32")
DRAWS = 20_000
OPTIONS = {
    "temperature": GenerationOptions(temperature=0.7),
    "top_k": GenerationOptions(temperature=1.0, top_k=6),
    "top_p": GenerationOptions(temperature=1.0, top_p=0.8),
    "min_p": GenerationOptions(temperature=1.0, min_p=0.1),
    "typical_p": GenerationOptions(temperature=1.0, typical_p=0.6),
    "all": GenerationOptions(temperature=1.3, top_k=15, top_p=0.9, min_p=0.02, typical_p=0.95),
}


def softmax(x: np.ndarray) -> np.ndarray:
    p = np.exp(x - x.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def keep(p: np.ndarray, order: np.ndarray, mass: float) -> np.ndarray:
    """The first of `order` until their probabilities sum to `mass`, renormalised."""
    kept = np.zeros_like(p)
    for i in order:
        kept[i] = p[i]
        if kept.sum() >= mass:
            break
    return kept / kept.sum()


def exact(logits: np.ndarray, options: GenerationOptions) -> np.ndarray:
    """The distribution of one row, by the definitions."""
    p = softmax(logits.astype("float64") / options.temperature)
    if options.top_k:
        p = np.where(p >= np.sort(p)[-options.top_k], p, 0.0)
        p = p / p.sum()
    if options.top_p < 1.0:
        p = keep(p, np.argsort(-p), options.top_p)
    if options.min_p:
        p = np.where(p >= options.min_p * p.max(), p, 0.0)
        p = p / p.sum()
    if options.typical_p < 1.0:
        surprise = np.full_like(p, np.inf)
        surprise[p > 0] = -np.log(p[p > 0])
        entropy = (p[p > 0] * surprise[p > 0]).sum()
        p = keep(p, np.argsort(np.abs(surprise - entropy)), options.typical_p)
    return p


def drawn(logits: np.ndarray, options: GenerationOptions, seed: int = 0) -> np.ndarray:
    keys = tf.bitcast(tf.range(DRAWS) + seed, tf.uint32)
    rows = tf.repeat(tf.constant(logits[None]), DRAWS, axis=0)
    return sampling.choose(rows, options, numbers_of(options), sampling.uniforms(keys, tf.constant(3))).numpy()


@pytest.mark.parametrize("name", OPTIONS)
def test_draws_have_the_exact_distribution(name):
    expected = exact(LOGITS[0], OPTIONS[name]) * DRAWS
    observed = np.bincount(drawn(LOGITS[0], OPTIONS[name]), minlength=25)
    assert not observed[expected == 0].any()
    common = expected >= 5
    rest = [[x[~common].sum()] if x[~common].sum() else [] for x in (observed, expected)]
    if not rest[1]:
        rest = [[], []]
    test = stats.chisquare([*observed[common], *rest[0]], [*expected[common], *rest[1]])
    assert test.pvalue > 1e-3


@pytest.mark.parametrize("name", OPTIONS)
def test_filters_keep_what_their_definitions_keep(name):
    options = OPTIONS[name]
    scores, ids = sampling.candidates(tf.constant(LOGITS), options, numbers_of(options))
    p = softmax(scores.numpy())
    found = np.zeros_like(LOGITS)
    np.put_along_axis(found, np.arange(25)[None].repeat(3, 0) if ids is None else ids.numpy(), p, axis=1)
    np.testing.assert_allclose(found, [exact(row, options) for row in LOGITS], atol=1e-6)


def test_the_numbers_drawn_are_uniform_over_rows_and_over_tokens():
    keys = sampling.row_keys(tf.constant(1), tf.range(2000)[:, None], tf.ones([2000, 1], tf.bool))
    over_rows = sampling.uniforms(keys, tf.constant(0)).numpy()
    over_tokens = sampling.uniforms(tf.repeat(keys[:1], 2000), tf.range(2000)).numpy()
    for numbers in (over_rows, over_tokens):
        assert stats.kstest(numbers, "uniform").pvalue > 1e-3
        assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.08


def test_a_key_depends_on_the_tokens_and_not_on_padding():
    tokens = tf.constant([[4, 5, 0, 0], [5, 4, 0, 0], [4, 5, 9, 9]])
    valid = tf.constant([[True, True, False, False]] * 3)
    first, turned, padded = sampling.row_keys(tf.constant(0), tokens, valid).numpy()
    assert first == padded != turned


def test_an_almost_impossible_draw_is_a_possible_token():
    scores = tf.constant([[0.0, float("-inf"), 0.0, float("-inf")]])
    places = [int(sampling.draw(scores, tf.constant([u], tf.float64))[0]) for u in (1e-12, 0.5, 1 - 1e-12)]
    assert places[0] == 0 and places[2] == 2 and set(places) == {0, 2}
