"""Llama, Mistral, Qwen2 and Qwen3 against golden numbers from transformers (tests/golden/make_llama.py)."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from decoders import (
    GOLDEN,
    assert_hidden_states,
    assert_logits,
    assert_logits_after_a_prompt,
    assert_logits_of_packed_documents,
    assert_same_tensors,
    assert_scores,
    read,
    respelled,
    saved_again,
    written_again,
)
from safetensors.numpy import load_file

from aillm_tf.weights.backbones import load_backbone, new_backbone
from aillm_tf.weights.loading import load_pretrained

MODELS = ["llama", "llama_bias", "mistral", "qwen2", "qwen3"]
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}
# as published
LLAMA_3_2_1B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": LLAMA3,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 128256,
}
SMOLLM2_135M = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 576,
    "initializer_range": 0.041666666666666664,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_interleaved": False,
    "rope_scaling": None,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "vocab_size": 49152,
}
MISTRAL_7B_V0_1 = {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}
QWEN2_5_0_5B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3_0_6B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
PUBLISHED = [LLAMA_3_2_1B, SMOLLM2_135M, MISTRAL_7B_V0_1, QWEN2_5_0_5B, QWEN3_0_6B]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "llama.npz"))


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


def test_input_beyond_max_positions_is_computed(golden):
    # whatever the model was trained on, as transformers does
    backbone, _ = load_backbone(GOLDEN / "llama_bias")
    assert backbone.config.max_length < golden["batch_token_ids"].shape[1]
    assert_logits(backbone, golden, "llama_bias")


def test_scores_of_classes_are_read_at_the_last_token(golden):
    pretrained = load_pretrained(GOLDEN / "qwen2_classifier")
    backbone = new_backbone(pretrained.config)
    for variable in backbone.variables:
        name = "backbone/" + variable.path.partition("/")[2]
        if name != "backbone/head/kernel":
            variable.assign(pretrained.read(name))
    assert_scores(backbone, pretrained.read("classifier/kernel"), golden, "qwen2_classifier")


@pytest.mark.parametrize("name", [*MODELS, "qwen2_classifier"])
def test_weights_through_our_names_and_back_are_bit_equal(name, tmp_path):
    assert_same_tensors(saved_again(GOLDEN / name, tmp_path), GOLDEN / name)


@pytest.mark.parametrize("name", MODELS)
def test_saved_config_is_the_same_model(name, tmp_path):
    assert load_pretrained(saved_again(GOLDEN / name, tmp_path)).config == load_pretrained(GOLDEN / name).config


def test_copy_of_a_tied_head_is_known_and_left_out(tmp_path):
    def copied(tensors):
        return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}

    folder = respelled(GOLDEN / "qwen2", tmp_path / "copied", copied)
    assert load_pretrained(folder).shapes == load_pretrained(GOLDEN / "qwen2").shapes


def test_frequencies_that_older_versions_wrote_are_left_out(tmp_path):
    def older(tensors):
        return tensors | {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(4, "float32") for i in range(2)}

    assert load_pretrained(respelled(GOLDEN / "llama", tmp_path / "older", older)).unused == ()


def test_bare_model_has_no_prefix(tmp_path):
    def bare(tensors):
        return {name.removeprefix("model."): value for name, value in tensors.items() if name != "lm_head.weight"}

    folder = respelled(GOLDEN / "llama", tmp_path / "bare", bare, architectures=["LlamaModel"])
    expected = set(load_pretrained(GOLDEN / "llama").names) - {"backbone/head/kernel"}
    assert set(load_pretrained(folder).names) == expected


def test_bfloat16_checkpoint_keeps_every_value(tmp_path):
    def rounded(tensors):
        return {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}

    half = load_pretrained(respelled(GOLDEN / "llama", tmp_path / "half", rounded))
    theirs = load_file(GOLDEN / "llama" / "model.safetensors")
    expected = np.concatenate([theirs[f"model.layers.0.mlp.{part}_proj.weight"].T for part in ("gate", "up")], axis=1)
    np.testing.assert_array_equal(
        half.read("backbone/encoder/layer_0/ffn/up/kernel"), expected.astype(ml_dtypes.bfloat16).astype("float32")
    )


def test_bfloat16_checkpoint_is_written_again_in_the_same_bits(tmp_path):
    def rounded(tensors):
        return {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}

    half = respelled(GOLDEN / "qwen3", tmp_path / "half", rounded)
    assert_same_tensors(saved_again(half, tmp_path / "again", dtype="bfloat16"), half)


@pytest.mark.parametrize("values", PUBLISHED, ids=lambda values: values["model_type"])
def test_published_config_is_written_as_it_was_read(values):
    assert written_again(values) == read(values)


@pytest.mark.parametrize(
    "values, head_width, kv_heads, tied",
    [
        (LLAMA_3_2_1B, 64, 8, True),
        (SMOLLM2_135M, 64, 3, True),
        (MISTRAL_7B_V0_1, 128, 8, False),
        (QWEN2_5_0_5B, 64, 2, True),
        (QWEN3_0_6B, 128, 8, True),
    ],
    ids=["llama_3_2_1b", "smollm2_135m", "mistral_7b", "qwen2_5_0_5b", "qwen3_0_6b"],
)
def test_published_config_is_read(values, head_width, kv_heads, tied):
    config = read(values)
    assert (config.head_width, config.key_value_heads, config.tie_embeddings) == (head_width, kv_heads, tied)
    assert (config.position, config.norm, config.norm_placement, config.gated) == ("rotary", "rms", "pre", True)
    assert (config.max_length, config.rope_theta) == (values["max_position_embeddings"], values["rope_theta"])


def test_only_qwen2_has_biases_of_query_key_and_value():
    assert [bool(read(values).qkv_bias) for values in PUBLISHED] == [False, False, False, True, False]


def test_only_qwen3_normalises_query_and_key():
    assert [read(values).qk_norm for values in PUBLISHED] == [False, False, False, False, True]


def test_only_mistral_has_a_window():
    assert [read(values).window for values in PUBLISHED] == [None, None, 4096, None, None]


def test_mistral_that_says_nothing_of_its_window_has_the_usual_one():
    assert read({key: value for key, value in MISTRAL_7B_V0_1.items() if key != "sliding_window"}).window == 4096


def test_mistral_without_a_window():
    assert read(MISTRAL_7B_V0_1 | {"sliding_window": None}).window is None


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
        {"rope_theta": 500000.0, "rope_scaling": {"type": "llama3", **LLAMA3}},
        {"rope_parameters": {"rope_theta": 500000.0, **LLAMA3}},
    ],
    ids=["rope_scaling", "type", "rope_parameters"],
)
def test_rope_scaling_is_read_from_old_and_new_keys(keys):
    values = {key: value for key, value in LLAMA_3_2_1B.items() if not key.startswith("rope_")}
    config = read(values | keys)
    assert (config.rope_theta, config.rope_scaling) == (500000.0, LLAMA3)


def test_original_length_is_that_of_the_model_where_rope_scaling_has_none():
    scaling = {key: value for key, value in LLAMA3.items() if key != "original_max_position_embeddings"}
    config = read(LLAMA_3_2_1B | {"rope_scaling": scaling})
    assert config.rope_scaling["original_max_position_embeddings"] == 131072


@pytest.mark.parametrize(
    "changes",
    [{"max_window_layers": 20}, {"layer_types": ["full_attention"] * 20 + ["sliding_attention"] * 4}],
    ids=["max_window_layers", "layer_types"],
)
def test_qwen_with_a_window_in_the_last_layers(changes):
    config = read(QWEN2_5_0_5B | {"use_sliding_window": True, "sliding_window": 512} | changes)
    assert (config.window, config.global_layers) == (512, tuple(range(20)))


def test_qwen_with_a_window_is_written_as_it_was_read():
    values = QWEN2_5_0_5B | {"use_sliding_window": True, "max_window_layers": 20}
    assert written_again(values) == read(values)


@pytest.mark.parametrize(
    "values, changes, message",
    [
        (LLAMA_3_2_1B, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn': supported are"),
        (LLAMA_3_2_1B, {"rope_scaling": {"rope_type": "linear"}}, "'linear' lacks factor"),
        (LLAMA_3_2_1B, {"rope_scaling": "linear"}, "rope_scaling is 'linear', not a table"),
        (LLAMA_3_2_1B, {"rope_parameters": {"partial_rotary_factor": 0.5}, "rope_scaling": None}, "partial_rotary"),
        (LLAMA_3_2_1B, {"attention_bias": True}, "only both or neither"),
        (LLAMA_3_2_1B, {"hidden_act": "tanh"}, "hidden_act is 'tanh'"),
        (LLAMA_3_2_1B, {"num_key_value_heads": "8"}, "num_key_value_heads is '8'"),
        (SMOLLM2_135M, {"rope_interleaved": True}, "rope_interleaved is True"),
        (QWEN3_0_6B, {"attention_bias": True}, "attention_bias is True"),
        (QWEN3_0_6B, {"layer_types": ["full_attention"]}, "not a list of 28 entries"),
        (QWEN3_0_6B, {"num_hidden_layers": 10**12}, "no model has so many"),
        (QWEN3_0_6B, {"layer_types": ["chunked_attention"] * 28}, "layer_types has chunked_attention"),
        (QWEN3_0_6B, {"layer_types": ["sliding_attention"] * 28}, "there is no sliding_window"),
    ],
)
def test_other_formulas_are_refused_by_name(values, changes, message):
    with pytest.raises(ValueError, match=message):
        read(values | changes)


def test_stored_config_holds_the_keys_that_all_versions_of_transformers_read(tmp_path):
    values = json.loads((saved_again(GOLDEN / "llama", tmp_path) / "config.json").read_text())
    assert values["rope_theta"] == 10_000.0
    assert values["rope_scaling"]["rope_type"] == "llama3"
