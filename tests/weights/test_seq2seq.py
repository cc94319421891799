"""T5, BART and Marian against golden numbers from transformers (tests/golden/make_{t5,bart,marian}.py), and back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aillm_tf.weights.backbones import load_backbone
from aillm_tf.weights.configs import read_config, write_config
from aillm_tf.weights.families import family
from aillm_tf.weights.loading import load_pretrained, save_pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {"rtol": 0.0, "atol": 1e-4}  # largest difference seen: 1e-5, as far as torch is from float64
# folder: the file of its inputs and outputs
NUMBERS = {"t5_v1_0": "t5", "t5_v1_1": "t5", "mt5": "t5", "bart": "bart", "mbart": "bart"}
NUMBERS |= {"marian": "marian", "marian_separate": "marian"}
HEADED = ["bart_classifier", "bart_spans"]
UNTIED = {"t5_v1_1"}
BART_SHARED, T5_SHARED = "model.shared.weight", "shared.weight"


def golden(name: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"{NUMBERS[name]}.npz"))


def encoder_and_logits(folder: Path, numbers: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """States of the source and scores over the vocabulary, where source and target are no padding."""
    names = {"token_ids": "source_ids", "valid": "source_valid", "target_ids": "target_ids"}
    batch = {ours: numbers[theirs] for ours, theirs in (names | {"target_valid": "target_valid"}).items()}
    backbone, _ = load_backbone(folder)
    memory = np.asarray(backbone.encode(batch))
    logits = np.asarray(backbone.logits(backbone(batch)))
    return memory[batch["valid"] == 1], logits[batch["target_valid"] == 1]


def assert_outputs(folder: Path, name: str) -> None:
    numbers = golden(name)
    memory, logits = encoder_and_logits(folder, numbers)
    np.testing.assert_allclose(memory, numbers[f"{name}_encoder"], **TOLERANCE)
    np.testing.assert_allclose(logits, numbers[f"{name}_logits"], **TOLERANCE)


def respelled(name: str, target: Path, change, **config) -> Path:
    """A copy of a golden model with other tensors: `change` gets and returns them; `config` is changed too."""
    shutil.copytree(GOLDEN / name, target)
    tensors = change(load_file(GOLDEN / name / "model.safetensors"))
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    values = json.loads((target / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(values))
    return target


def saved_again(source: Path, target: Path) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, through our names and back."""
    model = load_pretrained(source)
    save_pretrained(
        target,
        model.config,
        {name: model.read(name) for name in model.names},
        None,
        labels=model.labels,
        architecture=model.architecture,
        settings=model.settings,
        generation=model.generation,
    )
    return load_file(target / "model.safetensors")


def assert_same_bits(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert sorted(ours) == sorted(theirs)
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []


# Outputs


@pytest.mark.parametrize("name", NUMBERS)
def test_encoder_states_and_logits(name):
    assert_outputs(GOLDEN / name, name)


def test_classifier_of_bart_by_its_tensors():
    """No task has this head yet; the names suffice: the decoder reads the source shifted, the head its last </s>."""
    numbers, model = dict(np.load(GOLDEN / "bart.npz")), load_pretrained(GOLDEN / "bart_classifier")
    ids = numbers["sentence_ids"]
    hidden = decoded(GOLDEN / "bart_classifier", ids)[ids == 2]
    hidden = np.tanh(hidden @ model.read("pooler/kernel") + model.read("pooler/bias"))
    logits = hidden @ model.read("classifier/kernel") + model.read("classifier/bias")
    np.testing.assert_allclose(logits, numbers["bart_classifier_logits"], **TOLERANCE)
    assert model.labels == ["contradiction", "neutral", "entailment"]


def test_spans_of_bart_by_their_tensors():
    numbers, model = dict(np.load(GOLDEN / "bart.npz")), load_pretrained(GOLDEN / "bart_spans")
    ids = numbers["sentence_ids"]
    scores = decoded(GOLDEN / "bart_spans", ids)[ids != 1] @ model.read("spans/kernel") + model.read("spans/bias")
    np.testing.assert_allclose(scores, numbers["bart_spans_logits"], **TOLERANCE)


def decoded(folder: Path, ids: np.ndarray) -> np.ndarray:
    """States of BART's decoder that is given the source once more, shifted behind </s>."""
    shifted = np.concatenate([np.full_like(ids[:, :1], 2), ids[:, :-1]], 1)
    batch = {"token_ids": ids, "valid": (ids != 1).astype("int32"), "target_ids": shifted}
    return np.asarray(load_backbone(folder)[0](batch))


@pytest.mark.parametrize("name", NUMBERS)
def test_logits_of_a_target_read_in_two_steps(name):
    numbers, (backbone, _) = golden(name), load_backbone(GOLDEN / name)
    valid, target = numbers["source_valid"], numbers["target_ids"]
    memory = backbone.encode({"token_ids": numbers["source_ids"], "valid": valid})
    cache = backbone.init_cache(memory, target.shape[1], valid=valid)
    first, cache = backbone.step(target[:, :3], cache, 0)
    second, _ = backbone.step(target[:, 3:5], cache, 3)
    logits = np.concatenate([np.asarray(backbone.logits(hidden))[0] for hidden in (first, second)])
    # the first row has five tokens and no hole
    np.testing.assert_allclose(logits, numbers[f"{name}_logits"][:5], **TOLERANCE)


@pytest.mark.parametrize("name", ["bart", "mbart"])
def test_input_beyond_the_learned_positions_is_refused(name):
    backbone, _ = load_backbone(GOLDEN / name)
    with pytest.raises(ValueError, match="29 tokens are more than the 28 rows of the position table"):
        backbone.encode({"token_ids": np.ones((1, 29), "int32")})


# Round trip


@pytest.mark.parametrize("name", [*NUMBERS, *HEADED])
def test_round_trip_is_bit_equal(name, tmp_path):
    theirs = load_file(GOLDEN / name / "model.safetensors")
    assert_same_bits(saved_again(GOLDEN / name, tmp_path), theirs)


@pytest.mark.parametrize("name", [*NUMBERS, *HEADED])
def test_round_trip_keeps_the_configuration(name, tmp_path):
    saved_again(GOLDEN / name, tmp_path)
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN / name, tmp_path))
    # dtype is the newer name of torch_dtype, n_positions an older key of T5
    same = set(after) - {"torch_dtype", "n_positions"} - ({"tie_word_embeddings"} if name in UNTIED else set())
    assert {key: after[key] for key in same} == {key: before[key] for key in same}


@pytest.mark.parametrize("name", NUMBERS)
def test_round_trip_keeps_how_to_generate(name, tmp_path):
    saved_again(GOLDEN / name, tmp_path)
    before, after = (load_pretrained(folder).generation for folder in (GOLDEN / name, tmp_path))
    assert after == before
    assert {"pad_token_id", "eos_token_id", "decoder_start_token_id"} <= set(after)


def test_generation_settings_of_the_time_before_generation_config_json(tmp_path):
    old = {"num_beams": 4, "max_length": 512, "bad_words_ids": [[59]], "forced_bos_token_id": None}
    folder = respelled("marian", tmp_path / "old", lambda tensors: tensors, **old)
    (folder / "generation_config.json").unlink()
    assert load_pretrained(folder).generation == {
        "pad_token_id": 59,
        "eos_token_id": 0,
        "decoder_start_token_id": 59,
        "forced_eos_token_id": 0,
        "bad_words_ids": [[59]],
        "max_length": 512,
        "num_beams": 4,
    }


def test_backbone_alone_has_bare_names_and_no_head(tmp_path):
    def bare(tensors):
        return {n.removeprefix("model."): v for n, v in tensors.items() if n != "final_logits_bias"}

    folder = respelled("bart", tmp_path / "bare", bare, architectures=["BartModel"])
    assert_same_bits(saved_again(folder, tmp_path / "out"), load_file(folder / "model.safetensors"))


def test_untied_head_is_left_out_where_the_architecture_has_none(tmp_path):
    model = load_pretrained(GOLDEN / "t5_v1_1")
    save_pretrained(tmp_path, model.config, {name: model.read(name) for name in model.names}, None)
    assert sorted(load_file(tmp_path / "model.safetensors")) == sorted(
        name for name in load_file(GOLDEN / "t5_v1_1" / "model.safetensors") if name != "lm_head.weight"
    )


# Other spellings of the same checkpoint


def with_copies(shared: str, *copies: str):
    return lambda tensors: tensors | {name: tensors[shared].copy() for name in copies}


def renamed(old: str, new: str):
    return lambda tensors: {new if name == old else name: value for name, value in tensors.items()}


BART_COPIES = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
T5_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("t5_v1_0", with_copies(T5_SHARED, *T5_COPIES, "lm_head.weight")),
        ("t5_v1_0", renamed(T5_SHARED, "encoder.embed_tokens.weight")),
        ("t5_v1_0", renamed(T5_SHARED, "lm_head.weight")),
        ("t5_v1_1", with_copies(T5_SHARED, *T5_COPIES)),
        ("t5_v1_1", renamed(T5_SHARED, "decoder.embed_tokens.weight")),
        ("mt5", with_copies(T5_SHARED, *T5_COPIES, "lm_head.weight")),
        ("bart", with_copies(BART_SHARED, *BART_COPIES)),
        ("bart", renamed(BART_SHARED, "model.encoder.embed_tokens.weight")),
        ("mbart", with_copies(BART_SHARED, *BART_COPIES)),
        ("marian", with_copies(BART_SHARED, *BART_COPIES)),
        ("marian", renamed(BART_SHARED, "lm_head.weight")),
        ("marian_separate", with_copies("model.decoder.embed_tokens.weight", "lm_head.weight")),
        ("marian_separate", renamed("model.decoder.embed_tokens.weight", "lm_head.weight")),
    ],
)
def test_copies_of_the_embeddings_under_other_names(name, change, tmp_path):
    folder = respelled(name, tmp_path / "model", change)
    expected, model = load_pretrained(GOLDEN / name), load_pretrained(folder)
    assert model.unused == ()
    assert model.config == expected.config
    assert_same_bits(*({n: m.read(n) for n in m.names} for m in (model, expected)))


@pytest.mark.parametrize("name", ["bart", "marian"])
def test_copy_that_differs_is_refused(name, tmp_path):
    folder = respelled(name, tmp_path / "m", lambda tensors: tensors | {"lm_head.weight": tensors[BART_SHARED] + 1})
    with pytest.raises(ValueError, match="lm_head.weight differs from"):
        load_pretrained(folder)


@pytest.mark.parametrize("name", ["t5_v1_1", "mt5"])
@pytest.mark.parametrize("said", [True, False])
def test_whether_the_head_of_t5_is_tied_is_read_from_the_tensors(name, said, tmp_path):
    folder = respelled(name, tmp_path / "m", lambda tensors: tensors, tie_word_embeddings=said)
    assert load_pretrained(folder).config.tie_embeddings == (name not in UNTIED)


@pytest.mark.parametrize("tied", [True, False])
def test_scores_of_t5_are_scaled_where_an_old_configuration_ties_the_head(tied, tmp_path):
    folder = respelled("t5_v1_0", tmp_path / "m", lambda t: t, tie_word_embeddings=tied, scale_decoder_outputs=None)
    assert load_pretrained(folder).config.logit_scale == (0.25 if tied else 1.0)


def test_sinusoids_that_marian_stored_are_passed_over(tmp_path):
    stored = {f"model.{side}.embed_positions.weight": np.ones((28, 16), "float32") for side in ("encoder", "decoder")}
    folder = respelled("marian", tmp_path / "m", lambda tensors: tensors | stored)
    assert load_pretrained(folder).unused == ()
    assert_outputs(folder, "marian")


def test_position_bias_that_t5_stored_for_cross_attention_is_passed_over(tmp_path):
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    folder = respelled("t5_v1_0", tmp_path / "m", lambda tensors: tensors | {name: np.ones((8, 2), "float32")})
    assert load_pretrained(folder).unused == ()


@pytest.mark.parametrize("name", ["bart", "marian"])
def test_logits_bias_that_is_missing_is_zero(name, tmp_path):
    def drop(tensors):
        return {n: v for n, v in tensors.items() if n != "final_logits_bias"}

    _, with_bias = encoder_and_logits(GOLDEN / name, golden(name))
    _, without = encoder_and_logits(respelled(name, tmp_path / "m", drop), golden(name))
    bias = load_file(GOLDEN / name / "model.safetensors")["final_logits_bias"]
    np.testing.assert_allclose(without + bias, with_bias, **TOLERANCE)


@pytest.mark.parametrize("name", ["t5_v1_1", "mbart"])
def test_bfloat16_checkpoint(name, tmp_path):
    """What bfloat16 holds is read exactly."""

    def rounded(tensors):
        return {n: v.astype(ml_dtypes.bfloat16) for n, v in tensors.items()}

    model = load_pretrained(respelled(name, tmp_path / "m", rounded))
    exact = load_pretrained(GOLDEN / name)
    for ours in exact.names:
        np.testing.assert_array_equal(model.read(ours), exact.read(ours).astype(ml_dtypes.bfloat16).astype("float32"))


# Configurations of published models

T5_SMALL = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_heads": 8,
    "num_layers": 6,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "vocab_size": 32128,
}
FLAN_T5_BASE = T5_SMALL | {
    "d_model": 768,
    "feed_forward_proj": "gated-gelu",
    "num_decoder_layers": 12,
    "num_heads": 12,
    "num_layers": 12,
    "tie_word_embeddings": False,
}
MT5_SMALL = {
    "architectures": ["MT5ForConditionalGeneration"],
    "d_ff": 1024,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "mt5",
    "num_decoder_layers": 8,
    "num_heads": 6,
    "num_layers": 8,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
    "tokenizer_class": "T5Tokenizer",
    "vocab_size": 250112,
}
BART_BASE = {
    "activation_dropout": 0.1,
    "activation_function": "gelu",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "architectures": ["BartModel"],
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "classif_dropout": 0.1,
    "d_model": 768,
    "decoder_attention_heads": 12,
    "decoder_ffn_dim": 3072,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 6,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "early_stopping": True,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 6,
    "eos_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "gradient_checkpointing": False,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_position_embeddings": 1024,
    "model_type": "bart",
    "no_repeat_ngram_size": 3,
    "normalize_before": False,
    "normalize_embedding": True,
    "num_beams": 4,
    "num_hidden_layers": 6,
    "pad_token_id": 1,
    "scale_embedding": False,
    "vocab_size": 50265,
}
_LARGE = {"d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "num_hidden_layers": 12}
_LARGE |= {"encoder_attention_heads": 16, "decoder_attention_heads": 16}
_LARGE |= {"encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096}
BART_LARGE_CNN = BART_BASE | _LARGE | {"architectures": ["BartForConditionalGeneration"], "vocab_size": 50264}
MBART_50 = BART_BASE | _LARGE | {"architectures": ["MBartForConditionalGeneration"], "model_type": "mbart"}
MBART_50 |= {"activation_function": "relu", "add_final_layer_norm": True, "normalize_before": True}
MBART_50 |= {"scale_embedding": True, "static_position_embeddings": False, "vocab_size": 250054}
OPUS_EN_DE = {
    **BART_BASE,
    "activation_function": "swish",
    "architectures": ["MarianMTModel"],
    "d_model": 512,
    "decoder_attention_heads": 8,
    "decoder_ffn_dim": 2048,
    "decoder_start_token_id": 58100,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "eos_token_id": 0,
    "max_position_embeddings": 512,
    "model_type": "marian",
    "normalize_embedding": False,
    "pad_token_id": 58100,
    "scale_embedding": True,
    "static_position_embeddings": True,
    "vocab_size": 58101,
}
PUBLISHED = {
    "t5-small": (T5_SMALL, {"layers": 6, "decoder_layers": 6, "activation": "relu", "logit_scale": 512**-0.5}),
    "flan-t5-base": (
        FLAN_T5_BASE,
        {"gated": True, "activation": "gelu_tanh", "logit_scale": 1.0, "tie_embeddings": False, "attention_scale": 1.0},
    ),
    "mt5-small": (MT5_SMALL, {"head_width": 64, "heads": 6, "hidden_size": 512, "gated": True, "logit_scale": 1.0}),
    "bart-base": (BART_BASE, {"norm_placement": "post", "position_offset": 2, "embedding_scale": 1.0}),
    "bart-large-cnn": (BART_LARGE_CNN, {"ffn_size": 4096, "heads": 16, "logit_bias": True, "norm_epsilon": 1e-5}),
    "mbart-large-50": (
        MBART_50,
        {"norm_placement": "pre", "embedding_norm": True, "embedding_scale": 32.0, "activation": "relu"},
    ),
    "opus-mt-en-de": (
        OPUS_EN_DE,
        {"position": "sinusoidal", "embedding_norm": False, "activation": "silu", "decoder_vocab_size": None},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configuration_is_read(name):
    values, expected = PUBLISHED[name]
    config = read_config(values, family(values["model_type"]))
    assert {field: getattr(config, field) for field in expected} == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configuration_is_written_as_it_was_read(name):
    values, _ = PUBLISHED[name]
    table = family(values["model_type"])
    written = write_config(read_config(values, table), table)
    assert {key: written[key] for key in written if key in values} == {
        key: values[key] for key in written if key in values
    }


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (OPUS_EN_DE | {"normalize_embedding": True}, "normalize_embedding is True, only False is supported for Marian"),
        (OPUS_EN_DE | {"normalize_before": True}, "normalize_before is True, only False is supported for Marian"),
        (MBART_50 | {"normalize_before": False}, "normalize_before is False, only True is supported for MBart"),
        (BART_BASE | {"decoder_ffn_dim": 1024}, "decoder_ffn_dim is 1024, encoder_ffn_dim is 3072: only equal ones"),
        (T5_SMALL | {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj is 'gated-tanh': of its activations relu"),
    ],
)
def test_what_the_stack_does_not_compute_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        read_config(values, family(values["model_type"]))


def test_umt5_is_not_taken_for_mt5():
    with pytest.raises(ValueError, match="model_type 'umt5' is not supported"):
        family("umt5")
