"""SavedModels of the TF Model Garden against its own outputs (tests/golden/make_tf.py)."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.models.encoder import Encoder
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.weights import tfhub
from aillm_tf.weights.backbones import backbone_variables, new_backbone, tokenizer_of
from aillm_tf.weights.loading import assign
from aillm_tf.weights.sources import open_source
from aillm_tf.weights.tfhub import load_pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "tf.npz"))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> dict[str, Path]:
    folders = {}
    for name in ("bert", "albert"):
        folders[name] = tmp_path_factory.mktemp(name)
        with tarfile.open(GOLDEN / f"tfhub_{name}.tar.xz") as archive:
            archive.extractall(folders[name])
    return folders


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("AILLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def features(golden) -> dict[str, np.ndarray]:
    token_ids = golden["token_ids"]
    return {"token_ids": token_ids, "segment_ids": golden["segment_ids"], "valid": (token_ids != 0).astype("int32")}


def filled(pretrained) -> Encoder:
    backbone = new_backbone(pretrained.config, dtype="float32")
    assign(backbone_variables(backbone), pretrained, allow_new=())
    return backbone


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_hidden_states(name, golden, unpacked):
    hidden = np.asarray(filled(load_pretrained(unpacked[name]))(features(golden)))[golden["token_ids"] != 0]
    np.testing.assert_allclose(hidden, golden[f"tfhub_{name}_hidden"], **TOLERANCE)


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_pooler(name, golden, unpacked):
    pretrained = load_pretrained(unpacked[name])
    first = np.asarray(filled(pretrained)(features(golden)))[:, 0]
    pooled = np.tanh(first @ pretrained.read("pooler/kernel") + pretrained.read("pooler/bias"))
    np.testing.assert_allclose(pooled, golden[f"tfhub_{name}_pooled"], **TOLERANCE)


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_masked_lm_head(name, golden, unpacked):
    pretrained = load_pretrained(unpacked[name])
    x = np.asarray(filled(pretrained)(features(golden)))[golden["token_ids"] != 0]
    x = x @ pretrained.read("mlm/transform/kernel") + pretrained.read("mlm/transform/bias")
    x = tf.nn.gelu(x, approximate=True).numpy()
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    x = x * pretrained.read("mlm/norm/scale") + pretrained.read("mlm/norm/bias")
    logits = x @ pretrained.read("backbone/embeddings/token").T + pretrained.read("mlm/bias")
    np.testing.assert_allclose(logits, golden[f"tfhub_{name}_mlm"], **TOLERANCE)


def test_a_task_is_made_of_a_saved_model(golden, unpacked):
    task = MaskedLM.from_pretrained(f"tfhub:{unpacked['bert']}", dtype="float32", max_length=20)
    logits = np.asarray(task.logits(features(golden)))[golden["token_ids"] != 0]
    np.testing.assert_allclose(logits, golden["tfhub_bert_mlm"], **TOLERANCE)


@pytest.mark.parametrize("name", ["bert", "albert"])
def test_every_variable_has_a_place(name, unpacked):
    assert load_pretrained(unpacked[name]).unused == ()


def test_a_saved_model_folder_is_recognised(unpacked):
    assert open_source(unpacked["albert"]).config.layers == 2


def test_a_tokenizer_lowercases_where_the_saved_model_says_so(unpacked):
    tokenizer = tokenizer_of(load_pretrained(unpacked["bert"]))
    assert tokenizer.decode(tokenizer.encode(["A B"]).ids) == "a b"


def test_albert_reads_its_sentencepiece_model(unpacked):
    assert tokenizer_of(load_pretrained(unpacked["albert"])).kind == "unigram"


def test_a_local_archive_needs_no_network(unpacked, cache, tmp_path):
    with tarfile.open(tmp_path / "bert.tar.gz", "w:gz") as archive:
        archive.add(unpacked["bert"], ".")
    assert open_source(f"tfhub:{tmp_path / 'bert.tar.gz'}").config.hidden_size == 16
    assert len(list((cache / "tfhub").iterdir())) == 1


def test_without_a_network_the_error_says_how_to_get_the_folder(cache, monkeypatch):
    import requests

    def refuse(url, **options):
        assert url == "https://tfhub.dev/tensorflow/bert_en_uncased/4?tf-hub-format=compressed"
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(RuntimeError, match=r"no route\nTF-Hub's models are on kaggle.com/models now: download"):
        load_pretrained("tfhub:tensorflow/bert_en_uncased/4")
    assert list((cache / "tfhub").iterdir()) == []


def test_a_handle_on_kaggle_goes_through_kagglehub(unpacked, monkeypatch):
    import kagglehub

    asked = []
    monkeypatch.setattr(kagglehub, "model_download", lambda handle: asked.append(handle) or str(unpacked["bert"]))
    assert load_pretrained("tfhub:tensorflow/bert/tensorFlow2/en-uncased/4").config.layers == 2
    assert asked == ["tensorflow/bert/tensorFlow2/en-uncased/4"]


@pytest.mark.parametrize("name", ["../evil", "/evil"])
def test_an_archive_that_leaves_its_folder_is_refused(name, cache, tmp_path):
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(RuntimeError, match="refused"):
        load_pretrained(f"tfhub:{tmp_path / 'evil.tar.gz'}")


def test_a_cut_off_archive_is_an_error(unpacked, cache, tmp_path):
    whole = (GOLDEN / "tfhub_bert.tar.xz").read_bytes()
    (tmp_path / "cut.tar.xz").write_bytes(whole[:2000])
    with pytest.raises(RuntimeError, match="cut.tar.xz is damaged"):
        load_pretrained(f"tfhub:{tmp_path / 'cut.tar.xz'}")


def test_another_saved_model_is_refused(tmp_path):
    tf.saved_model.save(tf.train.Checkpoint(kernel=tf.Variable([1.0], name="kernel")), str(tmp_path))
    with pytest.raises(ValueError, match="no BERT-like encoder of the TF Model Garden"):
        load_pretrained(tmp_path)


def test_a_damaged_graph_is_an_error(unpacked, tmp_path):
    shutil.copytree(unpacked["bert"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "saved_model.pb").write_bytes(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="saved_model.pb: damaged"):
        load_pretrained(tmp_path)


def test_a_missing_archive_is_named():
    with pytest.raises(FileNotFoundError, match="no such file"):
        tfhub.fetch("tfhub:nowhere/model.tar.gz")
