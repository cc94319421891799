"""Gemma 1, 2 and 3 (text) against golden numbers from transformers (tests/golden/make_gemma.py)."""

from __future__ import annotations

import numpy as np
import pytest
from decoders import (
    GOLDEN,
    assert_hidden_states,
    assert_logits,
    assert_logits_after_a_prompt,
    assert_logits_of_packed_documents,
    assert_same_tensors,
    read,
    saved_again,
    written_again,
)

from aillm_tf.weights.backbones import load_backbone
from aillm_tf.weights.loading import load_pretrained

MODELS = ["gemma", "gemma2", "gemma3_text"]
# as published
GEMMA_2B = {
    "architectures": ["GemmaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 16384,
    "max_position_embeddings": 8192,
    "model_type": "gemma",
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "vocab_size": 256000,
}
GEMMA_2_2B = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "initializer_range": 0.02,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "vocab_size": 256000,
}
GEMMA_3_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "vocab_size": 262144,
}
PUBLISHED = [GEMMA_2B, GEMMA_2_2B, GEMMA_3_1B]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "gemma.npz"))


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """Name and backbone of every kind."""
    return request.param, load_backbone(GOLDEN / request.param)[0]


def test_hidden_states(model, golden):
    assert_hidden_states(model[1], golden, model[0])


def test_logits(model, golden):
    assert_logits(model[1], golden, model[0])


def test_logits_of_packed_documents(model, golden):
    assert_logits_of_packed_documents(model[1], golden, model[0])


def test_logits_after_a_prompt_in_the_cache(model, golden):
    assert_logits_after_a_prompt(model[1], golden, model[0])


@pytest.mark.parametrize("name", MODELS)
def test_weights_through_our_names_and_back_are_bit_equal(name, tmp_path):
    assert_same_tensors(saved_again(GOLDEN / name, tmp_path), GOLDEN / name)


@pytest.mark.parametrize("name", MODELS)
def test_saved_config_is_the_same_model(name, tmp_path):
    assert load_pretrained(saved_again(GOLDEN / name, tmp_path)).config == load_pretrained(GOLDEN / name).config


@pytest.mark.parametrize("values", PUBLISHED, ids=lambda values: values["model_type"])
def test_published_config_is_written_as_it_was_read(values):
    assert written_again(values) == read(values)


@pytest.mark.parametrize("values", PUBLISHED, ids=lambda values: values["model_type"])
def test_published_config_is_read(values):
    config = read(values)
    assert config.head_width == 256
    assert config.embedding_scale == values["hidden_size"] ** 0.5
    assert (config.norm_offset, config.tie_embeddings, config.activation) == (1.0, True, "gelu_tanh")


def test_published_gemma2_has_a_window_in_every_other_layer():
    config = read(GEMMA_2_2B)
    assert (config.window, config.global_layers) == (4096, tuple(range(1, 26, 2)))
    assert (config.attention_softcap, config.logit_softcap) == (50.0, 30.0)


def test_published_gemma3_has_a_window_in_five_of_six_layers_and_two_bases():
    config = read(GEMMA_3_1B)
    assert (config.window, config.global_layers) == (512, (5, 11, 17, 23))
    assert (config.rope_theta, config.rope_theta_window) == (1_000_000, 10_000)


def test_other_scale_of_scores_is_written_as_the_whole_number_it_was():
    values = GEMMA_2_2B | {"query_pre_attn_scalar": 144, "head_dim": 128}  # as gemma-2-27b
    assert read(values).attention_scale == 1 / 12
    assert written_again(values) == read(values)


def test_soft_caps_that_are_switched_off():
    config = read(GEMMA_2_2B | {"attn_logit_softcapping": None, "final_logit_softcapping": None})
    assert (config.attention_softcap, config.logit_softcap) == (None, None)


def test_old_and_new_keys_of_gemma3_say_the_same():
    rope = {"rope_scaling", "rope_theta", "rope_local_base_freq", "sliding_window_pattern"}
    scaling = {"rope_type": "linear", "factor": 8.0}
    new = {key: value for key, value in GEMMA_3_1B.items() if key not in rope} | {
        "rope_parameters": {
            "full_attention": {"rope_theta": 1_000_000, **scaling},
            "sliding_attention": {"rope_theta": 10_000, "rope_type": "default"},
        },
        "layer_types": ["full_attention" if i % 6 == 5 else "sliding_attention" for i in range(26)],
    }
    assert read(new) == read(GEMMA_3_1B | {"rope_scaling": scaling})


@pytest.mark.parametrize(
    "values, changes, message",
    [
        (GEMMA_2B, {"attention_bias": True}, "attention_bias is True"),
        (GEMMA_3_1B, {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        (GEMMA_3_1B, {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        (GEMMA_3_1B, {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2}}}, "are scaled"),
        (GEMMA_3_1B, {"model_type": "gemma3"}, "model_type 'gemma3' is not supported"),
    ],
)
def test_other_formulas_are_refused_by_name(values, changes, message):
    with pytest.raises(ValueError, match=message):
        read(values | changes)


@pytest.mark.parametrize(
    ("key", "field", "usual"),
    [
        ("sliding_window", "window", 4096),
        ("attn_logit_softcapping", "attention_softcap", 50.0),
        ("final_logit_softcapping", "logit_softcap", 30.0),
    ],
)
def test_null_is_none_and_a_missing_key_is_the_usual_value(key, field, usual):
    config = {name: value for name, value in GEMMA_2_2B.items() if name not in (key, "layer_types")}
    assert getattr(read(config), field) == usual
    assert getattr(read(config | {key: None}), field) is None
