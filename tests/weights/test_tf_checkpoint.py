"""Google's TF1 checkpoints against outputs of the Model Garden (tests/golden/make_tf.py)."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.models.encoder import Encoder
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.weights.backbones import backbone_variables, new_backbone, tokenizer_of
from aillm_tf.weights.loading import assign
from aillm_tf.weights.sources import open_source
from aillm_tf.weights.tf_checkpoint import load_pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "tf.npz"))


def features(golden) -> dict[str, np.ndarray]:
    token_ids = golden["token_ids"]
    return {"token_ids": token_ids, "segment_ids": golden["segment_ids"], "valid": (token_ids != 0).astype("int32")}


def filled(pretrained) -> Encoder:
    backbone = new_backbone(pretrained.config, dtype="float32")
    assign(backbone_variables(backbone), pretrained, allow_new=())
    return backbone


def hidden(pretrained, golden) -> np.ndarray:
    return np.asarray(filled(pretrained)(features(golden)))[golden["token_ids"] != 0]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("tf1_bert", "bert"),
        ("tf1_albert", "albert"),
        ("tf1_electra", "electra"),
        ("tf1_electra#generator", "generator"),
    ],
)
def test_hidden_states(source, name, golden):
    pretrained = load_pretrained(f"tf1:{GOLDEN / source}")
    np.testing.assert_allclose(hidden(pretrained, golden), golden[f"{name}_hidden"], **TOLERANCE)


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_pooler(name, golden):
    pretrained = load_pretrained(GOLDEN / f"tf1_{name}")
    first = np.asarray(filled(pretrained)(features(golden)))[:, 0]
    pooled = np.tanh(first @ pretrained.read("pooler/kernel") + pretrained.read("pooler/bias"))
    np.testing.assert_allclose(pooled, golden[f"{name}_pooled"], **TOLERANCE)


@pytest.mark.parametrize(
    ("source", "name"),
    [("tf1_bert", "bert_mlm"), ("tf1_albert", "albert_mlm"), ("tf1_electra#generator", "generator_mlm")],
)
def test_masked_lm_head(source, name, golden):
    pretrained = load_pretrained(f"tf1:{GOLDEN / source}")
    x = hidden(pretrained, golden) @ pretrained.read("mlm/transform/kernel") + pretrained.read("mlm/transform/bias")
    x = tf.nn.gelu(x, approximate=pretrained.config.activation == "gelu_tanh").numpy()
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    x = x * pretrained.read("mlm/norm/scale") + pretrained.read("mlm/norm/bias")
    logits = x @ pretrained.read("backbone/embeddings/token").T + pretrained.read("mlm/bias")
    np.testing.assert_allclose(logits, golden[name], **TOLERANCE)


def test_electra_discriminator_head(golden):
    pretrained = load_pretrained(GOLDEN / "tf1_electra")
    x = hidden(pretrained, golden)
    x = x @ pretrained.read("discriminator/transform/kernel") + pretrained.read("discriminator/transform/bias")
    x = tf.nn.gelu(x).numpy() @ pretrained.read("discriminator/out/kernel") + pretrained.read("discriminator/out/bias")
    np.testing.assert_allclose(x[:, 0], golden["electra_logits"], **TOLERANCE)


def test_a_task_is_made_of_the_generator(golden):
    task = MaskedLM.from_pretrained(f"tf1:{GOLDEN / 'tf1_electra'}#generator", dtype="float32", max_length=20)
    logits = np.asarray(task.logits(features(golden)))[golden["token_ids"] != 0]
    np.testing.assert_allclose(logits, golden["generator_mlm"], **TOLERANCE)


def test_a_task_goes_to_hugging_face_and_back(golden, tmp_path):
    MaskedLM.from_pretrained(str(GOLDEN / "tf1_bert"), dtype="float32", max_length=20).save_huggingface(tmp_path)
    task = MaskedLM.from_pretrained(str(tmp_path), dtype="float32", max_length=20)
    logits = np.asarray(task.logits(features(golden)))[golden["token_ids"] != 0]
    np.testing.assert_allclose(logits, golden["bert_mlm"], **TOLERANCE)


def test_any_folder_with_a_checkpoint_is_recognised():
    assert open_source(GOLDEN / "tf1_electra").config.model_type == "electra"


def test_only_next_sentence_prediction_is_unused():
    assert load_pretrained(GOLDEN / "tf1_bert").unused == (
        "cls/seq_relationship/output_bias",
        "cls/seq_relationship/output_weights",
    )


def test_slots_of_the_optimizer_are_counted(caplog):
    with caplog.at_level(logging.INFO, "aillm_tf"):
        load_pretrained(GOLDEN / "tf1_bert")
    assert "left out 5 tensors of the optimizer" in caplog.text


def test_albert_reads_its_sentencepiece_model():
    tokenizer = tokenizer_of(load_pretrained(GOLDEN / "tf1_albert"))
    assert tokenizer.kind == "unigram" and tokenizer.special_tokens["cls"] == "[CLS]"


def test_bert_reads_its_vocabulary():
    assert tokenizer_of(load_pretrained(GOLDEN / "tf1_bert")).vocab_size == 73


def write(folder: Path, tensors: dict[str, np.ndarray], name: str = "model.ckpt") -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {name: tf.compat.v1.Variable(value, use_resource=False) for name, value in tensors.items()}
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver(variables)
        saver.save(session, str(folder / name), write_meta_graph=False, write_state=False)


def tensors(source: str) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(next((GOLDEN / source).glob("*.index")).with_suffix("")))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def test_classifier_of_run_classifier(tmp_path):
    kernel = np.arange(48, dtype="float32").reshape(3, 16)
    write(tmp_path, tensors("tf1_bert") | {"output_weights": kernel, "output_bias": np.zeros(3, "float32")})
    shutil.copy(GOLDEN / "tf1_bert" / "bert_config.json", tmp_path)
    pretrained = load_pretrained(tmp_path)
    np.testing.assert_array_equal(pretrained.read("classifier/kernel"), kernel.T)
    assert pretrained.labels == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_heads_of_electra_are_64_wide_where_no_file_says_otherwise(tmp_path):
    write(
        tmp_path,
        {
            "electra/embeddings/word_embeddings": np.zeros((9, 4), "float32"),
            "electra/embeddings/position_embeddings": np.zeros((5, 4), "float32"),
            "electra/embeddings/token_type_embeddings": np.zeros((2, 4), "float32"),
            "electra/encoder/layer_0/intermediate/dense/kernel": np.zeros((128, 8), "float32"),
        },
    )
    assert load_pretrained(tmp_path).config.heads == 2


def test_two_checkpoints_in_a_folder_are_told_apart(tmp_path):
    shutil.copytree(GOLDEN / "tf1_bert", tmp_path, dirs_exist_ok=True)
    write(tmp_path, tensors("tf1_bert"), "other.ckpt")
    with pytest.raises(ValueError, match=r"several .* \(bert_model.ckpt, other.ckpt\): write tf1:.*other.ckpt"):
        load_pretrained(tmp_path)
    assert load_pretrained(f"tf1:{tmp_path / 'other.ckpt'}").config.layers == 2


def test_a_missing_config_is_named(tmp_path):
    write(tmp_path, tensors("tf1_bert"))
    with pytest.raises(FileNotFoundError, match=r"has no bert_config.json, which states the sizes"):
        load_pretrained(tmp_path)


def test_a_config_of_several_groups_is_refused(tmp_path):
    shutil.copytree(GOLDEN / "tf1_albert", tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "albert_config.json").read_text()) | {"num_hidden_groups": 2}
    (tmp_path / "albert_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="num_hidden_groups is 2"):
        load_pretrained(tmp_path)


def test_generator_of_a_bert_is_refused():
    with pytest.raises(ValueError, match="has no generator"):
        load_pretrained(f"tf1:{GOLDEN / 'tf1_bert'}#generator")


def test_other_checkpoints_are_refused(tmp_path):
    write(tmp_path, {"resnet/conv/kernel": np.zeros(3, "float32")})
    with pytest.raises(ValueError, match="its tensors begin with resnet"):
        load_pretrained(tmp_path)


def test_a_cut_off_checkpoint_is_an_error(tmp_path):
    shutil.copytree(GOLDEN / "tf1_bert", tmp_path, dirs_exist_ok=True)
    data = next(tmp_path.glob("*.data-*"))
    data.write_bytes(data.read_bytes()[:1000])
    pretrained = load_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        pretrained.read("mlm/bias")


def test_a_damaged_index_is_an_error(tmp_path):
    shutil.copytree(GOLDEN / "tf1_bert", tmp_path, dirs_exist_ok=True)
    index = next(tmp_path.glob("*.index"))
    index.write_bytes(index.read_bytes()[:100])
    with pytest.raises(ValueError, match="not a checkpoint, or damaged"):
        load_pretrained(tmp_path)


def test_nan_is_an_error(tmp_path):
    shutil.copytree(GOLDEN / "tf1_bert", tmp_path, dirs_exist_ok=True)
    for file in tmp_path.glob("bert_model.ckpt*"):
        file.unlink()
    write(tmp_path, tensors("tf1_bert") | {"bert/pooler/dense/bias": np.full(16, np.nan, "float32")})
    with pytest.raises(ValueError, match="bert/pooler/dense/bias has NaN"):
        load_pretrained(tmp_path).read("pooler/bias")
