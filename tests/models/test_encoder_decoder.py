"""EncoderDecoder: the target sees its past and the whole source, and nothing of padding."""

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.layers.base import initial_seed
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.encoder_decoder import EncoderDecoder

CONFIG = TransformerConfig(
    vocab_size=30,
    hidden_size=16,
    layers=2,
    decoder_layers=2,
    heads=4,
    ffn_size=24,
    max_length=16,
    initializer_range=0.3,
)
RNG = np.random.default_rng(6)
SOURCE, TARGET = RNG.integers(0, 30, (2, 7)).astype("int32"), RNG.integers(0, 30, (2, 5)).astype("int32")
POSITIONS = pytest.mark.parametrize("position", ["learned", "sinusoidal", "rotary", "relative", "alibi"])


def built(**changes):
    backbone = EncoderDecoder(CONFIG.replace(**changes), dtype="float32")
    with initial_seed(5):
        backbone.build()
    return backbone


@POSITIONS
def test_the_target_sees_its_past_only(position):
    backbone = built(position=position)
    changed = TARGET.copy()
    changed[:, 3:] = (changed[:, 3:] + 7) % 30
    before, after = (backbone({"token_ids": SOURCE, "target_ids": t}).numpy() for t in (TARGET, changed))
    assert before.shape == (2, 5, 16)
    np.testing.assert_allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert np.abs(before[:, 3:] - after[:, 3:]).max() > 1e-2


@POSITIONS
def test_padding_of_the_source_is_not_read(position):
    backbone = built(position=position)
    alone = backbone({"token_ids": SOURCE[:, :4], "target_ids": TARGET})
    valid = np.repeat([[1] * 4 + [0] * 3], 2, axis=0)
    padded = backbone({"token_ids": SOURCE, "valid": valid, "target_ids": TARGET})
    np.testing.assert_allclose(padded, alone, atol=1e-5)


def test_every_target_token_sees_the_last_source_token():
    backbone = built()
    changed = SOURCE.copy()
    changed[:, 6] = (changed[:, 6] + 7) % 30
    before, after = (backbone({"token_ids": s, "target_ids": TARGET}).numpy() for s in (SOURCE, changed))
    assert np.abs(before - after).max(-1).min() > 1e-4


@pytest.mark.parametrize("changes", [{"position": "relative"}, {"norm_placement": "pre"}], ids=str)
def test_recomputing_blocks_does_not_change_any_gradient(changes):
    gradients = []
    for remat in (False, True):
        backbone = built(remat=remat, layers=1, decoder_layers=1, **changes)
        variables = [v.value for v in backbone.trainable_variables]

        @tf.function
        def gradient(backbone=backbone, variables=variables):
            with tf.GradientTape() as tape:
                hidden = backbone({"token_ids": SOURCE, "target_ids": TARGET}, seed=tf.constant([1, 2]))
                loss = tf.reduce_sum(hidden * tf.cos(tf.range(16.0)))
            return [tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)]

        gradients.append(gradient())
    names = [v.path for v in backbone.trainable_variables]
    for name, kept, recomputed in zip(names, *gradients, strict=True):
        np.testing.assert_allclose(recomputed, kept, atol=1e-4, err_msg=name)


def test_an_encoder_decoder_needs_decoder_layers():
    with pytest.raises(ValueError, match="decoder_layers > 0"):
        built(decoder_layers=0)


@POSITIONS
def test_packed_rows_equal_rows_of_their_own(position):
    backbone = built(position=position)
    packed = {
        "token_ids": SOURCE[:1],
        "positions": np.array([[0, 1, 2, 3, 0, 1, 2]], "int32"),
        "packed_ids": np.array([[0, 0, 0, 0, 1, 1, 1]], "int32"),
        "target_ids": TARGET[:1],
        "target_positions": np.array([[0, 1, 0, 1, 2]], "int32"),
        "target_packed_ids": np.array([[0, 0, 1, 1, 1]], "int32"),
    }
    found = backbone(packed).numpy()
    for source, target in ((slice(0, 4), slice(0, 2)), (slice(4, 7), slice(2, 5))):
        alone = backbone({"token_ids": SOURCE[:1, source], "target_ids": TARGET[:1, target]})
        np.testing.assert_allclose(found[:, target], alone, atol=1e-5)


def test_padding_before_a_target_is_not_read():
    backbone = built(position="rotary")
    alone = backbone({"token_ids": SOURCE, "target_ids": TARGET[:, 2:]})
    padded = {
        "token_ids": SOURCE,
        "target_ids": TARGET,
        "target_valid": np.repeat([[0, 0, 1, 1, 1]], 2, axis=0),
    }
    np.testing.assert_allclose(backbone(padded)[:, 2:], alone, atol=1e-5)


def test_both_sides_have_positions_of_their_own_and_one_token_table():
    names = {name for name in variables_by_name(built()) if "embeddings" in name}
    sides = {f"{side}/{part}" for side in ("embeddings", "decoder_embeddings") for part in ("position", "norm/scale")}
    assert names == {"embeddings/token", "embeddings/norm/bias", "decoder_embeddings/norm/bias"} | sides


def test_a_decoder_vocabulary_has_a_table_that_also_scores():
    backbone = built(decoder_vocab_size=20)
    hidden = backbone({"token_ids": SOURCE, "target_ids": TARGET % 20})
    expected = hidden.numpy() @ variables_by_name(backbone)["decoder_embeddings/token"].numpy().T
    np.testing.assert_allclose(backbone.logits(hidden), expected, atol=1e-4)


FORMULAS = {
    "learned": {"position_offset": 2, "logit_bias": True},
    "sinusoidal": {"position": "sinusoidal", "decoder_vocab_size": 30},
    "rotary": {"position": "rotary", "kv_heads": 2, "qk_norm": True},
    "relative": {"position": "relative", "norm_placement": "pre", "attention_scale": 1.0, "norm": "rms"},
    "alibi": {"position": "alibi", "window": 3},
}


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_step_with_a_cache_equals_the_whole_computation(formula):
    backbone = built(**FORMULAS[formula])
    valid = np.array([[1] * 7, [1] * 4 + [0] * 3], "int32")
    source = {"token_ids": SOURCE, "valid": valid}
    whole = backbone({**source, "target_ids": TARGET}).numpy()
    cache = backbone.init_cache(backbone.encode(source), 6, valid=valid)
    first, cache = backbone.step(TARGET[:, :2], cache, 0)
    np.testing.assert_allclose(first, whole[:, :2], atol=1e-5)
    for at in ([2, 2], [3, 3], [4, 4]):
        hidden, cache = backbone.step(TARGET[:, at[0] : at[0] + 1], cache, tf.constant(at))
        np.testing.assert_allclose(hidden[:, 0], whole[:, at[0]], atol=1e-5)


def test_target_prompts_of_different_length_go_on_as_each_would_alone():
    backbone = built()
    whole = backbone({"token_ids": SOURCE, "target_ids": TARGET}).numpy()
    cache = backbone.init_cache(backbone.encode({"token_ids": SOURCE}), 6)
    prompts = np.stack([TARGET[0, :3], [TARGET[1, 0], 9, 9]])
    _, cache = backbone.step(prompts, cache, 0)
    next_ids = np.array([[TARGET[0, 3]], [TARGET[1, 1]]])
    hidden, _ = backbone.step(next_ids, cache, tf.constant([3, 1]))
    np.testing.assert_allclose(hidden[:, 0], np.stack([whole[0, 3], whole[1, 1]]), atol=1e-5)


def test_keys_and_values_of_the_source_are_computed_once():
    backbone = built()
    cache = backbone.init_cache(backbone.encode({"token_ids": SOURCE}), 6)
    _, after = backbone.step(TARGET[:, :2], cache, 0)
    assert after["layers"][0]["memory"]["key"] is cache["layers"][0]["memory"]["key"]
