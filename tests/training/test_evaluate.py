"""Evaluation of runs, exports and checkpoints: rows are read as the run read its own, scores have intervals."""

import json
from pathlib import Path

import pytest

from aillm_tf.cli import main
from aillm_tf.metrics.bootstrap import mean_tally
from aillm_tf.training.evaluate import Evaluation, evaluate, load_checkpoint, reading_options
from aillm_tf.verbs import evaluate as verb

GOLDEN = Path(__file__).parents[1] / "golden"


class StandIn:
    """A task that takes the options of a dataset, and answers nothing."""

    max_length = 32

    def dataset(self, rows, *, text="text", label="label", layout="documents", stride=None, **batching): ...


def options_of(config, tmp_path, uri="test.tsv"):
    (tmp_path / "config.yaml").write_text(config)
    return reading_options(StandIn(), tmp_path / "config.yaml", uri)


def test_columns_are_those_of_the_run(tmp_path):
    config = "data:\n  train: a.tsv\n  text: review\n  label: null\n  pair: other\ntraining:\n  seed: 3\n"
    assert options_of(config, tmp_path) == {"text": "review", "seed": 3}


def test_a_language_model_is_scored_as_its_recipe_does(tmp_path):
    config = "data:\n  layout: {}\n  stride: {}\n"
    assert options_of(config.format("packed", "null"), tmp_path) == {"layout": "documents", "stride": 16}
    assert options_of(config.format("stream", 4), tmp_path) == {"layout": "stream", "stride": 4}


def test_a_saved_model_outside_a_run_is_read_by_the_defaults(tmp_path):
    assert reading_options(StandIn(), tmp_path / "config.yaml") == {}
    assert options_of("seed: 0\n", tmp_path) == {}


def test_an_option_that_reading_does_not_have_is_named():
    with pytest.raises(ValueError, match="StandIn does not read rows by 'lable': did you mean label?"):
        evaluate(StandIn(), "test.tsv", {"lable": "x"})


@pytest.fixture(scope="module")
def reviews_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reviews.tsv"
    texts = ["good film", "bad film", "a film", "the good", "the bad and the good", "what a film"] * 5
    lines = [f"{text}\t{('negative', 'neutral', 'positive')[i % 3]}" for i, text in enumerate(texts)]
    path.write_text("text\tlabel\n" + "\n".join(lines) + "\n")
    return path


def test_a_checkpoint_with_a_head_is_scored_and_compared(reviews_file, tmp_path, capsys):
    folder, file = str(GOLDEN / "bert_classifier"), tmp_path / "scores.json"
    command = ["evaluate", folder, "--data", str(reviews_file), "--resamples", "100", "--output", str(file)]
    assert main([*command, "--compare", folder, "--set", "max_length=16", "--references", "sst2"]) == 0
    shown = capsys.readouterr().out
    assert "McNemar p = 1.0000" in shown and "BERT-base (test): accuracy 0.935" in shown
    found = json.loads(file.read_text())
    scores = found["scores"]
    assert found["task"] == "TextClassifier" and scores["examples"] == 30
    assert scores["accuracy_low"] <= scores["accuracy"] <= scores["accuracy_high"]
    assert found["compared_with"]["differences"]["macro_f1"]["p_value"] == 1.0


def test_a_checkpoint_must_have_the_head(monkeypatch):
    with pytest.raises(ValueError, match="no head of a QuestionAnswering"):
        load_checkpoint(str(GOLDEN / "bert_classifier"), "QuestionAnswering")
    with pytest.raises(ValueError, match=r"has the labels \['negative', 'neutral', 'positive'\]"):
        load_checkpoint(str(GOLDEN / "bert_classifier"), labels=["no", "perhaps", "yes"])
    with pytest.raises(ValueError, match="did you mean MaskedLM"):
        load_checkpoint(str(GOLDEN / "bert_classifier"), "MaskdLM")


def compare(monkeypatch, capsys, *kinds_of_tokens, texts=True):
    """Compares two translators, each with a score of so many tokens and perhaps one of two texts."""

    def evaluated(tokens, *_):
        tallies = [mean_tally({"loss": [1.0, 2.0]}, [f"{count} tokens" for count in tokens])]
        tallies += [mean_tally({"bleu": [10.0, 30.0]}, ["a", "b"])] * texts
        return Evaluation("Translation", {"loss": 1.5, "bleu": 20.0}, tallies)

    monkeypatch.setattr(verb, "evaluated", lambda model, *_: evaluated(kinds_of_tokens[int(model)]))
    status = main(["evaluate", "0", "--compare", "1", "--data", "rows.tsv", "--resamples", "10"])
    return status, capsys.readouterr().out


def test_translators_of_two_tokenizers_compare_by_their_texts(monkeypatch, capsys):
    status, shown = compare(monkeypatch, capsys, (5, 6), (5, 7))
    assert status == 0 and "bleu  +0.0000" in shown
    assert "loss: not compared, compared are scores of the same examples: number 2 is '6 tokens'" in shown


def test_nothing_that_compares_is_refused(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        compare(monkeypatch, capsys, (5, 6), (5, 7), texts=False)
    assert "number 2 is '6 tokens' for one and '7 tokens' for the other" in capsys.readouterr().err
