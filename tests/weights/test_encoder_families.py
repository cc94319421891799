"""DistilBERT, RoBERTa, XLM-RoBERTa, ALBERT and ELECTRA against golden numbers (tests/golden/make_encoders.py)."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import erf

from aillm_tf.layers.naming import variables_by_name
from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.encoder import Encoder
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.weights.configs import write_config
from aillm_tf.weights.families import family as family_named
from aillm_tf.weights.loading import assign, load_pretrained
from aillm_tf.weights.saving import save_pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = ["distilbert", "roberta", "xlm_roberta", "albert", "electra"]
FOLDERS = [
    f"{family}/{folder.name}"
    for family in FAMILIES
    for folder in sorted((GOLDEN / family).iterdir())
    if folder.is_dir()
]
LABELS = ["negative", "neutral", "positive"]
SENTENCES = [
    "a stirring, funny film",
    "The plot is thin, but the actors save it.",
    "I would not watch this again.",
    "refund my order #12345 now!!!",
    "A long sentence, with several clauses, commas and numbers like 42, so that rows differ in length.",
]
TOLERANCE = {"rtol": 0.0, "atol": 1e-5}


@functools.cache
def golden(family: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / family / "golden.npz"))


def batch(family: str, segments: bool) -> dict[str, np.ndarray]:
    """The batch of the golden numbers; the pad token's id is the last of its second row."""
    token_ids = golden(family)["token_ids"]
    features = {"token_ids": token_ids, "valid": (token_ids != token_ids[1, -1]).astype("int32")}
    return {**features, "segment_ids": golden(family)["segment_ids"]} if segments else features


def variants(folders):
    """(folder, segments): with segment ids where the family has segments."""
    return [
        pytest.param(folder, segments, id=f"{folder}{'-segments' * segments}")
        for folder in folders
        for segments in (False, True)
        if not segments or folder.startswith(("albert/", "electra/"))
    ]


@functools.cache
def loaded(folder: str):
    """The checkpoint, and its backbone as a layer."""
    pretrained = load_pretrained(GOLDEN / folder)
    backbone = Encoder(pretrained.config, dtype="float32")
    backbone.build()
    assign({f"backbone/{name}": variable for name, variable in variables_by_name(backbone).items()}, pretrained)
    return pretrained, backbone


@functools.cache
def classifier(family: str) -> TextClassifier:
    return TextClassifier.from_pretrained(str(GOLDEN / family / "classifier"), dtype="float32", max_length=24)


@functools.cache
def masked_lm(family: str) -> MaskedLM:
    return MaskedLM.from_pretrained(str(GOLDEN / family / "masked_lm"), dtype="float32", max_length=24)


def hidden_states(folder: str, segments: bool = False) -> np.ndarray:
    return np.asarray(loaded(folder)[1](batch(folder.partition("/")[0], segments)))


def expected(folder: str, segments: bool, kind: str) -> np.ndarray:
    family, _, head = folder.partition("/")
    return golden(family)[f"{head}_{'segments_' * segments}{kind}"]


def copy_with(folder: str, target: Path, **changes) -> Path:
    """A copy of a golden folder whose config.json says other things; None takes a key out."""
    shutil.copytree(GOLDEN / folder, target)
    values = {**json.loads((target / "config.json").read_text()), **changes}
    values = {key: value for key, value in values.items() if value is not None}
    (target / "config.json").write_text(json.dumps(values))
    return target


# Numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "segments"), variants(FOLDERS))
def test_hidden_states(folder, segments):
    real = batch(folder.partition("/")[0], segments)["valid"] == 1
    np.testing.assert_allclose(hidden_states(folder, segments)[real], expected(folder, segments, "hidden"), **TOLERANCE)


@pytest.mark.parametrize(("folder", "segments"), variants(f"{family}/classifier" for family in FAMILIES))
def test_classifier_logits(folder, segments):
    family = folder.partition("/")[0]
    logits = np.asarray(classifier(family).logits(batch(family, segments)))
    np.testing.assert_allclose(logits, expected(folder, segments, "logits"), **TOLERANCE)


@pytest.mark.parametrize(("folder", "segments"), variants(f"{family}/masked_lm" for family in FAMILIES))
def test_masked_lm_logits(folder, segments):
    family = folder.partition("/")[0]
    features = batch(family, segments)
    logits = np.asarray(masked_lm(family).logits(features))[features["valid"] == 1]
    np.testing.assert_allclose(logits, expected(folder, segments, "logits"), **TOLERANCE)


@pytest.mark.parametrize(
    ("folder", "segments"),
    variants(folder for folder in FOLDERS if folder.endswith(("/tagger", "/spans"))),
)
def test_tagger_and_spans_logits(folder, segments):
    family, _, head = folder.partition("/")
    read = loaded(folder)[0].read
    logits = hidden_states(folder, segments) @ read(f"{head}/kernel") + read(f"{head}/bias")
    logits = logits[batch(family, segments)["valid"] == 1]
    np.testing.assert_allclose(logits, expected(folder, segments, "logits"), **TOLERANCE)


@pytest.mark.parametrize("segments", [False, True])
def test_electra_discriminator_logits(segments):
    read = loaded("electra/discriminator")[0].read
    hidden = hidden_states("electra/discriminator", segments)
    inner = hidden @ read("discriminator/transform/kernel") + read("discriminator/transform/bias")
    inner = 0.5 * inner * (1 + erf(inner / np.sqrt(2)))
    logits = inner @ read("discriminator/out/kernel") + read("discriminator/out/bias")
    real = batch("electra", segments)["valid"] == 1
    np.testing.assert_allclose(logits[real][:, 0], expected("electra/discriminator", segments, "logits"), **TOLERANCE)


@pytest.mark.parametrize("family", ["roberta", "albert"])
def test_pooler_of_the_bare_model(family):
    read = loaded(f"{family}/model")[0].read
    pooled = np.tanh(hidden_states(f"{family}/model")[:, 0] @ read("pooler/kernel") + read("pooler/bias"))
    np.testing.assert_allclose(pooled, expected(f"{family}/model", False, "logits"), **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_to_strings_are_those_of_transformers(family):
    answers = classifier(family).answer(SENTENCES)
    ours = [[answer["probabilities"][label] for label in LABELS] for answer in answers]
    np.testing.assert_allclose(ours, golden(family)["probabilities"], **TOLERANCE)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_stands_at_padding_changes_no_real_token(family):
    features = batch(family, segments=False)
    backbone = loaded(f"{family}/classifier")[1]
    other = np.where(features["valid"] == 1, features["token_ids"], 7)
    length = features["valid"][1].sum()
    padded = np.asarray(backbone(features))[1:2, :length]
    np.testing.assert_array_equal(np.asarray(backbone({**features, "token_ids": other}))[1:2, :length], padded)
    alone = np.asarray(backbone({name: array[1:2, :length] for name, array in features.items()}))
    np.testing.assert_allclose(alone, padded, **TOLERANCE)


# Long input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_input_longer_than_the_position_table_is_refused(family):
    pretrained, backbone = loaded(f"{family}/classifier")
    assert pretrained.config.max_length == 24
    with pytest.raises(ValueError, match="25 tokens are more than the 24 rows"):
        backbone({"token_ids": np.full((1, 25), 5, "int32")})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_task_longer_than_the_position_table_is_refused(family):
    with pytest.raises(ValueError, match="max_length 25 is more than the model's 24"):
        TextClassifier.from_pretrained(str(GOLDEN / family / "classifier"), max_length=25)


# There and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", FOLDERS)
def test_weights_and_config_there_and_back(folder, tmp_path):
    pretrained = load_pretrained(GOLDEN / folder)
    arrays = {name: pretrained.read(name) for name in pretrained.names}
    save_pretrained(
        tmp_path / "out",
        pretrained.config,
        arrays,
        None,
        architecture=pretrained.architecture,
        labels=pretrained.labels,
        settings=pretrained.settings,
    )
    theirs, ours = load_file(GOLDEN / folder / "model.safetensors"), load_file(tmp_path / "out/model.safetensors")
    assert sorted(ours) == sorted(theirs)
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []
    before = json.loads((GOLDEN / folder / "config.json").read_text())
    after = json.loads((tmp_path / "out/config.json").read_text())
    assert {key: value for key, value in after.items() if before.get(key, value) != value} == {}
    # what is not written is what transformers assumes, or matters only to training and to heads that we lack
    left = {"dtype", "transformers_version", "use_cache", "sinusoidal_pos_embds", "is_decoder", "add_cross_attention"}
    left |= {key for key in before if "dropout" in key or key.startswith("summary_") or before[key] is None}
    assert sorted(set(before) - set(after) - left) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_saved_for_transformers_is_the_one_loaded(family, tmp_path):
    classifier(family).save_huggingface(tmp_path)
    theirs = load_file(GOLDEN / family / "classifier/model.safetensors")
    ours = load_file(tmp_path / "model.safetensors")
    assert sorted(ours) == sorted(theirs)
    assert [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()] == []
    assert TextClassifier.from_pretrained(str(tmp_path), max_length=24).labels == LABELS


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_task_computes_its_head_as_before(family, tmp_path):
    classifier(family).save(tmp_path)
    again = TextClassifier.from_pretrained(str(tmp_path), dtype="float32")
    features = batch(family, segments=False)
    np.testing.assert_array_equal(np.asarray(again.logits(features)), np.asarray(classifier(family).logits(features)))


def test_a_new_head_on_a_saved_task_is_the_familys(tmp_path):
    masked_lm("electra").save(tmp_path)
    task = TextClassifier.from_pretrained(str(tmp_path), labels=["no", "yes"], max_length=24)
    assert task.pooler_activation == "gelu"


def test_a_head_with_another_activation_is_not_saved_for_transformers(tmp_path):
    task = TextClassifier.from_pretrained(
        str(GOLDEN / "distilbert/classifier"), pooler_activation="tanh", max_length=24
    )
    with pytest.raises(ValueError, match="pooler_activation is 'tanh', DistilBERT has 'relu'"):
        task.save_huggingface(tmp_path / "out")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_checkpoints_are_read_as_they_are(family, dtype, tmp_path):
    folder = copy_with(f"{family}/classifier", tmp_path / "half")
    half = {name: value.astype(dtype) for name, value in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", {"format": "pt"})
    whole, pretrained = loaded(f"{family}/classifier")[0], load_pretrained(folder)
    assert pretrained.names == whole.names
    for name in pretrained.names:
        np.testing.assert_array_equal(pretrained.read(name), whole.read(name).astype(dtype).astype("float32"))


# DistilBERT --------------------------------------------------------------------------------------------------------


def test_a_model_without_a_classifier_gets_one_with_the_familys_pooler(caplog):
    task = TextClassifier.from_pretrained(str(GOLDEN / "distilbert/masked_lm"), labels=["no", "yes"], max_length=24)
    assert task.pooler_activation == "relu"
    assert "start anew: pooler/kernel, pooler/bias, classifier/kernel, classifier/bias" in caplog.text


# RoBERTa and its kin -----------------------------------------------------------------------------------------------


def test_positions_begin_after_the_row_of_the_pad_token(tmp_path):
    config = load_pretrained(copy_with("roberta/model", tmp_path / "copy", pad_token_id=3)).config
    assert (config.position_offset, config.max_length) == (4, 22)


def test_a_position_table_with_no_row_left_is_refused(tmp_path):
    folder = copy_with("roberta/model", tmp_path / "copy", max_position_embeddings=2)
    with pytest.raises(ValueError, match=r"config\.json: max_position_embeddings is 2: with pad_token_id 1"):
        load_pretrained(folder)


def test_a_pad_token_that_would_move_the_positions_is_not_saved(tmp_path):
    pretrained = load_pretrained(GOLDEN / "roberta/model")
    arrays = {name: pretrained.read(name) for name in pretrained.names}
    with pytest.raises(ValueError, match="pad_token_id is 0, the model's positions need 1"):
        save_pretrained(tmp_path / "out", pretrained.config, arrays, None, settings={"pad_token_id": 0})
    assert not (tmp_path / "out").exists()


def test_camembert_is_read_by_robertas_table(tmp_path):
    changes = {"model_type": "camembert", "architectures": ["CamembertForSequenceClassification"]}
    pretrained = load_pretrained(copy_with("roberta/classifier", tmp_path / "copy", **changes))
    assert pretrained.names == loaded("roberta/classifier")[0].names
    assert pretrained.config.model_type == "camembert"


def test_copies_that_older_versions_wrote_are_known(tmp_path):
    folder = copy_with("roberta/masked_lm", tmp_path / "copy")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.decoder.weight"] = tensors["roberta.embeddings.word_embeddings.weight"].copy()
    tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"].copy()
    tensors["roberta.embeddings.position_ids"] = np.arange(26)[None]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    pretrained = load_pretrained(folder)
    assert pretrained.unused == ()
    assert pretrained.names == loaded("roberta/masked_lm")[0].names


# ALBERT ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["num_hidden_groups", "inner_group_num"])
def test_more_than_one_group_of_shared_layers_is_refused(key, tmp_path):
    with pytest.raises(ValueError, match=f"{key} is 2, only 1 is supported for ALBERT"):
        load_pretrained(copy_with("albert/model", tmp_path / "copy", **{key: 2}))


def test_a_projection_between_equal_sizes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="embedding_size and hidden_size are both 16"):
        load_pretrained(copy_with("albert/model", tmp_path / "copy", embedding_size=16))


def test_shared_layers_are_stored_once_however_many_there_are(tmp_path):
    folder = copy_with("albert/model", tmp_path / "copy", num_hidden_layers=12)
    assert load_pretrained(folder).names == loaded("albert/model")[0].names


# ELECTRA -----------------------------------------------------------------------------------------------------------


def test_a_token_table_as_wide_as_the_stack_has_no_projection():
    config = TransformerConfig(
        vocab_size=9, hidden_size=4, layers=1, heads=1, ffn_size=8, segments=2, model_type="electra"
    )
    assert write_config(config, family_named("electra"))["embedding_size"] == 4
    backbone = Encoder(config)
    backbone.build()
    assert not [name for name in variables_by_name(backbone) if "projection" in name]
