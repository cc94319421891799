"""Decoder.step: hidden states with a cache of keys and values equal those computed all at once."""

import numpy as np
import pytest
import tensorflow as tf
from numpy_transformer import randomised

from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.decoder import Decoder

CONFIG = TransformerConfig(
    vocab_size=30, hidden_size=16, layers=3, heads=4, ffn_size=24, max_length=12, norm_placement="pre"
)
ROTARY = {"position": "rotary", "kv_heads": 2, "norm": "rms", "bias": False, "qk_norm": True}
FORMULAS = {
    "learned": {"position_offset": 2},
    "sinusoidal": {"position": "sinusoidal"},
    "rotary": ROTARY,
    "relative": {"position": "relative", "kv_heads": 1},
    "alibi": {"position": "alibi"},
    "window": {**ROTARY, "window": 3, "global_layers": (1,), "rope_theta_window": 100.0},
    "window_relative": {"position": "relative", "window": 4},
    "shared": {"shared_layers": True},
    "softcap": {**ROTARY, "attention_softcap": 1.0, "norm_placement": "sandwich"},
    "post": {"norm_placement": "post"},
}
EVERY = pytest.mark.parametrize("formula", FORMULAS)
IDS = np.random.default_rng(4).integers(0, 30, (3, 9)).astype("int32")
PROMPTS = np.array([5, 2, 4])  # lengths
CAPACITY = 11


def built(formula, dtype="float32"):
    decoder = Decoder(CONFIG.replace(**FORMULAS[formula]), dtype=dtype)
    decoder.build()
    randomised(decoder, scale=0.3)
    return decoder


def continued(decoder, ids, prompts, steps, at=tf.constant):
    """Hidden states of `steps` tokens after the prompts of every row, from the cache."""
    padded = np.where(np.arange(max(prompts)) < np.array(prompts)[:, None], ids[:, : max(prompts)], 29)
    _, cache = decoder.step(padded.astype("int32"), decoder.init_cache(len(ids), CAPACITY), 0)
    found = []
    for i in range(steps):
        next_ids = np.take_along_axis(ids, prompts[:, None] + i, axis=1)
        hidden, cache = decoder.step(next_ids, cache, at(prompts + i))
        found.append(hidden[:, 0])
    return np.stack(found, axis=1)


@EVERY
def test_a_prompt_at_once_equals_the_whole_computation(formula):
    decoder = built(formula)
    hidden, _ = decoder.step(IDS, decoder.init_cache(3, CAPACITY), 0)
    np.testing.assert_allclose(hidden, decoder({"token_ids": IDS}), atol=1e-5)


@EVERY
def test_prompts_of_different_length_go_on_as_each_would_alone(formula):
    decoder = built(formula)
    whole = decoder({"token_ids": IDS}).numpy()
    found = continued(decoder, IDS, PROMPTS, 4)
    for row, length in enumerate(PROMPTS):
        np.testing.assert_allclose(found[row], whole[row, length : length + 4], atol=1e-5)


@pytest.mark.parametrize("at", [int, tf.constant], ids=["int", "tensor"])
@EVERY
def test_several_tokens_at_once_may_follow_a_prompt(formula, at):
    decoder = built(formula)
    _, cache = decoder.step(IDS[:, :4], decoder.init_cache(3, CAPACITY), 0)
    hidden, _ = decoder.step(IDS[:, 4:], cache, at(4))
    np.testing.assert_allclose(hidden, decoder({"token_ids": IDS})[:, 4:], atol=1e-5)


def test_a_step_leaves_its_cache_as_it_was():
    decoder = built("rotary")
    _, cache = decoder.step(IDS[:, :4], decoder.init_cache(3, CAPACITY), 0)
    once, _ = decoder.step(IDS[:, 4:5], cache, tf.constant(4))
    again, _ = decoder.step(IDS[:, 4:5], cache, tf.constant(4))
    np.testing.assert_array_equal(once, again)


def test_rows_of_a_cache_may_change_places():
    decoder = built("rotary")
    order = tf.constant([2, 2, 0])
    _, cache = decoder.step(IDS[:, :4], decoder.init_cache(3, CAPACITY), 0)
    moved = tf.nest.map_structure(lambda x: tf.gather(x, order), cache)
    hidden, _ = decoder.step(IDS[:, 4:5], moved, tf.constant(4))
    rows = np.concatenate([IDS[order.numpy(), :4], IDS[:, 4:5]], axis=1)
    np.testing.assert_allclose(hidden, decoder({"token_ids": rows})[:, 4:5], atol=1e-5)


def test_all_steps_are_one_graph():
    decoder, traces = built("window"), []

    @tf.function
    def step(ids, cache, at):
        traces.append(1)
        return decoder.step(ids, cache, at)

    _, cache = decoder.step(IDS[:, :4], decoder.init_cache(3, CAPACITY), 0)
    for i in range(4, 7):
        hidden, cache = step(tf.constant(IDS[:, i : i + 1]), cache, tf.fill([3], i))
    assert len(traces) == 1
    np.testing.assert_allclose(hidden, decoder({"token_ids": IDS})[:, 6:7], atol=1e-5)


def test_a_step_compiles_with_xla():
    decoder = built("window")
    _, cache = decoder.step(IDS[:, :4], decoder.init_cache(3, CAPACITY), 0)
    arguments = (tf.constant(IDS[:, 4:5]), cache, tf.fill([3], 4))
    compiled, _ = tf.function(decoder.step, jit_compile=True)(*arguments)
    np.testing.assert_allclose(compiled, decoder.step(*arguments)[0], atol=1e-5)


def test_a_cache_keeps_its_shape_in_a_loop_of_unknown_batch():
    decoder = built("rotary")

    @tf.function(input_signature=[tf.TensorSpec([None, 9], "int32")])
    def last(ids):
        _, cache = decoder.step(ids[:, :4], decoder.init_cache(tf.shape(ids)[0], CAPACITY), 0)

        def body(i, cache, _):
            hidden, cache = decoder.step(tf.gather(ids, i, axis=1)[:, None], cache, i)
            return i + 1, cache, hidden

        hidden = tf.zeros([tf.shape(ids)[0], 1, 16])
        return tf.while_loop(lambda i, *_: i < 9, body, [4, cache, hidden])[2]

    np.testing.assert_allclose(last(IDS), decoder({"token_ids": IDS})[:, 8:], atol=1e-5)


def test_a_cache_is_kept_in_the_compute_dtype():
    decoder = built("rotary", dtype="mixed_bfloat16")
    cache = decoder.init_cache(3, CAPACITY)
    hidden, cache = decoder.step(IDS, cache, 0)
    assert {x.dtype for x in tf.nest.flatten(cache)} == {tf.bfloat16}
    whole = decoder({"token_ids": IDS})
    np.testing.assert_allclose(tf.cast(hidden, "float32"), tf.cast(whole, "float32"), atol=0.05)


def test_a_cache_has_the_key_and_value_heads_only():
    assert built("rotary").init_cache(3, CAPACITY)[0]["self"]["key"].shape == (3, 2, CAPACITY, 4)


def test_a_capacity_beyond_the_position_table_is_refused():
    with pytest.raises(ValueError, match="13 tokens are more than the 12 rows of the position table"):
        built("learned").init_cache(3, 13)


def test_a_tied_table_narrower_than_the_hidden_states_is_refused():
    with pytest.raises(ValueError, match="embedding_size 6 is not hidden_size 16.*tie_embeddings=False"):
        Decoder(CONFIG.replace(embedding_size=6))
