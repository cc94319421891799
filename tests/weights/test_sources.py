"""Which reader a source goes to, and folders of our own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import aillm_tf
from aillm_tf.training.checkpoint import Checkpoints
from aillm_tf.weights.convert import convert
from aillm_tf.weights.sources import FORMATS, SCHEMES, open_source

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scheme_goes_to_its_module_with_the_whole_source(scheme, monkeypatch):
    asked = []
    monkeypatch.setattr("importlib.import_module", lambda name: type("Module", (), {"load_pretrained": asked.append}))
    open_source(f"{scheme}some/model")
    assert asked == [f"{scheme}some/model"]


@pytest.mark.parametrize("pattern", FORMATS)
def test_folder_goes_to_the_module_of_its_files(pattern, monkeypatch, tmp_path):
    asked = []
    (tmp_path / pattern.replace("*", "x")).touch()
    monkeypatch.setattr("importlib.import_module", lambda name: type("Module", (), {"load_pretrained": asked.append}))
    open_source(tmp_path)
    assert asked == [tmp_path]


def test_file_is_refused(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ValueError, match=r"this is a file; give the folder"):
        open_source(tmp_path / "model.safetensors")


@pytest.fixture(scope="module")
def ours(tmp_path_factory) -> Path:
    """A classifier as `Task.save` writes it, inside a run."""
    run = tmp_path_factory.mktemp("run")
    labels = ["negative", "neutral", "positive"]
    source = str(GOLDEN / "bert_classifier")
    task = aillm_tf.TextClassifier.from_pretrained(source, labels=labels, dtype="float32", max_length=24)
    task.save(run / "model")
    return run


def test_run_is_opened_as_its_model(ours):
    golden, found = open_source(GOLDEN / "bert_classifier"), open_source(ours)
    assert (found.folder, found.labels) == (ours / "model", golden.labels)
    assert [name for name in golden.names if golden.read(name).tobytes() != found.read(name).tobytes()] == []


def test_damaged_task_file_is_named(ours, tmp_path):
    folder = Path(shutil.copytree(ours / "model", tmp_path / "model"))
    (folder / "task.json").write_text('{"task": "TextClassifier"}')
    with pytest.raises(ValueError, match=r"task.json: damaged"):
        open_source(folder)


def test_converted_classifier_is_a_task_again(tmp_path):
    convert(GOLDEN / "bert_classifier", tmp_path / "ours", to="aillm", progress=False)
    task = aillm_tf.load(tmp_path / "ours", dtype="float32")
    options = {"labels": task.labels, "dtype": "float32", "max_length": 24}
    expected = aillm_tf.TextClassifier.from_pretrained(str(GOLDEN / "bert_classifier"), **options)
    texts = ["ok", "I would not watch this again."]
    found = [answer["probabilities"] for answer in task.answer(texts)]
    assert found == [answer["probabilities"] for answer in expected.answer(texts)]


def test_converted_backbone_says_how_to_load_it(tmp_path):
    convert(GOLDEN / "qwen3", tmp_path / "ours", to="aillm", progress=False)
    with pytest.raises(ValueError, match=r"holds a backbone without a task: take ai.load_backbone"):
        aillm_tf.load(tmp_path / "ours")
    backbone, _ = aillm_tf.load_backbone(tmp_path / "ours")
    np.testing.assert_array_equal(
        backbone.embeddings.token, open_source(GOLDEN / "qwen3").read("backbone/embeddings/token")
    )


def test_folder_that_was_not_finished_does_not_load(ours, tmp_path):
    folder = Path(shutil.copytree(ours / "model", tmp_path / "model"))
    (folder / "task.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        open_source(folder)


def test_options_of_the_saved_task_stay(ours, tmp_path):
    convert(ours, tmp_path / "half", to="aillm", dtype="float16", progress=False)
    facts = json.loads((tmp_path / "half" / "task.json").read_text())
    assert facts == json.loads((ours / "model" / "task.json").read_text())


def test_a_checkpoint_of_training_says_what_to_give_instead(tmp_path):
    Checkpoints(tmp_path).save(3, {"model": {"w": np.zeros(2)}}, {})
    with pytest.raises(ValueError, match="is a checkpoint of training.*give the folder of the run"):
        open_source(tmp_path / "step_00000003")
