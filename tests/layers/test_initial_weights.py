"""Initial weights depend on the seed and their own name only."""

import numpy as np

from aillm_tf.layers.base import initial_seed
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.encoder import Encoder

CONFIG = TransformerConfig(vocab_size=30, hidden_size=8, layers=2, heads=2, ffn_size=16, segments=2)


def weights(seed=0, **changes):
    encoder = Encoder(CONFIG.replace(**changes))
    with initial_seed(seed):
        encoder.build()
    return {name: variable.numpy() for name, variable in variables_by_name(encoder).items()}


def test_two_models_in_one_process_are_equal():
    one, other = weights(), weights()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_another_seed_gives_other_weights():
    assert np.abs(weights(0)["embeddings/token"] - weights(1)["embeddings/token"]).max() > 0.01


def test_another_layer_leaves_the_others_as_they_were():
    two, three = weights(), weights(layers=3)
    for name in two:
        np.testing.assert_array_equal(two[name], three[name], err_msg=name)


def test_no_two_weights_are_alike():
    kernels = weights()
    one, other = (kernels[f"encoder/layer_{i}/attention/qkv/kernel"] for i in (0, 1))
    assert np.abs(one - other).max() > 0.01


def test_weights_are_drawn_from_a_truncated_normal():
    token = weights(vocab_size=5000, initializer_range=0.1)["embeddings/token"]
    assert np.abs(token).max() <= 0.2 + 1e-6
    assert abs(token.std() - 0.088) < 0.003  # that of a normal cut at two standard deviations
