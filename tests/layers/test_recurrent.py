"""LSTM: the formula of Keras and cuDNN, states token by token, and documents that begin within a row."""

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.layers.base import initial_seed
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.layers.recurrent import LSTM

UNITS, INPUTS, LENGTH = 5, 3, 7
X = np.random.default_rng(2).normal(size=(2, LENGTH, INPUTS)).astype("float32")


def make(seed: int = 0) -> LSTM:
    layer = LSTM(UNITS)
    with initial_seed(seed):
        layer.build((None, None, INPUTS))
    return layer


@pytest.fixture(scope="module")
def layer():
    return make()


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def formula(layer, x):
    """Hidden states of one row (length, inputs), in numpy and float64."""
    kernel, recurrent, bias = (np.asarray(v, np.float64) for v in layer.lstm.get_weights())
    h = c = np.zeros(UNITS)
    states = []
    for token in x:
        i, f, g, o = np.split(token @ kernel + h @ recurrent + bias, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def test_whole_rows_are_the_formula(layer):
    np.testing.assert_allclose(layer(X), [formula(layer, row) for row in X], atol=1e-5)


def test_states_are_those_of_whole_rows(layer):
    zeros = tf.zeros((2, UNITS))
    np.testing.assert_allclose(layer.states(X, zeros, zeros)[0], layer(X), atol=1e-5)


def test_rows_whose_length_a_graph_does_not_know_have_the_same_states(layer):
    shapes = [tf.TensorSpec((None, None, INPUTS)), *[tf.TensorSpec((None, UNITS))] * 2]
    states = tf.function(layer.states, autograph=False, input_signature=shapes)
    for x in (X, X[:, :1]):
        np.testing.assert_allclose(states(x, *[np.zeros((2, UNITS), "float32")] * 2)[0], layer(x), atol=1e-5)


def test_a_row_goes_on_from_the_state_it_was_left_in(layer):
    hidden = memory = tf.zeros((2, UNITS))
    parts = []
    for piece in (X[:, :3], X[:, 3:4], X[:, 4:]):
        h, c = layer.states(piece, hidden, memory)
        parts.append(h)
        hidden, memory = h[:, -1], c[:, -1]
    np.testing.assert_allclose(np.concatenate(parts, 1), layer(X), atol=1e-5)


def test_a_document_forgets_what_stood_before_it(layer):
    zeros, starts = tf.zeros((2, UNITS)), np.zeros((2, LENGTH), bool)
    starts[:, 4] = True
    states = np.asarray(layer.states(X, zeros, zeros, tf.constant(starts))[0])
    np.testing.assert_allclose(states[:, :4], layer(X[:, :4]), atol=1e-5)
    np.testing.assert_allclose(states[:, 4:], layer(X[:, 4:]), atol=1e-5)


def test_gradients_of_both_ways_are_equal(layer):
    variables = [v.value for v in layer.trainable_variables]
    zeros, found = tf.zeros((2, UNITS)), []
    for read in (layer, lambda x: layer.states(x, zeros, zeros)[0]):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(read(tf.constant(X)) ** 2)
        found.append(tape.gradient(loss, variables))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_weights_depend_on_the_seed_and_the_name_only():
    same, other = make(0), make(1)
    names = variables_by_name(same)
    assert sorted(names) == ["lstm/lstm_cell/bias", "lstm/lstm_cell/kernel", "lstm/lstm_cell/recurrent_kernel"]
    for name, again in variables_by_name(make(0)).items():
        np.testing.assert_array_equal(again.numpy(), names[name].numpy())
    assert not np.array_equal(same.lstm.get_weights()[0], other.lstm.get_weights()[0])
