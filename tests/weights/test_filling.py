"""Models that start with pretrained values."""

from __future__ import annotations

import keras
import ml_dtypes
import numpy as np
import pytest

from aillm_tf.layers.dense import Dense
from aillm_tf.weights.filling import filled, give, tensor
from aillm_tf.weights.reading import _aligned


def built() -> Dense:
    layer = Dense(3)
    layer.build((None, 2))
    return layer


def test_variables_start_with_what_is_given_and_the_others_with_their_own():
    values = np.arange(6, dtype="float32").reshape(2, 3)
    layer = filled(built, lambda layer: give(layer.kernel, lambda: values))
    np.testing.assert_array_equal(layer.kernel, values)
    np.testing.assert_array_equal(layer.bias, np.zeros(3))


def test_no_random_values_are_drawn_for_what_is_given(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("drew random numbers")

    monkeypatch.setattr(keras.initializers.TruncatedNormal, "__call__", refuse)
    filled(built, lambda layer: give(layer.kernel, lambda: np.ones((2, 3), "float32")))


def test_error_while_reading_is_raised_and_later_models_are_built_all_the_same():
    def broken():
        raise ValueError("the tensor is broken")

    with pytest.raises(ValueError, match="the tensor is broken"):
        filled(built, lambda layer: give(layer.kernel, broken))
    assert filled(built, lambda layer: None).kernel.shape == (2, 3)


def test_error_while_filling_is_raised_and_later_models_are_built_all_the_same():
    def refuse(layer):
        raise ValueError("does not fit")

    with pytest.raises(ValueError, match="does not fit"):
        filled(built, refuse)
    assert filled(built, lambda layer: None).kernel.shape == (2, 3)


def test_filled_model_trains():
    layer = filled(built, lambda layer: give(layer.kernel, lambda: _aligned((2, 3), np.dtype("float32"))))
    layer.kernel.assign(np.ones((2, 3)))
    keras.optimizers.SGD(1.0).apply([np.ones((2, 3), "float32")], [layer.kernel])
    np.testing.assert_array_equal(layer.kernel, np.zeros((2, 3)))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensor_takes_over_aligned_memory(dtype):
    array = _aligned((2, 3), np.dtype(getattr(ml_dtypes, dtype, dtype)))
    array[...] = 1
    taken = tensor(array)
    array[0, 0] = 5
    assert (str(taken.dtype.name), float(taken[0, 0])) == (dtype, 5.0)


def test_tensor_copies_what_is_read_only():
    array = np.ones((2, 3), "float32")
    array.flags.writeable = False
    np.testing.assert_array_equal(tensor(array, "bfloat16"), np.ones((2, 3)))
