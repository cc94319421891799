"""The pretraining recipe: its configs, and a run on a prepared folder."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import aillm_tf
from aillm_tf.cli import load_recipe
from aillm_tf.config import parse
from aillm_tf.data.prepare import prepare
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.text.tokenizer import Tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"
CONFIGS = sorted((RECIPES / "configs").glob("pretrain-*.yaml"))


@pytest.fixture
def pretrain():
    """The recipe's module; loaded anew, for type hints are looked up in the one that was loaded last."""
    return load_recipe(str(RECIPES / "pretrain.py"))


@pytest.fixture
def run(read, pretrain, tmp_path):
    """`run(config, data, **options)`: the report of a small run in the test's folder; `model__size` is model.size."""

    def made(config, data, **options):
        options = {"data__train": data, "out": tmp_path / "run", "training__batch_size": 4, **options}
        more = [word for key, value in options.items() for word in (f"--{key.replace('__', '.')}", str(value))]
        return pretrain.main(read(RECIPES / "configs" / f"{config}.yaml", *more))

    return made


@pytest.fixture
def corpus(reviews, tmp_path):
    """A text file of lines of three sentences each."""
    lines = [" . ".join(text for text, _ in reviews[i : i + 3]) + " ." for i in range(37)]
    (tmp_path / "a.txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "a.txt"


@pytest.fixture
def read(pretrain):
    """`read(path, *more)`: the config of a file."""
    return lambda path, *more: parse(pretrain.Config, ["--config", str(path), "--data.train", "corpus.txt", *more])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_has_a_shape_with_room_for_its_rows(path, read):
    model = read(path).model
    shape = aillm_tf.preset(model.preset, model.vocab_size)
    assert shape.position != "learned" or shape.max_length >= model.max_length


@pytest.mark.parametrize("path", [path for path in CONFIGS if path.stem.endswith("-tiny")], ids=lambda path: path.stem)
def test_every_tiny_config_makes_its_task(path, pretrain, read, reviews, tmp_path):
    config = read(path, "--model.vocab_size", "400")
    texts = [text for text, _ in reviews]
    task = pretrain.build(config.model, config.training, texts, None, SimpleNamespace(directory=tmp_path))
    assert type(task).__name__ == pretrain.OBJECTIVES[config.model.objective].task


@pytest.mark.slow
def test_a_prepared_folder_is_pretrained_on(run, corpus, tmp_path):
    rules = {"documents": "line", "quality": "none", "min_words": 1, "similarity": 0, "validation": 6}
    options = PrepareOptions((str(corpus),), **rules, kind="bpe", use="decoder", vocab_size=384, length=32)
    manifest = prepare(tmp_path / "corpus", options, progress=False)
    training = {"training__steps": 30, "training__warmup": 3, "training__validation_every": 15}
    report = run("pretrain-gpt2-tiny", tmp_path / "corpus", model__max_length=32, **training)
    assert report["data"]["tokens"] == manifest["splits"]["train"]["tokens"]
    assert report["scores"]["loss"] < 0.9 * np.log(384)
    model = aillm_tf.load(tmp_path / "run" / "model", dtype="float32")
    assert model.tokenizer.fingerprint == Tokenizer.from_folder(tmp_path / "corpus" / "tokenizer").fingerprint


@pytest.mark.slow
def test_several_objectives_are_pretrained_at_once(run, corpus, tmp_path):
    training = {"training__steps": 12, "training__warmup": 0, "training__validation_every": 12}
    report = run("pretrain-multitask-tiny", corpus, data__validation_rows=6, model__vocab_size=384, **training)
    assert {"masks_loss", "gaps_loss", "order_loss"} < set(report["scores"])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["mfu"] > 0 for row in rows if "mfu" in row)
    assert any("mfu" in row for row in rows)
