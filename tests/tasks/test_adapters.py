"""Adapters on disk: onto the base again, merged into what is saved and exported."""

import numpy as np
import pytest

import aillm_tf
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.models.presets import preset
from aillm_tf.tasks.adapters import load_adapter, save_adapter
from aillm_tf.tasks.causal_lm import CausalLM
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.text.train import train_tokenizer
from aillm_tf.training.freezing import adapt
from aillm_tf.training.optimizer import adamw
from aillm_tf.weights.tensor_file import open_file, read_metadata

TEXTS = ["a fine story", "dull", "the end of a long war"]


@pytest.fixture(scope="module")
def base(config, tokenizer, tmp_path_factory):
    """The folder of a pretrained model."""
    folder = tmp_path_factory.mktemp("base")
    TextClassifier(config, tokenizer, labels=["x", "y", "z"], max_length=16, dtype="float32", seed=9).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def trained(base, rows):
    """A classifier of other labels on that base, in the middle of its training with adapters, and its own folder."""
    model = TextClassifier.from_pretrained(base, labels=["bad", "good"], max_length=16, dtype="float32")
    adapt(model, 2, 4.0, ["query", "value", "down"])
    model.compile(adamw(2e-2))
    model.fit(model.dataset(rows, batch_size=10, shuffle=True, fixed_length=True), steps=8, verbose=0)
    return model


@pytest.fixture(scope="module")
def folder(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    trained.save(folder)
    return folder


def same_answers(model, other):
    for one, two in zip(model.answer(TEXTS), other.answer(TEXTS), strict=True):
        assert one["label"] == two["label"]
        for label, probability in one["probabilities"].items():
            assert two["probabilities"][label] == pytest.approx(probability, abs=1e-5)


def test_a_saved_model_has_its_adapters_merged(trained, folder):
    loaded = aillm_tf.load(folder)
    assert not any("lora" in name for name in variables_by_name(loaded))
    same_answers(trained, loaded)


def test_the_adapter_alone_makes_the_model_again(trained, folder, base):
    again = load_adapter(folder / "adapter.safetensors")
    for name, variable in variables_by_name(trained).items():
        np.testing.assert_array_equal(variables_by_name(again)[name].numpy(), variable.numpy())
    assert [v.path.partition("/")[2] for v in again.trainable_variables] == [
        v.path.partition("/")[2] for v in trained.trainable_variables
    ]


def test_the_file_holds_what_was_trained_and_names_its_base(trained, folder, base):
    file = folder / "adapter.safetensors"
    assert {tensor.name for tensor in open_file(file)} == {
        v.path.partition("/")[2] for v in trained.trainable_variables
    }
    facts = read_metadata(file)
    assert facts["base"] == base and facts["task"] == "TextClassifier"


def test_an_adapter_is_refused_by_other_weights(folder, config, tokenizer, tmp_path):
    TextClassifier(config, tokenizer, labels=["x", "y"], max_length=16, dtype="float32", seed=1).save(tmp_path)
    with pytest.raises(ValueError, match="was trained on other weights"):
        load_adapter(folder / "adapter.safetensors", base=str(tmp_path))


def test_other_files_are_no_adapters(base, folder):
    with pytest.raises(ValueError, match="is no adapter"):
        load_adapter(f"{base}/model.safetensors")
    with pytest.raises(ValueError, match="no LoRA adapters"):
        save_adapter(aillm_tf.load(base), folder / "none.safetensors")


def test_a_model_that_is_saved_in_the_same_folder_leaves_no_old_adapter(trained, base, tmp_path):
    trained.save(tmp_path)
    aillm_tf.load(base).save(tmp_path)
    assert not (tmp_path / "adapter.safetensors").exists()


def test_a_hugging_face_folder_has_the_adapters_merged(trained, tmp_path):
    trained.save_huggingface(tmp_path)
    same_answers(trained, TextClassifier.from_pretrained(str(tmp_path), max_length=16, dtype="float32"))


@pytest.mark.slow
def test_texts_are_written_with_adapters(tmp_path):
    texts = ["one two three four", "two"]
    tokenizer = train_tokenizer(texts * 4, "bpe", 280, use="decoder")
    options = {"max_length": 24, "dtype": "float32", "generation": {"max_new_tokens": 6}}
    model = CausalLM(preset("llama-tiny", tokenizer.vocab_size, initializer_range=0.3), tokenizer, **options)
    before = model.answer(texts)
    adapt(model, 4, 16.0, ["query", "value", "gate", "down"])
    assert model.answer(texts) == before
    rng = np.random.default_rng(0)
    for name, variable in variables_by_name(model).items():
        if name.endswith("_b"):
            variable.assign(rng.normal(size=variable.shape) * 0.3)
    model.save(tmp_path)
    merged, written = aillm_tf.load(tmp_path).answer(texts), model.answer(texts)
    for one, other, old in zip(written, merged, before, strict=True):
        assert one["text"] == other["text"] != old["text"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


@pytest.mark.slow
def test_an_export_answers_as_the_adapters_do(trained, tmp_path):
    before = [v.numpy() for v in trained.weights]
    facts = trained.export(tmp_path / "1", check_texts=[*TEXTS, "", "酒店 😀"])
    assert facts["checked"] == 5 and facts["max_difference"] < 1e-5  # of a fresh process, to task.answer unmerged
    bytes_of_plain = sum(4 * v.numpy().size for n, v in variables_by_name(trained).items() if "/lora/" not in n)
    assert facts["weight_bytes"] == bytes_of_plain
    for variable, value in zip(trained.weights, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.slow
def test_the_adapter_of_a_minilm_is_below_two_megabytes(tokenizer, tmp_path):
    model = TextClassifier(preset("minilm", 30522), tokenizer, labels=["bad", "good"], dtype="float32")
    adapt(model, 8, 16.0, ["query", "value"])
    save_adapter(model, tmp_path / "adapter.safetensors")
    assert (tmp_path / "adapter.safetensors").stat().st_size < 2e6
