"""Attention against the formula in numpy, with grouped queries, another memory, masks and rotary positions."""

import numpy as np
import pytest
from numpy_transformer import attention, randomised, softmax

from aillm_tf.layers.attention import Attention
from aillm_tf.layers.masks import BLOCKED, attention_bias
from aillm_tf.models.config import TransformerConfig

CONFIG = TransformerConfig(vocab_size=10, hidden_size=12, layers=1, heads=4, ffn_size=8, position="none")
RNG = np.random.default_rng(1)
X = RNG.normal(size=(2, 5, 12)).astype("float32")
MEMORY = RNG.normal(size=(2, 7, 12)).astype("float32")


def built(**changes):
    layer = Attention(CONFIG.replace(**changes))
    layer.build((None, None, 12))
    return layer, randomised(layer)


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
    layer, _ = built(head_size=4, position="rotary")
    near, far = np.arange(5)[None] + np.zeros((2, 1), int), np.arange(100, 105)[None] + np.zeros((2, 1), int)
    np.testing.assert_allclose(layer(X, positions=near), layer(X, positions=far), atol=1e-4)


def test_rotary_positions_change_the_result():
    layer, _ = built(head_size=4, position="rotary")
    moved = layer(X, positions=np.array([[0, 1, 2, 3, 9]] * 2))
    assert np.abs(moved - layer(X, positions=np.array([[0, 1, 2, 3, 4]] * 2))).max() > 1e-3


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
