"""The formulas of published families, each a TransformerConfig, against numpy; their gradients, precision and remat."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from numpy_models import decoder, encoder, encoder_decoder
from numpy_transformer import randomised

from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.decoder import Decoder
from aillm_tf.models.encoder import Encoder
from aillm_tf.models.encoder_decoder import EncoderDecoder

BASE = TransformerConfig(vocab_size=30, hidden_size=16, layers=2, heads=4, ffn_size=24, max_length=12)
PRE = {"norm_placement": "pre", "embedding_norm": False}
LLAMA = {**PRE, "norm": "rms", "norm_epsilon": 1e-5, "bias": False, "position": "rotary", "activation": "silu"}
LLAMA |= {"gated": True, "kv_heads": 2, "tie_embeddings": False}
GEMMA = {**LLAMA, "norm_offset": 1.0, "activation": "gelu_tanh", "embedding_scale": 4.0, "head_size": 6}
GEMMA |= {"kv_heads": 1, "tie_embeddings": True}
GEMMA2 = {**GEMMA, "norm_placement": "sandwich", "window": 3, "attention_scale": 0.3}
T5 = {**PRE, "norm": "rms", "norm_epsilon": 1e-6, "bias": False, "position": "relative", "activation": "relu"}
T5 |= {"attention_scale": 1.0, "decoder_layers": 3, "head_size": 3, "activation_dropout": 0.1}
BART = {"decoder_layers": 1, "position_offset": 2, "logit_bias": True, "embedding_scale": 4.0}
MARIAN = {**BART, "position": "sinusoidal", "position_offset": 0, "embedding_norm": False, "activation": "silu"}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}

FAMILIES = {
    "bert": (Encoder, {"segments": 2}),
    "distilbert": (Encoder, {}),
    "roberta": (Encoder, {"segments": 1, "position_offset": 2}),
    "albert": (Encoder, {"segments": 2, "embedding_size": 6, "shared_layers": True, "layers": 3}),
    "electra": (Encoder, {"segments": 2, "embedding_size": 6}),
    "gpt2": (Decoder, {**PRE, "activation": "gelu_tanh"}),
    "llama": (Decoder, {**LLAMA, "rope_scaling": LLAMA3}),
    "llama_linear": (Decoder, {**LLAMA, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "mistral": (Decoder, {**LLAMA, "window": 3}),
    "qwen2": (Decoder, {**LLAMA, "qkv_bias": True}),
    "qwen3": (Decoder, {**LLAMA, "qk_norm": True, "head_size": 6}),
    "gemma": (Decoder, GEMMA),
    "gemma2": (Decoder, {**GEMMA2, "global_layers": (1,), "attention_softcap": 1.5, "logit_softcap": 2.0}),
    "gemma3": (
        Decoder,
        {
            **GEMMA2,
            "layers": 3,
            "qk_norm": True,
            "global_layers": (2,),
            "rope_theta": 1e6,
            "rope_theta_window": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "t5": (EncoderDecoder, {**T5, "logit_scale": 0.25}),
    "mt5": (EncoderDecoder, {**T5, "activation": "gelu_tanh", "gated": True, "tie_embeddings": False}),
    "bart": (EncoderDecoder, BART),
    "mbart": (EncoderDecoder, {**BART, "norm_placement": "pre"}),
    "marian": (EncoderDecoder, MARIAN),
    "marian_separate": (EncoderDecoder, {**MARIAN, "decoder_vocab_size": 20}),
}
RNG = np.random.default_rng(8)
IDS, TARGET = RNG.integers(0, 30, (2, 7)).astype("int32"), RNG.integers(0, 20, (2, 6)).astype("int32")
VALID = np.array([[1] * 7, [1] * 5 + [0] * 2], "int32")
SMALL = 0.3  # standard deviation of the weights
EVERY = pytest.mark.parametrize("family", FAMILIES)


@functools.cache
def built(family, dtype="float32", remat=False):
    kind, changes = FAMILIES[family]
    model = kind(BASE.replace(**changes, remat=remat), dtype=dtype)
    model.build()
    return model, randomised(model, scale=SMALL)


def features(kind):
    if kind is EncoderDecoder:
        return {"token_ids": IDS, "valid": VALID, "target_ids": TARGET}
    return {"token_ids": IDS} if kind is Decoder else {"token_ids": IDS, "valid": VALID}


def scores(model, seed=None):
    """What a task reads: scores over the vocabulary, or an encoder's hidden states."""
    hidden = model(features(type(model)), seed=seed)
    return hidden if type(model) is Encoder else model.logits(hidden)


@EVERY
def test_the_model_is_the_published_formula(family):
    model, weights = built(family)
    if type(model) is EncoderDecoder:
        expected = encoder_decoder(model.config, weights, IDS, TARGET, VALID.astype(bool))
    elif type(model) is Decoder:
        expected = decoder(model.config, weights, IDS)
    else:
        expected = encoder(model.config, weights, IDS, VALID.astype(bool))
    found = scores(model).numpy()
    if type(model) is Encoder:
        found, expected = found[VALID == 1], expected[VALID == 1]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@functools.cache
def gradients(family, remat=False):
    model, _ = built(family, remat=remat)
    variables = [v.value for v in model.trainable_variables]

    @tf.function
    def gradient():
        with tf.GradientTape() as tape:
            y = scores(model, seed=tf.constant([1, 2]))
            loss = tf.reduce_mean(y * tf.cos(tf.range(tf.cast(tf.shape(y)[-1], "float32"))))
        return tape.gradient(loss, variables)

    names = [v.path for v in model.trainable_variables]
    return {name: tf.convert_to_tensor(g).numpy() for name, g in zip(names, gradient(), strict=True)}


@EVERY
def test_every_weight_learns(family):
    still = [name for name, gradient in gradients(family).items() if not np.abs(gradient).max() > 1e-7]
    assert not still


@pytest.mark.parametrize("family", ["albert", "gemma3", "t5", "mbart"])
def test_recomputing_blocks_does_not_change_any_gradient(family):
    kept, recomputed = gradients(family), gradients(family, remat=True)
    for name in kept:
        np.testing.assert_allclose(recomputed[name], kept[name], atol=1e-5, err_msg=name)


@EVERY
def test_bfloat16_stays_close_to_float32(family):
    exact, rounded = scores(built(family)[0]), tf.cast(scores(built(family, dtype="mixed_bfloat16")[0]), "float32")
    error = np.sqrt(np.mean((rounded - exact) ** 2) / np.mean(np.square(exact)))
    assert error < 0.03
