import re

import keras
import pytest
import tensorflow as tf
from keras import ops

from aillm_tf.tpu import lint


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (tf.TensorSpec((8,), tf.string), "strings.*input pipeline"),
        (tf.TensorSpec((8, 16), tf.int64), "int64.*int32"),
        (tf.TensorSpec((8, 16), tf.float64), "float64.*float32"),
        (tf.TensorSpec((8, None), tf.int32), "not static.*fixed_length"),
    ],
)
def test_a_feature_a_tpu_refuses_is_named_with_the_mend(spec, told):
    found = lint.of_batch({"ok": tf.TensorSpec((8,), tf.int32), "ids": spec})
    assert [finding.where for finding in found] == ["feature 'ids'"]
    assert re.search(told, str(found[0]))


class Outer(keras.layers.Layer):
    def __init__(self, inner):
        super().__init__(name="encoder")
        self.inner = inner

    def call(self, x):
        return self.inner(x)


def layer(function) -> keras.layers.Layer:
    class Inner(keras.layers.Layer):
        def call(self, x):
            return function(x)

    return Outer(Inner(name="layer_3"))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (
            lambda x: tf.ensure_shape(tf.py_function(lambda y: y, [x], tf.float32), x.shape),
            "EagerPyFunc: it calls Python",
        ),
        (lambda x: tf.cast(tf.strings.length(tf.strings.as_string(x)), tf.float32), "strings"),
        (lambda x: tf.cast(tf.cast(x, tf.float64) * 2.0, tf.float32), "float64"),
        (lambda x: tf.cast(tf.where(x > 0), tf.float32), "depends on the values"),
    ],
)
def test_an_operation_a_tpu_refuses_is_named_with_its_layer(function, told):
    model = layer(function)
    graph = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((2, 4), tf.float32)).graph
    found = lint.of_graph(graph)
    assert {finding.where for finding in found} == {"encoder/layer_3"}
    assert told in str(found[0])


def test_a_sound_step_has_no_findings():
    model = layer(lambda x: ops.softmax(x))
    graph = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((2, 4), tf.float32)).graph
    assert lint.of_graph(graph) == []
