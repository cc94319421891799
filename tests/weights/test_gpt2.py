"""GPT-2 against golden numbers from transformers (tests/golden/make_gpt2.py)."""

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

from aillm_tf.weights.backbones import load_backbone
from aillm_tf.weights.loading import load_pretrained

# as published
GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "vocab_size": 50257,
}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "gpt2.npz"))


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(GOLDEN / "gpt2")[0]


def test_hidden_states(backbone, golden):
    assert_hidden_states(backbone, golden, "gpt2")


def test_logits(backbone, golden):
    assert_logits(backbone, golden, "gpt2")


def test_logits_of_packed_documents(backbone, golden):
    assert_logits_of_packed_documents(backbone, golden, "gpt2")


def test_logits_after_a_prompt_in_the_cache(backbone, golden):
    assert_logits_after_a_prompt(backbone, golden, "gpt2")


def test_scores_of_classes_are_read_at_the_last_token(golden):
    pretrained = load_pretrained(GOLDEN / "gpt2_classifier")
    backbone, _ = load_backbone(GOLDEN / "gpt2_classifier")
    assert pretrained.labels == ["negative", "neutral", "positive"]
    assert_scores(backbone, pretrained.read("classifier/kernel"), golden, "gpt2_classifier")


@pytest.mark.parametrize("name", ["gpt2", "gpt2_classifier"])
def test_weights_through_our_names_and_back_are_bit_equal(name, tmp_path):
    assert_same_tensors(saved_again(GOLDEN / name, tmp_path), GOLDEN / name)


def test_saved_config_says_what_transformers_wrote(tmp_path):
    ours, theirs = (
        json.loads((folder / "config.json").read_text())
        for folder in (saved_again(GOLDEN / "gpt2", tmp_path), GOLDEN / "gpt2")
    )
    same = set(ours) & set(theirs) - {"n_inner"}  # null is four times n_embd
    assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


def test_layout_of_the_first_checkpoints(tmp_path):
    def first(tensors):
        masks = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 24, 24), np.float32)) for i in range(2)}
        return {name.removeprefix("transformer."): value for name, value in tensors.items()} | masks

    older = load_pretrained(respelled(GOLDEN / "gpt2", tmp_path / "first", first))
    assert older.unused == ()
    assert older.shapes == load_pretrained(GOLDEN / "gpt2").shapes


def test_own_head_where_it_is_not_tied(tmp_path):
    head = np.random.default_rng(1).normal(size=(60, 16)).astype("float32")
    folder = respelled(
        GOLDEN / "gpt2", tmp_path / "untied", lambda t: t | {"lm_head.weight": head}, tie_word_embeddings=False
    )
    np.testing.assert_array_equal(load_pretrained(folder).read("backbone/head/kernel"), head.T)


def test_bfloat16_checkpoint_keeps_every_value(tmp_path):
    def rounded(tensors):
        return {name: value.astype(ml_dtypes.bfloat16) for name, value in tensors.items()}

    half = load_pretrained(respelled(GOLDEN / "gpt2", tmp_path / "half", rounded))
    theirs = load_file(GOLDEN / "gpt2" / "model.safetensors")["transformer.h.0.mlp.c_fc.weight"]
    np.testing.assert_array_equal(
        half.read("backbone/encoder/layer_0/ffn/up/kernel"), theirs.astype(ml_dtypes.bfloat16).astype("float32")
    )


def test_published_config_is_read():
    config = read(GPT2)
    assert (config.head_width, config.ffn_size, config.max_length) == (64, 3072, 1024)
    assert (config.norm_placement, config.activation, config.tie_embeddings) == ("pre", "gelu_tanh", True)
    assert config.causal


def test_published_config_is_written_as_it_was_read():
    assert written_again(GPT2) == read(GPT2)


@pytest.mark.parametrize(
    "key, value",
    [("scale_attn_by_inverse_layer_idx", True), ("scale_attn_weights", False), ("activation_function", "tanh")],
)
def test_other_formulas_are_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        read(GPT2 | {key: value})


def test_more_tokens_than_positions_are_refused(backbone):
    with pytest.raises(ValueError, match="25 tokens are more than the 24 rows of the position table"):
        backbone({"token_ids": np.ones((1, 25), "int32")})
