"""Folders made to mislead: each a clear error, and nothing outside them is read or run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aillm_tf.weights.loading import load_pretrained
from aillm_tf.weights.sources import open_source

GOLDEN = Path(__file__).parents[1] / "golden" / "bert_classifier"


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "model"))


def configure(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def shard(folder: Path, name: str) -> Path:
    """Makes the weights a shard of that name, which need not be inside the folder."""
    tensors = load_file(folder / "model.safetensors")
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").rename(file)
    index = {"weight_map": dict.fromkeys(tensors, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return file


def test_shard_in_the_folder_above_is_refused(folder):
    shard(folder, "../outside.safetensors")
    with pytest.raises(ValueError, match=r"index.json: refused: the shard '../outside.safetensors' is outside"):
        load_pretrained(folder)


def test_shard_with_an_absolute_path_is_refused(folder, tmp_path):
    name = str(tmp_path / "outside.safetensors")
    shard(folder, name)
    with pytest.raises(ValueError, match=r"refused: the shard '/.*outside.safetensors' is outside"):
        load_pretrained(folder)


def test_shard_that_is_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    file = shard(folder, "model-1.safetensors")
    file.rename(tmp_path / "elsewhere.safetensors")
    file.symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(ValueError, match=r"refused: the shard 'model-1.safetensors' is outside"):
        load_pretrained(folder)


def test_shard_that_is_a_link_into_the_cache_of_the_hub_is_taken(tmp_path):
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "models--org--name" / "snapshots" / "abc"))
    file = shard(folder, "model-1.safetensors")
    blob = tmp_path / "models--org--name" / "blobs" / "0123"
    blob.parent.mkdir()
    file.rename(blob)
    file.symlink_to(Path("../../blobs/0123"))
    assert load_pretrained(folder).shapes == load_pretrained(GOLDEN).shapes


@pytest.mark.parametrize("index", [[], {}, {"weight_map": []}, {"weight_map": {"a": 1}}, {"weight_map": {"a": None}}])
def test_index_of_another_kind_is_refused(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"index.json: (has no weight_map|not a table)"):
        load_pretrained(folder)


def test_tensor_that_only_the_index_has_is_named(folder):
    shard(folder, "model-1.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"]["bert.more.weight"] = "model-1.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names tensors that no file has: bert.more.weight"):
        load_pretrained(folder)


class Bomb:
    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("opener", [load_pretrained, open_source])
def test_pickle_is_refused_with_the_command_that_converts_it_and_not_run(folder, tmp_path, opener):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(ValueError, match=r"pytorch_model.bin, a pickle(.|\n)*weights_only=True(.|\n)*save_file"):
        opener(folder)
    assert not (tmp_path / "ran").exists()


def test_code_that_the_configuration_names_is_not_imported(folder):
    configure(folder, auto_map={"AutoModel": "modeling_evil.Model"})
    (folder / "modeling_evil.py").write_text("raise SystemExit('imported')")
    assert load_pretrained(folder).config.layers == 2


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"num_hidden_layers": 10**9}, "config.json says 1000000000 layers, the checkpoint has 41 tensors"),
        ({"hidden_size": "32"}, "config.json: hidden_size is '32', not a whole number of at least 1"),
        ({"hidden_size": 32.5}, "config.json: hidden_size is 32.5, not a whole number"),
        ({"layer_norm_eps": float("inf")}, "config.json: layer_norm_eps is inf, not a number"),
        ({"hidden_act": ["gelu"]}, r"config.json: hidden_act is \['gelu'\], supported are"),
        ({"hidden_size": -32}, "config.json: hidden_size is -32, not a whole number"),
        ({"num_attention_heads": 0}, "config.json: num_attention_heads is 0, not a whole number"),
        ({"num_attention_heads": 5}, "config.json: hidden_size 32 is not a multiple of heads 5"),
        ({"hidden_dropout_prob": 2}, "config.json: dropout is a share"),
        ({"model_type": ["bert"]}, r"config.json: model_type \['bert'\] is not supported"),
        ({"model_type": "../evil"}, "config.json: model_type '../evil' is not supported"),
        ({"architectures": "BertModel"}, "config.json: architectures is 'BertModel'"),
        ({"id2label": ["a", "b", "c"]}, "config.json: id2label is"),
        ({"id2label": {"first": "a"}}, "config.json: id2label is"),
    ],
)
def test_configuration_that_makes_no_sense_is_named(folder, values, reason):
    configure(folder, **values)
    with pytest.raises(ValueError, match=reason):
        load_pretrained(folder)


def test_configuration_that_is_no_table_is_named(folder):
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="config.json: not a table of settings"):
        load_pretrained(folder)


def test_joined_tensors_of_different_sizes_are_named(folder):
    tensors = load_file(folder / "model.safetensors")
    query = "bert.encoder.layer.0.attention.self.query.weight"
    save_file(tensors | {query: np.zeros((32, 31), "float32")}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"wrong shapes: {query} \[32, 31\], .* do not make one matrix"):
        load_pretrained(folder)


def test_matrix_that_is_stored_as_a_vector_is_named(folder):
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors | {"bert.pooler.dense.weight": np.zeros(32, "float32")}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"wrong shapes: bert.pooler.dense.weight \[32\]"):
        load_pretrained(folder)
