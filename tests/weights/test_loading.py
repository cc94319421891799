"""Hugging Face folders in and out, on the tiny BERTs of tests/golden."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from aillm_tf.weights import known
from aillm_tf.weights.loading import assign, assign_arrays, load_pretrained, save_pretrained
from aillm_tf.weights.resolve import resolve

GOLDEN = Path(__file__).parents[1] / "golden"
QUERY = "bert.encoder.layer.1.attention.self.query.weight"
HEADS = {"bert_classifier": "classification", "bert_masked_lm": "masked_lm"}


class Variable:
    """As much of keras.Variable as assign needs."""

    def __init__(self, shape):
        self.shape, self.value = shape, None

    def assign(self, value):
        assert value.dtype == np.float32
        self.value = value


class NoTokenizer:
    pad_id = 0

    def save(self, folder):
        (Path(folder) / "vocab.txt").write_text("[PAD]\n")


@pytest.fixture
def folder(tmp_path) -> Path:
    """A copy of the golden classifier, to be damaged."""
    return Path(shutil.copytree(GOLDEN / "bert_classifier", tmp_path / "model"))


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def variables_of(pretrained) -> dict[str, Variable]:
    return {name: Variable(shape) for name, shape in pretrained.shapes.items()}


def saved_again(source: Path, target: Path, head: str | None) -> dict[str, np.ndarray]:
    pretrained = load_pretrained(source)
    variables = {name: pretrained.read(name) for name in pretrained.names}
    save_pretrained(target, pretrained.config, variables, NoTokenizer(), head, pretrained.labels)
    return load_file(target / "model.safetensors")


def assert_same_bits(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert sorted(ours) == sorted(theirs)
    differ = [name for name in theirs if ours[name].tobytes() != theirs[name].tobytes()]
    assert differ == []


@pytest.mark.parametrize("name", HEADS)
def test_round_trip_is_bit_equal(name, tmp_path):
    theirs = load_file(GOLDEN / name / "model.safetensors")
    assert_same_bits(saved_again(GOLDEN / name, tmp_path, HEADS[name]), theirs)


@pytest.mark.parametrize("name", HEADS)
def test_round_trip_keeps_the_configuration(name, tmp_path):
    saved_again(GOLDEN / name, tmp_path, HEADS[name])
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (GOLDEN / name, tmp_path))
    same = set(after) - {"torch_dtype"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}


def test_round_trip_without_a_head_has_bare_names(tmp_path, folder):
    def bare(tensors):
        return {n.removeprefix("bert."): v for n, v in tensors.items() if not n.startswith("classifier")}

    rewrite(folder, bare)
    configure(folder, architectures=["BertModel"])
    assert_same_bits(saved_again(folder, tmp_path, None), load_file(folder / "model.safetensors"))


def test_shards_are_one_checkpoint(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_same_bits(saved_again(folder, tmp_path / "out", "classification"), tensors)


def test_missing_shard_is_named(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {QUERY: "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FileNotFoundError, match=r"names model-00001-of-00002.safetensors, which is not there"):
        load_pretrained(folder)


def test_qkv_columns_are_query_key_value():
    tensors = load_file(GOLDEN / "bert_classifier" / "model.safetensors")
    fused = load_pretrained(GOLDEN / "bert_classifier").read("backbone/encoder/layer_1/attention/qkv/kernel")
    np.testing.assert_array_equal(fused[:, 32:64], tensors[QUERY.replace("query", "key")].T)


def test_names_of_old_tensorflow_conversions_are_known(folder):
    def old(tensors):
        for name in [name for name in tensors if "LayerNorm" in name]:
            new = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[new] = tensors.pop(name)

    rewrite(folder, old)
    assert load_pretrained(folder).shapes == load_pretrained(GOLDEN / "bert_classifier").shapes


def test_position_ids_are_ignored(folder):
    rewrite(folder, lambda tensors: tensors | {"bert.embeddings.position_ids": np.arange(24)[None]})
    assert load_pretrained(folder).unused == ()


def test_tensor_without_a_place_is_listed(folder):
    rewrite(folder, lambda tensors: tensors | {"bert.adapter.weight": np.ones(2, np.float32)})
    assert load_pretrained(folder).unused == ("bert.adapter.weight",)


def test_tied_decoder_is_accepted_when_it_is_tied(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "bert_masked_lm", tmp_path / "model"))
    token = "bert.embeddings.word_embeddings.weight"
    rewrite(folder, lambda tensors: tensors | {"cls.predictions.decoder.weight": tensors[token]})
    assert load_pretrained(folder).unused == ()


def test_untied_decoder_is_refused(tmp_path):
    folder = Path(shutil.copytree(GOLDEN / "bert_masked_lm", tmp_path / "model"))
    decoder = {"cls.predictions.decoder.weight": np.zeros((120, 32), np.float32)}
    rewrite(folder, lambda tensors: tensors | decoder)
    with pytest.raises(ValueError, match=r"cls.predictions.decoder.weight differs from"):
        load_pretrained(folder)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_is_read_as_float32(folder, dtype):
    exact = load_file(folder / "model.safetensors")[QUERY].astype(dtype).astype(np.float32)
    rewrite(folder, lambda tensors: {name: value.astype(dtype) for name, value in tensors.items()})
    fused = load_pretrained(folder).read("backbone/encoder/layer_1/attention/qkv/kernel")
    assert fused.dtype == np.float32
    np.testing.assert_array_equal(fused[:, :32], exact.T)


def test_nan_names_file_and_tensor(folder):
    def poison(tensors):
        tensors[QUERY][3, 4] = np.nan

    rewrite(folder, poison)
    pretrained = load_pretrained(folder)
    with pytest.raises(ValueError, match=rf"model.safetensors: tensor {QUERY} has NaN"):
        assign(variables_of(pretrained), pretrained)


def test_quantised_tensor_is_named(folder):
    rewrite(folder, lambda tensors: tensors | {QUERY: tensors[QUERY].astype(np.int8)})
    with pytest.raises(ValueError, match=f"{QUERY} is I8"):
        load_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 4, 5000, -1])
def test_cut_off_file_is_named(folder, keep):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors: damaged or cut off"):
        load_pretrained(folder)


def test_part_of_a_fused_tensor_missing_is_named(folder):
    rewrite(folder, lambda tensors: {name: value for name, value in tensors.items() if name != QUERY})
    with pytest.raises(ValueError, match=f"of {QUERY}, .* only"):
        load_pretrained(folder)


def test_folder_without_config_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config.json"):
        load_pretrained(tmp_path)


def test_folder_without_weights_is_said(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has neither model.safetensors nor"):
        load_pretrained(folder)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"model_type": "mamba"}, r"config.json: model_type 'mamba' is not supported; supported are bert"),
        ({"position_embedding_type": "relative_key"}, r"config.json: position_embedding_type is 'relative_key'"),
        ({"hidden_act": "mish"}, r"config.json: hidden_act is 'mish', supported are"),
        ({"is_decoder": True}, r"config.json: is_decoder is True"),
        ({"tie_word_embeddings": False}, r"config.json: tie_word_embeddings is False"),
    ],
)
def test_unsupported_configuration_is_named(folder, values, reason):
    configure(folder, **values)
    with pytest.raises(ValueError, match=reason):
        load_pretrained(folder)


def test_configuration_without_a_size_is_named(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["intermediate_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json: has no intermediate_size"):
        load_pretrained(folder)


def test_classifier_of_tokens_is_not_taken_for_one_of_texts(folder):
    configure(folder, architectures=["BertForTokenClassification"])
    assert "classifier/kernel" not in load_pretrained(folder).names


def test_assign_fills_every_variable():
    pretrained = load_pretrained(GOLDEN / "bert_classifier")
    variables = variables_of(pretrained)
    assign(variables, pretrained)
    for name, variable in variables.items():
        np.testing.assert_array_equal(variable.value, pretrained.read(name), err_msg=name)


def test_assign_lists_everything_that_does_not_fit():
    pretrained = load_pretrained(GOLDEN / "bert_classifier")
    variables = variables_of(pretrained)
    del variables["backbone/embeddings/segment"]
    variables["backbone/embeddings/position"].shape = (512, 32)
    variables["backbone/encoder/final_norm/scale"] = Variable((32,))
    with pytest.raises(ValueError) as error:
        assign(variables, pretrained)
    assert str(error.value).splitlines()[1:] == [
        "  backbone/embeddings/position: (24, 32) in the checkpoint, (512, 32) in the model",
        "  missing from the checkpoint: backbone/encoder/final_norm/scale",
        "  in the checkpoint, not in the model: backbone/embeddings/segment",
    ]
    assert all(variable.value is None for variable in variables.values())


def test_new_head_is_said_once(caplog):
    pretrained = load_pretrained(GOLDEN / "bert_masked_lm")
    head = {"pooler/kernel": Variable((32, 32)), "classifier/bias": Variable((3,))}
    backbone = {n: v for n, v in variables_of(pretrained).items() if n.startswith("backbone/")}
    with caplog.at_level(logging.WARNING, "aillm_tf"):
        assign(backbone | head, pretrained)
    assert [r.getMessage().split(": ", 2)[2] for r in caplog.records] == ["pooler/kernel, classifier/bias"]


def test_unneeded_head_is_listed(caplog):
    pretrained = load_pretrained(GOLDEN / "bert_masked_lm")
    backbone = {n: v for n, v in variables_of(pretrained).items() if n.startswith("backbone/")}
    with caplog.at_level(logging.INFO, "aillm_tf"):
        assign(backbone, pretrained)
    assert "not used: mlm/transform/kernel" in caplog.text


def test_classifier_for_another_number_of_classes_starts_anew_whole():
    pretrained = load_pretrained(GOLDEN / "bert_classifier")
    variables = variables_of(pretrained)
    variables["classifier/kernel"].shape = (32, 2)
    assign(variables, pretrained)
    assert variables["classifier/bias"].value is None
    assert variables["pooler/kernel"].value is not None


@pytest.mark.parametrize(
    ("labels", "taken"),
    [(["negative", "neutral", "positive"], True), (["positive", "neutral", "negative"], False), (None, True)],
)
def test_classifier_is_taken_only_for_the_same_classes_in_the_same_order(labels, taken):
    pretrained = load_pretrained(GOLDEN / "bert_classifier")
    variables = variables_of(pretrained)
    assign(variables, pretrained, labels=labels)
    assert (variables["classifier/kernel"].value is not None) == taken


def test_classifier_that_only_counts_its_classes_is_taken(folder):
    configure(folder, id2label={"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"})
    pretrained = load_pretrained(folder)
    variables = variables_of(pretrained)
    assign(variables, pretrained, labels=["bad", "so-so", "good"])
    assert variables["classifier/kernel"].value is not None


def test_arrays_of_the_same_task_must_all_fit():
    arrays = {"backbone/embeddings/token": np.ones((9, 4), np.float32), "mlm/bias": np.ones(9, np.float32)}
    variables = {"backbone/embeddings/token": Variable((9, 4)), "classifier/bias": Variable((2,))}
    with pytest.raises(
        ValueError, match=r"missing from the checkpoint: classifier/bias(.|\n)*not in the model: mlm/bias"
    ):
        assign_arrays(variables, arrays, "runs/model")


def test_arrays_of_another_task_fill_the_backbone():
    arrays = {"backbone/embeddings/token": np.ones((9, 4), np.float32), "mlm/bias": np.ones(9, np.float32)}
    variables = {"backbone/embeddings/token": Variable((9, 4)), "classifier/bias": Variable((2,))}
    assign_arrays(variables, arrays, "runs/model", strict=False)
    assert variables["backbone/embeddings/token"].value is arrays["backbone/embeddings/token"]


def save_with(tmp_path, change=lambda variables: variables, **options):
    pretrained = load_pretrained(GOLDEN / "bert_classifier")
    variables = change({name: pretrained.read(name) for name in pretrained.names})
    options = {"head": "classification", "labels": pretrained.labels} | options
    config = options.pop("config", {})
    save_pretrained(tmp_path / "out", pretrained.config.replace(**config), variables, NoTokenizer(), **options)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"norm_placement": "pre"}, "norm_placement='pre'"),
        ({"gated": True, "norm": "rms"}, "norm='rms', gated=True"),
        ({"kv_heads": 2}, "kv_heads=2"),
        ({"segments": 0}, "type_vocab_size is 0"),
    ],
)
def test_model_that_is_no_bert_is_not_saved_as_one(tmp_path, config, reason):
    with pytest.raises(ValueError, match=f"not a BERT.*{reason}"):
        save_with(tmp_path, config=config)


def test_save_lists_missing_and_surplus_variables(tmp_path):
    def change(variables):
        variables["mlm/bias"] = variables.pop("pooler/bias")
        return variables

    with pytest.raises(ValueError, match=r"missing: pooler/bias; has no place in BertForSequence.*: mlm/bias"):
        save_with(tmp_path, change)
    assert not (tmp_path / "out").exists()


def test_save_refuses_labels_of_another_number(tmp_path):
    with pytest.raises(ValueError, match="2 labels for a classifier of 3"):
        save_with(tmp_path, labels=["a", "b"])


def test_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    save_with(tmp_path)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("aillm_tf.weights.saving.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_with(tmp_path, labels=["a", "b", "c"])
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.pretrained
def test_minilm_round_trip_is_bit_equal(tmp_path):
    source = resolve(known.MINILM)
    theirs = load_file(source / "model.safetensors")
    del theirs["embeddings.position_ids"]
    assert_same_bits(saved_again(source, tmp_path, None), theirs)
