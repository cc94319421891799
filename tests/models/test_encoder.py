"""Encoder and Decoder: who sees whom, padding, packed rows, partial reads, precision; for every kind of position."""

import json

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.layers.base import initial_seed
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.decoder import Decoder
from aillm_tf.models.encoder import Encoder

CONFIG = TransformerConfig(
    vocab_size=30, hidden_size=16, layers=2, heads=4, ffn_size=24, max_length=16, segments=2, initializer_range=0.3
)
POSITIONS = ["learned", "sinusoidal", "rotary", "relative", "alibi", "none"]
IDS = np.random.default_rng(4).integers(0, 30, (3, 9)).astype("int32")


def built(kind=Encoder, *, dtype="float32", **changes):
    backbone = kind(CONFIG.replace(**changes), dtype=dtype)
    with initial_seed(5):
        backbone.build()
    return backbone


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("placement", ["post", "pre"])
def test_padding_does_not_change_the_tokens(position, placement):
    encoder = built(position=position, norm_placement=placement)
    alone = encoder({"token_ids": IDS[:, :6], "valid": np.ones((3, 6), "int32")})
    valid = np.repeat([[1] * 6 + [0] * 3], 3, axis=0)
    np.testing.assert_allclose(encoder({"token_ids": IDS, "valid": valid})[:, :6], alone, atol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_decoder_sees_nothing_of_what_comes_later(position):
    decoder = built(Decoder, position=position)
    changed = IDS.copy()
    changed[:, 5:] = (changed[:, 5:] + 7) % 30
    before, after = decoder({"token_ids": IDS}).numpy(), decoder({"token_ids": changed}).numpy()
    np.testing.assert_allclose(before[:, :5], after[:, :5], atol=1e-6)
    assert np.abs(before[:, 5:] - after[:, 5:]).max() > 1e-2


def test_an_encoder_sees_what_comes_later():
    encoder = built()
    changed = IDS.copy()
    changed[:, 8] = (changed[:, 8] + 7) % 30
    assert np.abs(encoder({"token_ids": IDS})[:, 0] - encoder({"token_ids": changed})[:, 0]).max() > 1e-3


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_packed_rows_equal_rows_of_their_own(position, kind):
    backbone = built(kind, position=position)
    packed = {
        "token_ids": IDS[:1],
        "positions": np.array([[0, 1, 2, 3, 0, 1, 2, 0, 1]], "int32"),
        "packed_ids": np.array([[0, 0, 0, 0, 1, 1, 1, 2, 2]], "int32"),
    }
    found = backbone(packed).numpy()
    for start, end in ((0, 4), (4, 7), (7, 9)):
        alone = backbone({"token_ids": IDS[:1, start:end]})
        np.testing.assert_allclose(found[:, start:end], alone, atol=1e-5)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("placement", ["post", "pre"])
@pytest.mark.parametrize("kind", [Encoder, Decoder])
def test_a_partial_read_equals_the_full_computation_cut(position, placement, kind):
    backbone = built(kind, position=position, norm_placement=placement)
    features = {"token_ids": IDS, "valid": np.repeat([[1] * 7 + [0] * 2], 3, axis=0)}
    np.testing.assert_allclose(backbone(features, read=1), backbone(features)[:, :1], atol=1e-5)
    np.testing.assert_allclose(backbone(features, read=3), backbone(features)[:, :3], atol=1e-5)


def test_rows_before_the_position_offset_are_not_used():
    encoder = built(position_offset=2)
    assert encoder.embeddings.position.shape == (18, 16)
    plain, at = built(), np.arange(9)[None] + np.zeros((3, 1), "int32")
    for name, variable in variables_by_name(plain).items():
        value = variables_by_name(encoder)[name]
        variable.assign(value[2:] if name == "embeddings/position" else value)
    expected = plain({"token_ids": IDS})
    np.testing.assert_allclose(encoder({"token_ids": IDS}), expected, atol=1e-6)
    np.testing.assert_allclose(encoder({"token_ids": IDS, "positions": at.astype("int32")}), expected, atol=1e-6)


def test_position_and_segment_change_the_result():
    encoder = built()
    plain = encoder({"token_ids": IDS})
    for name in ("positions", "segment_ids"):
        moved = encoder({"token_ids": IDS, name: np.ones_like(IDS)})
        assert np.abs(plain - moved).max() > 1e-2, name


def test_no_segments_given_means_segment_0():
    encoder = built()
    zeros = np.zeros_like(IDS)
    np.testing.assert_allclose(
        encoder({"token_ids": IDS}), encoder({"token_ids": IDS, "segment_ids": zeros}), atol=1e-6
    )


def test_a_factorised_embedding_is_a_small_table_and_a_projection():
    encoder = built(embedding_size=6)
    weights = variables_by_name(encoder)
    assert weights["embeddings/token"].shape == (30, 6)
    assert weights["embeddings/projection/kernel"].shape == (6, 16)
    assert encoder({"token_ids": IDS}).shape == (3, 9, 16)


def test_a_factorised_embedding_equals_the_product_of_its_matrices():
    shape = {"embedding_norm": False, "position": "none", "segments": 0}
    small, full = built(embedding_size=6, **shape), built(**shape)
    values = {name: v.numpy() for name, v in variables_by_name(small).items()}
    kernel, bias = (values.pop(f"embeddings/projection/{part}") for part in ("kernel", "bias"))
    values["embeddings/token"] = values["embeddings/token"] @ kernel + bias
    for name, variable in variables_by_name(full).items():
        variable.assign(values[name])
    np.testing.assert_allclose(small({"token_ids": IDS}), full({"token_ids": IDS}), atol=1e-5)


def test_a_scale_multiplies_token_embeddings_only():
    plain, scaled = built(embedding_norm=False), built(embedding_norm=False, embedding_scale=4.0)
    plain.embeddings.token.assign(plain.embeddings.token * 4.0)
    np.testing.assert_allclose(scaled.embeddings(IDS), plain.embeddings(IDS), atol=1e-5)


def test_bfloat16_computes_in_bfloat16_and_keeps_weights_in_float32():
    exact, encoder = built(), built(dtype="mixed_bfloat16")
    assert {v.dtype for v in encoder.variables} == {"float32"}
    found = encoder({"token_ids": IDS})
    assert found.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(found, "float32"), exact({"token_ids": IDS}), atol=0.15)


@pytest.mark.parametrize("tied", [True, False])
def test_a_decoder_scores_the_vocabulary_in_float32(tied):
    decoder = built(Decoder, dtype="mixed_bfloat16", tie_embeddings=tied)
    logits = decoder.logits(decoder({"token_ids": IDS}))
    assert logits.shape == (3, 9, 30)
    assert logits.dtype == "float32"


def test_tied_scores_are_products_with_the_token_table():
    decoder = built(Decoder)
    hidden = decoder({"token_ids": IDS})
    expected = hidden.numpy() @ decoder.embeddings.token.numpy().T
    np.testing.assert_allclose(decoder.logits(hidden), expected, atol=1e-4)


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ValueError, match="17 tokens are more than the 16 rows of the position table"):
        built()({"token_ids": np.zeros((1, 17), "int32")})


def test_a_config_that_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match="hidden_size 16 is not a multiple of heads 3"):
        CONFIG.replace(heads=3)
    with pytest.raises(ValueError, match="heads 4 is not a multiple of kv_heads 3"):
        CONFIG.replace(kv_heads=3)
    with pytest.raises(ValueError, match="even head size"):
        CONFIG.replace(position="rotary", head_size=3)
    with pytest.raises(ValueError, match="activation_dropout is a share in"):
        CONFIG.replace(activation_dropout=1.0)
    with pytest.raises(ValueError, match="window 0 shows a token not even itself"):
        CONFIG.replace(window=0)
    with pytest.raises(ValueError, match='norm_offset 1.0 belongs to norm="rms"'):
        CONFIG.replace(norm_offset=1.0)
    with pytest.raises(ValueError, match="decoder_vocab_size belongs to an encoder-decoder"):
        CONFIG.replace(decoder_vocab_size=9)


def test_a_config_comes_back_from_its_dict():
    config = CONFIG.replace(window=4, global_layers=(1,), rope_scaling={"rope_type": "linear", "factor": 2.0})
    assert TransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ValueError, match="unknown TransformerConfig keys.*rope"):
        TransformerConfig.from_dict({**CONFIG.to_dict(), "rope": 1})
