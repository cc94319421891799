"""Positions: the formulas of the papers and known values of reference implementations."""

import numpy as np
import pytest

from aillm_tf.layers.positions import (
    alibi,
    alibi_slopes,
    relative_bucket,
    rotary_angles,
    rotary_frequencies,
    rotate,
    sinusoidal,
)


def test_sinusoids_are_those_of_vaswani_et_al():
    found = sinusoidal(np.arange(50), 8).numpy()
    for i in range(4):
        angle = np.arange(50) / 10_000 ** (2 * i / 8)
        np.testing.assert_allclose(found[:, i], np.sin(angle), atol=1e-5)
        np.testing.assert_allclose(found[:, 4 + i], np.cos(angle), atol=1e-5)


def rotary(x, positions):
    return rotate(x, rotary_angles(positions, rotary_frequencies(x.shape[-1])))


def test_rotary_turns_every_pair_by_its_own_angle():
    x = np.random.default_rng(0).normal(size=(1, 1, 3, 6)).astype("float32")
    found = rotary(x, np.array([[0, 1, 7]])).numpy()
    for at, position in enumerate([0, 1, 7]):
        for i in range(3):
            pair = complex(x[0, 0, at, i], x[0, 0, at, i + 3]) * np.exp(1j * position / 10_000 ** (2 * i / 6))
            np.testing.assert_allclose(found[0, 0, at, [i, i + 3]], [pair.real, pair.imag], atol=1e-5)


def test_rotary_products_depend_on_distance_only():
    q, k = np.random.default_rng(1).normal(size=(2, 1, 1, 1, 8)).astype("float32")

    def product(query, key):
        return float(np.sum(rotary(q, np.array([[query]])) * rotary(k, np.array([[key]]))))

    assert product(3, 10) == pytest.approx(product(203, 210), abs=1e-4)
    assert product(3, 10) != pytest.approx(product(3, 11), abs=1e-4)


def test_rotary_keeps_the_dtype():
    assert rotary(np.zeros((1, 1, 2, 4), "float16"), np.array([[0, 1]])).dtype == "float16"


# By transformers' ROPE_INIT_FUNCTIONS["llama3"] for 16 features and theta 500,000.
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}
LLAMA3_FREQUENCIES = [1.0, 0.07940301299095154, 0.004700753837823868, 0.0009115831344388425, 0.00017677668074611574]
LLAMA3_FREQUENCIES += [3.428102354519069e-05, 6.647869668086059e-06, 1.289173155782919e-06]


def test_llama3_scaling_slows_only_the_slow_turns():
    np.testing.assert_allclose(rotary_frequencies(16, 500_000.0, LLAMA3), LLAMA3_FREQUENCIES, rtol=1e-6)


@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_linear_scaling_slows_every_turn(key):
    scaled = rotary_frequencies(16, 100.0, {key: "linear", "factor": 4.0})
    np.testing.assert_allclose(scaled, rotary_frequencies(16, 100.0) / 4, rtol=1e-6)


def test_default_scaling_is_none():
    np.testing.assert_array_equal(rotary_frequencies(16, 1e6, {"rope_type": "default"}), rotary_frequencies(16, 1e6))


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ValueError, match="rope_scaling has the type 'yarn': supported are default, linear, llama3"):
        rotary_frequencies(16, scaling={"rope_type": "yarn", "factor": 4.0})


def test_a_scaling_that_lacks_a_number_is_refused():
    with pytest.raises(ValueError, match="'llama3' lacks low_freq_factor, high_freq_factor, original_max_position"):
        rotary_frequencies(16, scaling={"rope_type": "llama3", "factor": 8.0})


# First distance of every bucket, up to 200, by transformers' T5Attention._relative_position_bucket with 32 buckets and
# a longest distance of 128.
T5_BOTH = {0: 0, 1: 17, 2: 18, 3: 19, 4: 20, 5: 21, 6: 22, 7: 23, 8: 24, 12: 25, 16: 26, 23: 27, 32: 28, 46: 29}
T5_BOTH |= {64: 30, 91: 31}
T5_PAST = {n: n for n in range(17)}
T5_PAST |= {19: 17, 21: 18, 24: 19, 27: 20, 31: 21, 35: 22, 40: 23, 46: 24, 52: 25, 59: 26, 67: 27, 77: 28, 87: 29}
T5_PAST |= {99: 30, 113: 31}


def steps(starts: dict[int, int], until: int = 201) -> np.ndarray:
    """The value at 0, 1, 2 ..., given where each begins."""
    at = np.searchsorted(sorted(starts), np.arange(until), side="right") - 1
    return np.array([starts[key] for key in sorted(starts)])[at]


def test_buckets_of_both_directions_are_those_of_t5():
    found = relative_bucket(np.arange(-200, 201, dtype="int32"), 32, 128, bidirectional=True)
    after = steps(T5_BOTH)
    np.testing.assert_array_equal(found, np.concatenate([after[:0:-1] - 16, after]))


def test_buckets_of_the_past_are_those_of_t5():
    found = relative_bucket(np.arange(-200, 201, dtype="int32"), 32, 128, bidirectional=False)
    np.testing.assert_array_equal(found, np.concatenate([steps(T5_PAST)[:0:-1], np.zeros(201, int)]))


def test_slopes_for_a_power_of_two_are_a_geometric_sequence():
    np.testing.assert_array_equal(alibi_slopes(8), [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256])


def test_slopes_for_twelve_heads_continue_with_every_second_of_sixteen():
    expected = [*alibi_slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]
    np.testing.assert_allclose(alibi_slopes(12), expected, rtol=1e-6)


def test_alibi_falls_with_the_distance():
    bias = alibi(np.array([[0, 1, 2]]), np.array([[0, 1, 2]]), 2).numpy()
    gap = -np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    np.testing.assert_array_equal(bias, (gap * np.array([1 / 16, 1 / 256])[:, None, None])[None])
