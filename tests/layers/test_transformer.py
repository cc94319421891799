"""A block, written out by hand in numpy: both placements of the norm, both norms, every activation."""

import numpy as np
import pytest
from keras import ops
from numpy_transformer import attention, feed_forward, layer_norm, randomised, rms_norm, under

from aillm_tf.layers.dropout import fold
from aillm_tf.layers.feedforward import FeedForward
from aillm_tf.layers.normalization import norm_layer
from aillm_tf.layers.positions import rotary_angles, rotary_frequencies
from aillm_tf.layers.transformer import SITES, Block, Stack
from aillm_tf.models.config import TransformerConfig

CONFIG = TransformerConfig(
    vocab_size=10, hidden_size=12, layers=2, heads=3, ffn_size=20, position="none", dropout=0.0, attention_dropout=0.0
)
RNG = np.random.default_rng(2)
X = RNG.normal(size=(2, 5, 12)).astype("float32")
MEMORY = RNG.normal(size=(2, 7, 12)).astype("float32")


def built(layer, seed=0):
    layer.build((None, None, 12))
    return layer, randomised(layer, seed)


def test_a_post_ln_block_is_the_formula_of_vaswani_et_al():
    block, weights = built(Block(CONFIG))
    h = layer_norm(attention(X, under(weights, "attention"), 3, 3, 4) + X, under(weights, "attention_norm"))
    h = layer_norm(feed_forward(h, under(weights, "ffn")) + h, under(weights, "ffn_norm"))
    np.testing.assert_allclose(block(X), h, atol=2e-5)


def test_a_pre_ln_block_normalises_what_enters_a_sublayer():
    block, weights = built(Block(CONFIG.replace(norm_placement="pre")))
    normal = layer_norm(X, under(weights, "attention_norm"))
    h = X + attention(normal, under(weights, "attention"), 3, 3, 4)
    h = h + feed_forward(layer_norm(h, under(weights, "ffn_norm")), under(weights, "ffn"))
    np.testing.assert_allclose(block(X), h, atol=2e-5)


def test_a_sandwich_block_also_normalises_what_leaves_a_sublayer():
    block, weights = built(Block(CONFIG.replace(norm_placement="sandwich", norm="rms", norm_offset=1.0)))

    def norm(x, name):
        return rms_norm(x, {"scale": 1.0 + weights[f"{name}/scale"]}, CONFIG.norm_epsilon)

    h = attention(norm(X, "attention_norm"), under(weights, "attention"), 3, 3, 4)
    h = X + norm(h, "attention_post_norm")
    h = h + norm(feed_forward(norm(h, "ffn_norm"), under(weights, "ffn")), "ffn_post_norm")
    np.testing.assert_allclose(block(X), h, atol=2e-5)


def test_a_sandwich_block_also_normalises_what_leaves_cross_attention():
    block, weights = built(Block(CONFIG.replace(norm_placement="sandwich"), cross=True))
    assert under(weights, "cross_attention_post_norm").keys() == {"scale", "bias"}
    assert block(X, memory=MEMORY).shape == X.shape


def test_a_decoder_block_attends_to_itself_then_to_the_memory():
    block, weights = built(Block(CONFIG, cross=True))
    h = layer_norm(attention(X, under(weights, "attention"), 3, 3, 4) + X, under(weights, "attention_norm"))
    read = attention(h, under(weights, "cross_attention"), 3, 3, 4, MEMORY)
    h = layer_norm(read + h, under(weights, "cross_attention_norm"))
    h = layer_norm(feed_forward(h, under(weights, "ffn")) + h, under(weights, "ffn_norm"))
    np.testing.assert_allclose(block(X, memory=MEMORY), h, atol=2e-5)


def test_a_pre_ln_stack_ends_in_a_norm():
    stack, weights = built(Stack(CONFIG.replace(norm_placement="pre"), 1, causal=False, name="stack"))
    inside = stack.blocks[0](X).numpy().astype("float64")
    np.testing.assert_allclose(stack(X), layer_norm(inside, under(weights, "final_norm")), atol=2e-5)


def test_a_post_ln_stack_is_its_blocks_one_after_the_other():
    stack, _ = built(Stack(CONFIG, 2, causal=False, name="stack"))
    np.testing.assert_array_equal(stack(X), stack.blocks[1](stack.blocks[0](X)))


def test_shared_layers_are_one_block_run_again_and_again():
    stack, weights = built(Stack(CONFIG.replace(shared_layers=True), 3, causal=False, name="stack"))
    assert {name.split("/")[0] for name in weights} == {"layer_0"}
    block = stack.blocks[0]
    np.testing.assert_array_equal(stack(X), block(block(block(X))))


def test_shared_layers_drop_something_else_every_time():
    stack, _ = built(Stack(CONFIG.replace(shared_layers=True, dropout=0.5), 2, causal=False, name="stack"))
    seed = ops.convert_to_tensor([1, 2])
    block = stack.blocks[0]
    once = block(X, seed=fold(seed, SITES))
    assert np.abs(stack(X, seed=seed) - block(once, seed=fold(seed, SITES))).max() > 1e-2
    np.testing.assert_allclose(stack(X, seed=seed), block(once, seed=fold(seed, 2 * SITES)), atol=1e-6)


def test_only_layers_that_are_not_global_have_the_window():
    stack, _ = built(Stack(CONFIG.replace(window=2, global_layers=(1,)), 2, causal=False, name="stack"))
    near = ops.convert_to_tensor(
        np.where(np.abs(np.subtract.outer(np.arange(5), np.arange(5))) < 2, 0.0, -1e4), "float32"
    )
    inside = stack.blocks[0](X, bias=near[None, None])
    np.testing.assert_allclose(stack(X), stack.blocks[1](inside), atol=1e-6)


def test_layers_with_a_window_turn_by_a_theta_of_their_own_without_scaling():
    changes = {"position": "rotary", "window": 9, "rope_theta": 1e6, "rope_theta_window": 100.0, "global_layers": (1,)}
    config = CONFIG.replace(**changes, rope_scaling={"rope_type": "linear", "factor": 8.0})
    stack, _ = built(Stack(config, 2, causal=False, name="stack"))
    at = np.arange(5)[None]
    near, far = (rotary_angles(at, rotary_frequencies(4, theta) / by) for theta, by in ((100.0, 1), (1e6, 8)))
    expected = stack.blocks[1](stack.blocks[0](X, angles=near), angles=far)
    np.testing.assert_allclose(stack(X), expected, atol=1e-6)


def test_an_unknown_rope_scaling_is_refused_when_a_stack_is_made():
    with pytest.raises(ValueError, match="rope_scaling has the type 'dynamic'"):
        Stack(CONFIG.replace(position="rotary", rope_scaling={"type": "dynamic"}), 1, causal=False, name="stack")


def test_relative_positions_add_a_learned_bias_of_every_bucket_and_head():
    stack, weights = built(Stack(CONFIG.replace(position="relative"), 1, causal=False, name="stack"))
    bucket = np.array([[abs(k - q) + (16 if k > q else 0) for k in range(5)] for q in range(5)])
    bias = weights["relative"][bucket].transpose(2, 0, 1)[None].astype("float32")
    np.testing.assert_allclose(stack(X), stack.blocks[0](X, bias=ops.convert_to_tensor(bias)), atol=1e-5)


def test_alibi_adds_the_distance_times_a_slope():
    stack, _ = built(Stack(CONFIG.replace(position="alibi", heads=2), 1, causal=False, name="stack"))
    gap = -np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    bias = (gap * np.array([1 / 16, 1 / 256])[:, None, None])[None].astype("float32")
    np.testing.assert_allclose(stack(X), stack.blocks[0](X, bias=ops.convert_to_tensor(bias)), atol=1e-5)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu"])
def test_the_feed_forward_network_is_the_formula(activation, gated):
    layer, weights = built(FeedForward(CONFIG.replace(activation=activation, gated=gated)))
    np.testing.assert_allclose(layer(X), feed_forward(X, weights, activation, gated), atol=2e-5)


def test_the_feed_forward_network_has_no_biases_on_request():
    layer, weights = built(FeedForward(CONFIG.replace(bias=False)))
    assert set(weights) == {"up/kernel", "down/kernel"}
    np.testing.assert_allclose(layer(X), feed_forward(X, weights), atol=2e-5)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_activations_are_dropped_in_training_only(gated):
    layer, weights = built(FeedForward(CONFIG.replace(activation_dropout=0.5, gated=gated)))
    seed = ops.convert_to_tensor([1, 2])
    np.testing.assert_allclose(layer(X), feed_forward(X, weights, gated=gated), atol=2e-5)
    many = np.broadcast_to(X[:1, :1], (500, 5, 12))
    assert np.abs(layer(X, seed=seed) - layer(X)).max() > 1e-2
    np.testing.assert_allclose(ops.mean(layer(many, seed=seed), axis=(0, 1)), layer(X)[0, 0], atol=0.15)


def test_layer_norm_is_the_formula_also_of_a_sum():
    norm, weights = built(norm_layer("layer", 1e-5, name="norm"))
    other = X[::-1].copy()
    np.testing.assert_allclose(norm(X), layer_norm(X, weights, 1e-5), atol=1e-5)
    np.testing.assert_allclose(norm(X, residual=other), layer_norm(X + other, weights, 1e-5), atol=1e-5)


def test_rms_norm_is_the_formula_also_of_a_sum():
    norm, weights = built(norm_layer("rms", 1e-5, name="norm"))
    other = X[::-1].copy()
    np.testing.assert_allclose(norm(X), rms_norm(X, weights, 1e-5), atol=1e-5)
    np.testing.assert_allclose(norm(X, residual=other), rms_norm(X + other, weights, 1e-5), atol=1e-5)


def test_an_offset_is_added_to_the_scale_which_starts_at_zero():
    norm = norm_layer("rms", 1e-5, offset=1.0, name="norm")
    norm.build((None, None, 12))
    np.testing.assert_array_equal(norm.scale, np.zeros(12))
    np.testing.assert_allclose(norm(X), rms_norm(X, {"scale": 1.0}, 1e-5), atol=1e-5)
    scale = randomised(norm)["scale"]
    np.testing.assert_allclose(norm(X), rms_norm(X, {"scale": 1.0 + scale}, 1e-5), atol=1e-5)


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_norms_of_bfloat16_take_their_statistics_in_float32(kind):
    norm, _ = built(norm_layer(kind, 1e-6, name="norm", dtype="mixed_bfloat16"))
    exact = norm_layer(kind, 1e-6, name="norm", dtype="float32")
    exact.build((None, None, 12))
    for own, other in zip(exact.variables, norm.variables, strict=True):
        own.assign(other)
    x = ops.cast(X * 300.0, "bfloat16")  # sums of squares of bfloat16 would be off by far more than its rounding
    np.testing.assert_allclose(ops.cast(norm(x), "float32"), exact(ops.cast(x, "float32")), rtol=1e-2, atol=1e-3)
