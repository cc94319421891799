"""Folders for transformers: shards, types, cards, the family chosen."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.card import model_card
from aillm_tf.weights.families import family
from aillm_tf.weights.loading import load_pretrained
from aillm_tf.weights.saving import architecture_of, family_of, save_pretrained

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = TransformerConfig(vocab_size=9, hidden_size=8, layers=1, heads=2, ffn_size=12, segments=2)


def save_again(target: Path, name: str = "bert_masked_lm", **options) -> dict[str, np.ndarray]:
    """Saves a golden folder with our writer, and returns the tensors of the golden one."""
    pretrained = load_pretrained(GOLDEN / name)
    variables = {ours: pretrained.read(ours) for ours in pretrained.names}
    options = {"architecture": pretrained.architecture, "labels": pretrained.labels} | options
    save_pretrained(target, pretrained.config, variables, None, **options)
    return load_file(GOLDEN / name / "model.safetensors")


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def test_shards_are_no_larger_than_asked_and_hold_every_tensor_once(tmp_path):
    theirs = save_again(tmp_path, shard_bytes=20_000)
    parts = [load_file(file) for file in shards(tmp_path)]
    assert all(sum(array.nbytes for array in part.values()) <= 20_000 for part in parts)
    assert sorted(name for part in parts for name in part) == sorted(theirs)


def test_index_says_where_each_tensor_is(tmp_path):
    save_again(tmp_path, shard_bytes=20_000)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file.name for file in shards(tmp_path) for name in load_file(file)}
    assert index["metadata"]["total_size"] == sum(
        a.nbytes for file in shards(tmp_path) for a in load_file(file).values()
    )


def test_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path):
    theirs = save_again(tmp_path, shard_bytes=1)
    assert len(shards(tmp_path)) == len(theirs)


def test_shards_are_read_again_bit_for_bit(tmp_path):
    save_again(tmp_path, shard_bytes=20_000)
    first, second = load_pretrained(GOLDEN / "bert_masked_lm"), load_pretrained(tmp_path)
    assert [name for name in first.names if first.read(name).tobytes() != second.read(name).tobytes()] == []


def test_weights_of_an_earlier_save_in_other_files_are_removed(tmp_path):
    save_again(tmp_path)
    save_again(tmp_path, shard_bytes=20_000)
    assert not (tmp_path / "model.safetensors").exists()
    save_again(tmp_path)
    assert [file.name for file in tmp_path.glob("model*")] == ["model.safetensors"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensors_are_rounded_to_the_type_asked_for(tmp_path, dtype):
    theirs = save_again(tmp_path, dtype=dtype)
    ours = load_pretrained(tmp_path)
    token = theirs["bert.embeddings.word_embeddings.weight"].astype(getattr(ml_dtypes, dtype, dtype))
    np.testing.assert_array_equal(ours.read("backbone/embeddings/token"), token.astype("float32"))
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == dtype


@pytest.mark.parametrize("name", ["qwen3", "gpt2_classifier", "bart", "t5_v1_0", "electra/discriminator"])
def test_round_trip_of_other_families_is_bit_equal(tmp_path, name):
    theirs = save_again(tmp_path, name)
    ours = load_file(tmp_path / "model.safetensors")
    assert {n: (a.shape, a.tobytes()) for n, a in ours.items()} == {
        n: (a.shape, a.tobytes()) for n, a in theirs.items()
    }


def test_unknown_architecture_lists_those_of_the_family(tmp_path):
    with pytest.raises(ValueError, match=r"'BertForChess': known for BERT are BertModel, BertForSequence"):
        save_again(tmp_path, architecture="BertForChess")


def test_model_without_a_family_is_saved_as_the_first_with_its_formula():
    assert family_of(TINY)[0].model_type == "bert"
    assert family_of(TINY.replace(segments=0, activation="gelu"))[0].model_type == "distilbert"


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"])
def test_decoder_without_a_family_finds_its_own(name):
    config = load_pretrained(GOLDEN / name).config
    assert family_of(config.replace(model_type=None))[0].model_type == name


def test_formula_of_no_family_says_what_the_nearest_lacks():
    with pytest.raises(ValueError, match=r"no family of transformers computes this formula.*position='alibi'"):
        family_of(TINY.replace(position="alibi"))


def test_model_that_left_the_formula_of_its_family_is_refused():
    config = load_pretrained(GOLDEN / "bert_masked_lm").config.replace(norm="rms")
    with pytest.raises(ValueError, match=r"not a BERT.*norm='rms'"):
        family_of(config)


@pytest.mark.parametrize(
    ("heads", "architecture"),
    [
        ((), "BertModel"),
        (("pooler",), "BertModel"),
        (("pooler", "classifier"), "BertForSequenceClassification"),
        (("mlm",), "BertForMaskedLM"),
        (("pooler", "mlm"), "BertForPreTraining"),
        (("tagger",), "BertForTokenClassification"),
        (("spans",), "BertForQuestionAnswering"),
    ],
)
def test_architecture_is_the_one_with_a_place_for_every_head(heads, architecture):
    from aillm_tf.weights.names import names

    bert = family("bert")
    present = list(names(bert, TINY, heads))
    assert architecture_of(bert, TINY, present) == (architecture, present)


def test_card_tells_base_classes_scores_and_recipe():
    config = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "id2label": {0: "no", 1: "yes"}}
    about = {"base_model": "hf:org/name@main", "scores": {"accuracy": 0.87654321}, "settings": "steps: 3\n"}
    card = model_card(config, "mine", about)
    for line in ('base_model: "org/name"', "- Classes: no, yes", "| accuracy | 0.8765 |", "steps: 3"):
        assert line in card.splitlines()


def test_card_leaves_an_unknown_license_to_the_user_and_states_a_known_one():
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    assert "# license: not known" in model_card(config, "mine", {})
    assert 'license: "mit"' in model_card(config, "mine", {"license": "mit"})
