"""Outputs of BERT against golden numbers from transformers (tests/golden/make_bert.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from aillm_tf.layers.naming import variables_by_name
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.weights import known
from aillm_tf.weights.loading import save_pretrained
from aillm_tf.weights.resolve import resolve

GOLDEN = Path(__file__).parents[1] / "golden"
LABELS = ["negative", "neutral", "positive"]
TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "bert.npz"))


@pytest.fixture(scope="module")
def classifier() -> TextClassifier:
    folder = str(GOLDEN / "bert_classifier")
    return TextClassifier.from_pretrained(folder, labels=LABELS, dtype="float32", max_length=24)


@pytest.fixture(scope="module")
def masked_lm() -> MaskedLM:
    return MaskedLM.from_pretrained(str(GOLDEN / "bert_masked_lm"), dtype="float32", max_length=24)


def features(golden) -> dict[str, np.ndarray]:
    token_ids = golden["token_ids"]
    return {"token_ids": token_ids, "segment_ids": golden["segment_ids"], "valid": (token_ids != 0).astype("int32")}


def real(values, golden) -> np.ndarray:
    """What stands at padding is nobody's contract."""
    return np.asarray(values)[golden["token_ids"] != 0]


def test_classifier_logits(classifier, golden):
    logits = np.asarray(classifier.logits(features(golden)))
    np.testing.assert_allclose(logits, golden["bert_classifier_logits"], **TOLERANCE)


def test_classifier_answers_are_the_softmax_of_the_logits(classifier, golden):
    batch = {name: golden[name] for name in ("token_ids", "segment_ids")}
    odds = np.exp(golden["bert_classifier_logits"].astype("float64"))
    probabilities = np.asarray(classifier.answer_tensors(batch)["probabilities"])
    np.testing.assert_allclose(probabilities, odds / odds.sum(-1, keepdims=True), **TOLERANCE)


def test_backbone_hidden_states(classifier, golden):
    hidden = real(classifier.backbone(features(golden)), golden)
    np.testing.assert_allclose(hidden, golden["bert_classifier_hidden"], **TOLERANCE)


def test_masked_lm_logits(masked_lm, golden):
    logits = real(masked_lm.logits(features(golden)), golden)
    np.testing.assert_allclose(logits, golden["bert_masked_lm_logits"], **TOLERANCE)


@pytest.mark.parametrize(("name", "head"), [("bert_classifier", "classification"), ("bert_masked_lm", "masked_lm")])
def test_weights_through_the_model_and_back_are_bit_equal(name, head, request, tmp_path):
    task = request.getfixturevalue({"classification": "classifier", "masked_lm": "masked_lm"}[head])
    variables = {ours: np.asarray(variable) for ours, variable in variables_by_name(task).items()}
    labels = LABELS if head == "classification" else None
    save_pretrained(tmp_path, task.config, variables, task.tokenizer, head, labels)
    theirs, ours = load_file(GOLDEN / name / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert sorted(ours) == sorted(theirs)
    assert [tensor for tensor in theirs if ours[tensor].tobytes() != theirs[tensor].tobytes()] == []


def test_saved_tokenizer_has_the_vocabulary_of_the_one_loaded(classifier, tmp_path):
    variables = {ours: np.asarray(variable) for ours, variable in variables_by_name(classifier).items()}
    save_pretrained(tmp_path, classifier.config, variables, classifier.tokenizer, "classification", LABELS)
    again = TextClassifier.from_pretrained(str(tmp_path), labels=LABELS, dtype="float32", max_length=24)
    assert again.tokenizer.vocabulary == classifier.tokenizer.vocabulary
    assert json.loads((tmp_path / "config.json").read_text())["label2id"] == {
        "negative": 0,
        "neutral": 1,
        "positive": 2,
    }


@pytest.mark.pretrained
def test_minilm_hidden_states():
    expected = np.load(GOLDEN / "minilm.npz")
    task = TextClassifier.from_pretrained(resolve(known.MINILM), labels=["no", "yes"], dtype="float32", max_length=64)
    valid = expected["token_ids"] != 0
    batch = {"token_ids": expected["token_ids"], "segment_ids": np.zeros_like(expected["token_ids"])}
    hidden = np.asarray(task.backbone(batch | {"valid": valid.astype("int32")}))
    means = (hidden * valid[..., None]).sum(1) / valid.sum(1, keepdims=True)
    np.testing.assert_allclose(means, expected["means"], **TOLERANCE)
    np.testing.assert_allclose(hidden[..., :8][valid], expected["first"], **TOLERANCE)
