"""Attention against the formula in numpy, with grouped queries, another memory, masks and rotary positions."""

import numpy as np
import pytest
from keras import ops
from numpy_transformer import attention, randomised, rms_norm, softmax

from aillm_tf.layers.attention import Attention
from aillm_tf.layers.masks import BLOCKED, attention_bias, past_bias, window_bias
from aillm_tf.layers.positions import rotary_angles, rotary_frequencies
from aillm_tf.models.config import TransformerConfig

CONFIG = TransformerConfig(vocab_size=10, hidden_size=12, layers=1, heads=4, ffn_size=8, position="none")
RNG = np.random.default_rng(1)
X = RNG.normal(size=(2, 5, 12)).astype("float32")
MEMORY = RNG.normal(size=(2, 7, 12)).astype("float32")


def built(**changes):
    layer = Attention(CONFIG.replace(**changes))
    layer.build((None, None, 12))
    return layer, randomised(layer)


def angles(*positions):
    return rotary_angles(np.array([positions] * 2), rotary_frequencies(4))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("memory", [None, MEMORY], ids=["self", "cross"])
def test_attention_is_the_formula(kv_heads, memory):
    layer, weights = built(kv_heads=kv_heads)
    expected = attention(X, weights, 4, kv_heads, 3, memory)
    np.testing.assert_allclose(layer(X, memory=memory), expected, atol=1e-5)


def test_a_head_may_be_wider_than_its_share():
    layer, weights = built(head_size=5)
    np.testing.assert_allclose(layer(X), attention(X, weights, 4, 4, 5), atol=1e-5)


def test_a_bias_of_every_head_query_and_key_is_added_to_the_scores():
    layer, weights = built()
    bias = RNG.normal(size=(2, 4, 5, 5)).astype("float32")
    np.testing.assert_allclose(layer(X, bias=bias), attention(X, weights, 4, 4, 3, bias=bias), atol=1e-5)


def test_grouped_queries_equal_repeated_key_and_value_heads():
    grouped, weights = built(kv_heads=2)
    full, _ = built()
    for name in ("kernel", "bias"):
        q, k, v = np.split(weights[f"qkv/{name}"], [12, 18], axis=-1)
        repeated = [np.repeat(t.reshape(*t.shape[:-1], 2, 3), 2, -2).reshape(*t.shape[:-1], 12) for t in (k, v)]
        getattr(full.qkv, name).assign(np.concatenate([q, *repeated], -1))
        getattr(full.out, name).assign(weights[f"out/{name}"])
    np.testing.assert_allclose(full(X), grouped(X), atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 1, 1, 5), (2, 1, 1, 5), (2, 1, 5, 5), (1, 4, 1, 5), (1, 4, 5, 5), (2, 4, 5, 5)])
@pytest.mark.parametrize("kv_heads", [2, 1])
def test_grouped_queries_take_a_bias_of_every_shape(shape, kv_heads):
    layer, weights = built(kv_heads=kv_heads)
    bias = RNG.normal(size=shape).astype("float32")
    found = layer(X, bias=ops.convert_to_tensor(bias))
    np.testing.assert_allclose(found, attention(X, weights, 4, kv_heads, 3, bias=bias), atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_a_scale_of_its_own_multiplies_the_scores(scale):
    layer, weights = built(attention_scale=scale)
    np.testing.assert_allclose(layer(X), attention(X, weights, 4, 4, 3, scale=scale), atol=1e-5)


def test_a_soft_cap_bounds_the_scores_before_the_bias():
    layer, weights = built(attention_softcap=1.5)
    bias = RNG.normal(size=(1, 1, 5, 5)).astype("float32")
    expected = attention(X, weights, 4, 4, 3, bias=bias, softcap=1.5)
    np.testing.assert_allclose(layer(X, bias=bias), expected, atol=1e-5)


def test_a_soft_cap_keeps_dropout():
    layer, _ = built(attention_softcap=1.5, attention_dropout=0.5)
    seed = ops.convert_to_tensor([1, 2])
    np.testing.assert_array_equal(layer(X, seed=seed), layer(X, seed=seed))
    assert np.abs(layer(X, seed=seed) - layer(X)).max() > 1e-2


@pytest.mark.parametrize("memory", [None, MEMORY], ids=["self", "cross"])
def test_query_and_key_are_normalised_head_by_head(memory):
    layer, weights = built(qk_norm=True, norm_epsilon=1e-3, norm_offset=1.0, norm="rms", kv_heads=2)
    on = {
        f"on_{name}": lambda x, name=name: rms_norm(x, {"scale": 1 + weights[f"{name}_norm/scale"]}, 1e-3)
        for name in ("query", "key")
    }
    np.testing.assert_allclose(layer(X, memory=memory), attention(X, weights, 4, 2, 3, memory, **on), atol=1e-5)


def test_query_and_key_are_normalised_before_they_are_rotated():
    layer, weights = built(qk_norm=True, head_size=4)
    half = np.exp(1j * np.arange(5)[:, None] * [1.0, 0.01])

    def on(name):
        def placed(x):
            x = rms_norm(x, {"scale": weights[f"{name}_norm/scale"]}, 1e-12)
            x = (x[..., :2] + 1j * x[..., 2:]) * half
            return np.concatenate([x.real, x.imag], -1)

        return placed

    expected = attention(X, weights, 4, 4, 4, on_query=on("query"), on_key=on("key"))
    np.testing.assert_allclose(layer(X, angles=angles(*range(5))), expected, atol=1e-5)


def test_masked_keys_have_no_influence():
    layer, _ = built()
    bias = attention_bias(np.array([[1, 1, 1, 0, 0]] * 2))
    changed = X.copy()
    changed[:, 3:] = 9.0
    np.testing.assert_array_equal(layer(X, bias=bias)[:, :3], layer(changed, bias=bias)[:, :3])


def test_biases_are_left_out_on_request():
    layer, weights = built(bias=False)
    assert set(weights) == {"qkv/kernel", "out/kernel"}
    assert layer(X).shape == X.shape


def test_query_key_and_value_may_have_biases_of_their_own():
    assert set(built(bias=False, qkv_bias=True)[1]) == {"qkv/kernel", "qkv/bias", "out/kernel"}


def test_rotary_scores_depend_on_distance_only():
    layer, _ = built(head_size=4)
    near, far = angles(*range(5)), angles(*range(100, 105))
    np.testing.assert_allclose(layer(X, angles=near), layer(X, angles=far), atol=1e-4)


def test_rotary_positions_change_the_result():
    layer, _ = built(head_size=4)
    moved = layer(X, angles=angles(0, 1, 2, 3, 9))
    assert np.abs(moved - layer(X, angles=angles(0, 1, 2, 3, 4))).max() > 1e-3


# Masks


def test_no_mask_where_everything_is_allowed():
    assert attention_bias() is None


def test_padding_causality_and_segments_block_together():
    valid, segments = np.array([[1, 1, 1, 0]]), np.array([[0, 0, 1, 1]])
    bias = attention_bias(valid, query_segments=segments, key_segments=segments, causal=True).numpy()
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(bias, np.where(np.array(expected)[None, None] == 1, 0.0, BLOCKED))


def test_a_blocked_key_vanishes_in_a_softmax_however_it_scores():
    assert softmax(np.array([0.0, 100.0 + BLOCKED], "float32"))[1] == 0.0


def test_a_query_anywhere_among_the_keys_sees_those_up_to_it():
    bias = past_bias(np.array([[0, 1], [2, 3]], "int32"), 4).numpy()
    expected = [[[1, 0, 0, 0], [1, 1, 0, 0]], [[1, 1, 1, 0], [1, 1, 1, 1]]]
    np.testing.assert_array_equal(bias[:, 0], np.where(np.array(expected) == 1, 0.0, BLOCKED))


def test_a_window_counts_the_token_itself_and_looks_both_ways():
    bias = window_bias(np.array([[0, 3]], "int32"), 5, 2).numpy()
    expected = [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]]
    np.testing.assert_array_equal(bias[0, 0], np.where(np.array(expected) == 1, 0.0, BLOCKED))
