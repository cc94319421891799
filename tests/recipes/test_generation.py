"""The generation recipe from the command line to samples in its report, on a few lines."""

import json
import math

import pytest

import aillm_tf
from aillm_tf.cli import main

LINES = "one two three four five six seven\ntwo three four five six seven one\n" * 8
TRAINING = ["--training.batch_size", "4", "--training.steps", "6", "--training.learning_rate", "1e-3"]
TRAINING += ["--training.dtype", "float32", "--samples.max_new_tokens", "8", "--model.max_length", "16"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs "scratch", on characters of one stream, and "tuned", which goes on from it on packed lines."""
    folder = tmp_path_factory.mktemp("generation")
    corpus = folder / "corpus.txt"
    corpus.write_text(LINES, encoding="utf-8")
    command = ["train", "generation", "--data.train", str(corpus), *TRAINING]
    scratch = ["--data.layout", "stream", "--model.tokenizer_kind", "char", "--out", str(folder / "scratch")]
    main([*command, *scratch])
    tuned = ["--model.init", str(folder / "scratch" / "model"), "--samples.prompts", "[one two]"]
    main([*command, *tuned, "--out", str(folder / "tuned")])
    return folder


def report(run):
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["scratch", "tuned"])
def test_the_report_has_perplexity_and_bits_per_byte(runs, name):
    scores = report(runs / name)["scores"]
    assert set(scores) == {"loss", "perplexity", "accuracy", "bits_per_byte"}
    assert scores["perplexity"] == pytest.approx(math.exp(scores["loss"]), rel=1e-6)


def test_the_report_has_samples(runs):
    (row,) = report(runs / "tuned")["tables"]["Samples"]
    assert row["prompt"] == "one two"
    assert row["text"]


def test_the_tuned_model_keeps_the_tokenizer_it_came_with(runs):
    one, other = (aillm_tf.load(runs / name / "model") for name in ("scratch", "tuned"))
    assert one.tokenizer.fingerprint == other.tokenizer.fingerprint
    assert set("one two") <= set(one.tokenizer.vocabulary)


def test_the_model_reads_line_breaks_of_a_stream(runs):
    assert "\n" in aillm_tf.load(runs / "scratch" / "model").tokenizer.vocabulary
