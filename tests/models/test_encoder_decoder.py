"""EncoderDecoder: the target sees its past and the whole source, and nothing of padding."""

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.layers.base import initial_seed
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
