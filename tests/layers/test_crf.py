"""The CRF against all label sequences, one by one."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.layers.crf import CRF, RATE

LABELS = 3
OPENING = np.array([True, True, False])
OPENS = np.array([1, 1, 0, 1, 0], "int32")
ALLOWED = np.array([[True, True, False], [True, True, True], [True, True, True]])


@pytest.fixture(scope="module", params=["free", "constrained"])
def layer(request):
    made = CRF(LABELS, *((ALLOWED, OPENING) if request.param == "constrained" else ()))
    made.build()
    chance = np.random.default_rng(0)
    for weight in (made.start, made.transition, made.end):
        weight.assign(chance.normal(size=weight.shape) / RATE)
    return made


@pytest.fixture(scope="module")
def batch():
    """Logits, labels and chains: whole, empty, one position, with holes at either end and within."""
    chance = np.random.default_rng(1)
    chains = [[1] * 5, [0] * 5, [0, 0, 1, 0, 0], [1, 0, 1, 1, 0], [0, 1, 0, 0, 1]]
    shape = (len(chains), 5)
    return (
        2 * chance.normal(size=(*shape, LABELS)).astype("float32"),
        chance.integers(1, LABELS, shape).astype("int32"),
        np.array(chains, "int32"),
    )


def ways(layer, logits, chain, opens):
    """All sequences of a row with their scores, and the positions they are of."""
    start, transition, end = (np.asarray(part, "float64") for part in layer.scores())
    start = start + opens * layer.opening_penalty
    places = np.flatnonzero(chain)
    sequences = list(itertools.product(range(LABELS), repeat=len(places)))
    scores = [
        start[way[0]]
        + end[way[-1]]
        + sum(logits[place, label] for place, label in zip(places, way, strict=True))
        + sum(transition[pair] for pair in itertools.pairwise(way))
        for way in sequences
    ]
    return places, sequences, np.array(scores)


def rows(layer, batch):
    for row, chain in enumerate(batch[2]):
        if chain.any():
            yield row, *ways(layer, batch[0][row], chain, OPENS[row])


def traced(function, *arguments):
    """Called with shapes that are not known, as batches of different lengths are."""
    specs = [tf.TensorSpec([None] * min(x.ndim, 2) + list(x.shape[2:]), x.dtype) for x in arguments]
    return tf.function(function, input_signature=specs)(*arguments).numpy()


def test_likelihood_is_over_all_sequences(layer, batch):
    found = traced(layer.log_likelihood, *batch, OPENS)
    for row, places, sequences, scores in rows(layer, batch):
        own = scores[sequences.index(tuple(batch[1][row][places]))]
        assert found[row] == pytest.approx(own - np.logaddexp.reduce(scores), abs=1e-4)
    assert found[1] == 0.0


def test_the_best_sequence_is_found(layer, batch):
    found = traced(layer.decode, batch[0], batch[2], OPENS)
    for row, places, sequences, scores in rows(layer, batch):
        assert tuple(found[row][places]) == sequences[scores.argmax()]


def test_marginals_are_sums_over_sequences(layer, batch):
    found = traced(layer.marginals, batch[0], batch[2], OPENS)
    for row, places, sequences, scores in rows(layer, batch):
        expected = np.zeros((len(places), LABELS))
        for way, share in zip(sequences, np.exp(scores - np.logaddexp.reduce(scores)), strict=True):
            expected[np.arange(len(places)), way] += share
        np.testing.assert_allclose(found[row][places], expected, atol=1e-5)


def test_what_is_not_allowed_is_never_decoded(batch):
    layer = CRF(LABELS, ALLOWED, OPENING)
    layer.build()
    logits = batch[0] + np.float32([0, 0, 9])  # what may not be first is likeliest
    found = layer.decode(tf.constant(logits), tf.constant(np.ones_like(batch[2])), tf.constant(OPENS)).numpy()
    assert not ((found[:, :-1] == 0) & (found[:, 1:] == 2)).any()
    np.testing.assert_array_equal(found[:, 0] == 2, OPENS == 0)


def test_gradients_are_those_of_the_scores_not_of_what_is_stored(layer, batch):
    logits = tf.constant(batch[0])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer.log_likelihood(logits, *map(tf.constant, (*batch[1:], OPENS))))
    gradient = tape.gradient(total, layer.end.value).numpy()
    expected = np.zeros(LABELS)
    for row, places, sequences, scores in rows(layer, batch):
        expected[batch[1][row][places[-1]]] += 1
        for way, share in zip(sequences, np.exp(scores - np.logaddexp.reduce(scores)), strict=True):
            expected[way[-1]] -= share
    np.testing.assert_allclose(gradient, expected, atol=1e-4)
