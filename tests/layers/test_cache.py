"""The cache of keys and values: what is written where, and what is read."""

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.layers.cache import positions_at, read_slots, write_slots

RNG = np.random.default_rng(9)
CACHE = RNG.normal(size=(2, 3, 6, 4)).astype("float32")
NEW = RNG.normal(size=(2, 3, 2, 4)).astype("float32")


def test_entries_from_a_number_on_replace_those_slots():
    expected = CACHE.copy()
    expected[:, :, 3:5] = NEW
    np.testing.assert_array_equal(write_slots(CACHE, NEW, 3), expected)


@pytest.mark.parametrize("at", [4, [1, 4]], ids=["one for all", "one a row"])
def test_entries_from_a_tensor_on_replace_those_slots(at):
    expected = CACHE.copy()
    for row, start in enumerate(np.broadcast_to(at, 2)):
        expected[row, :, start : start + 2] = NEW[row]
    np.testing.assert_array_equal(write_slots(CACHE, NEW, tf.constant(at)), expected)


def test_shapes_stay_known_where_batch_and_length_are_not():
    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 3, 6, 4]),
            tf.TensorSpec([None, 3, None, 4]),
            tf.TensorSpec([None], "int32"),
        ]
    )
    def write(cache, new, at):
        first, anywhere = write_slots(cache, new, 0), write_slots(cache, new, at)
        assert first.shape.as_list() == anywhere.shape.as_list() == [None, 3, 6, 4]
        return first, anywhere

    first, anywhere = write(CACHE, NEW, [1, 4])
    np.testing.assert_array_equal(first, write_slots(CACHE, NEW, 0))
    np.testing.assert_array_equal(anywhere, write_slots(CACHE, NEW, tf.constant([1, 4])))


def test_entries_take_the_dtype_of_the_cache():
    assert write_slots(tf.cast(CACHE, "bfloat16"), NEW, tf.constant(1)).dtype == "bfloat16"


def test_more_entries_than_slots_are_refused():
    with pytest.raises(ValueError, match="2 tokens from position 5 on do not fit a cache of 6"):
        write_slots(CACHE, NEW, 5)


def test_a_number_reads_only_the_slots_up_to_it():
    assert read_slots(CACHE, 1, 2).shape == (2, 3, 3, 4)
    assert read_slots(CACHE, tf.constant(1), 2).shape == CACHE.shape


def test_positions_count_from_where_the_first_token_stands():
    assert positions_at(2, 3).numpy().tolist() == [[2, 3, 4]]
    assert positions_at(tf.constant([0, 5]), 2).numpy().tolist() == [[0, 1], [5, 6]]
