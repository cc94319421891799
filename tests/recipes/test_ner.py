"""The ner recipe from the command line to scores, a report and answers, on a few sentences."""

import itertools
import json

import pytest

import aillm_tf
from aillm_tf.cli import main

SENTENCES = [
    "Anna B-PER\nlives O\nin O\nNew B-LOC\nYork I-LOC\n. O\n",
    "Rome B-LOC\nis O\nold O\n",
    "Bob B-PER\n's O\nin O\nRome B-LOC\n",
    "nobody O\nis O\nhere O\n",
]


def train(out, **data):
    model = {"preset": "tiny", "vocab_size": 80, "max_length": 16, "crf": "true"}
    training = {"epochs": 2, "batch_size": 8, "dtype": "float32", "fixed_length": "true"}
    sections = {"data": data, "model": model, "training": training}
    given = [[f"--{name}.{key}", str(value)] for name, values in sections.items() for key, value in values.items()]
    main(["train", "ner", *itertools.chain(*given), "--out", str(out)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with train.conll, dev.conll, and a run."""
    folder = tmp_path_factory.mktemp("ner")
    for name, count in (("train", 6), ("dev", 1)):
        (folder / f"{name}.conll").write_text("\n".join(SENTENCES * count), encoding="utf-8")
    train(folder / "run", train=f"{folder}/train.conll", validation=f"{folder}/dev.conll", test_rows=4, balance="true")
    return folder / "run"


def test_the_report_has_scores_by_type_and_the_worst_sentences(run):
    report = json.loads((run / "report.json").read_text())
    assert (report["task"], report["scored_on"], report["scores"]["examples"]) == ("TokenClassifier", "test", 4)
    assert report["data"] == {"train": 20, "validation": 4, "test": 4}
    assert {row["type"] for row in report["tables"]["Entities by type"]} <= {"LOC", "PER"}
    page = (run / "report.html").read_text()
    assert "Worst sentences" in page and '<div class="marked">' in page


def test_the_model_answers_with_the_options_of_the_recipe(run, capsys):
    model = aillm_tf.load(run / "model")
    assert (model.has_crf, model.labels) == (True, ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])
    assert main(["predict", str(run), "Anna is in Rome ."]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(answer) == {"text", "entities"}
    assert main(["evaluate", str(run), "--data", f"{run.parent}/dev.conll", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]["examples"] == 4


def test_a_test_file_that_cannot_be_scored_stops_the_run_before_the_training(run, tmp_path, capsys):
    (tmp_path / "test.conll").write_text("EU B-ORG\n")
    with pytest.raises(SystemExit):
        train(tmp_path / "run", train=run.parent / "train.conll", test=tmp_path / "test.conll")
    assert "entities of type 'ORG'; the model knows LOC, PER" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_types_that_only_the_scored_file_has_are_missed(run, tmp_path, capsys):
    (tmp_path / "test.conll").write_text("EU B-ORG\n\n" + "\n".join(SENTENCES))
    assert main(["evaluate", str(run), "--data", str(tmp_path / "test.conll"), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    assert scores["examples"] == 5 and scores["recall"] < 1
