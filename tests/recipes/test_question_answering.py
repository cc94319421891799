"""The question_answering recipe from the command line to scores, predictions and answers, on a few questions."""

import itertools
import json

import pytest

import aillm_tf
from aillm_tf.cli import main
from aillm_tf.data.squad import read_squad
from aillm_tf.metrics.squad import score_predictions

CONTEXTS = ["Rollo led the Norse to Normandy in 911.", "The war was long. The end was near, and the film is funny."]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with train.json, unlabelled test.json, and a run."""
    folder = tmp_path_factory.mktemp("question_answering")
    articles, unlabelled = [], []
    for a, (context, answer) in enumerate(itertools.product(CONTEXTS, ("the", "was", "Rollo", "funny"))):
        context = f"{context} {a}"
        answers = [{"text": answer, "answer_start": context.index(answer)}] if answer in context else []
        qa = {"question": f"where is {answer} ?", "answers": answers, "is_impossible": not answers}
        qas = [{**qa, "id": f"{a}-{i}"} for i in range(2)]
        articles.append({"title": f"t{a}", "paragraphs": [{"context": context, "qas": qas}]})
        bare = [{"id": one["id"], "question": one["question"], "answers": []} for one in qas]
        unlabelled.append({"title": f"t{a}", "paragraphs": [{"context": context, "qas": bare}]})
    (folder / "train.json").write_text(json.dumps({"data": articles}), "utf-8")
    (folder / "test.json").write_text(json.dumps({"data": unlabelled[:1]}), "utf-8")
    sections = {
        "data": {"train": folder / "train.json", "validation_share": 0.25, "test": folder / "test.json"},
        "model": {"preset": "tiny", "vocab_size": 80, "max_length": 24, "stride": 4, "max_question_length": 8},
        "training": {"epochs": 2, "batch_size": 8, "dtype": "float32", "fixed_length": "true"},
    }
    given = [[f"--{name}.{key}", str(value)] for name, values in sections.items() for key, value in values.items()]
    main(["train", "question_answering", *itertools.chain(*given), "--out", f"{folder}/run"])
    return folder / "run"


def test_the_predictions_file_has_the_reported_scores(run):
    report = json.loads((run / "report.json").read_text("utf-8"))
    assert (report["task"], report["scored_on"]) == ("QuestionAnswering", "validation")
    predictions, no_answer, n_best = (
        json.loads((run / f"{name}.json").read_text("utf-8"))
        for name in ("predictions", "no_answer", "nbest_predictions")
    )
    questions = read_squad(run.parent / "train.json")
    golds = {name: texts for name, texts in zip(questions.ids, questions.golds, strict=True) if name in predictions}
    assert 2 <= len(predictions) == len(no_answer) == len(n_best) == report["scores"]["examples"] < 16
    scores = score_predictions(predictions, golds)
    assert {name: scores[name] for name in ("exact", "f1")} == pytest.approx(
        {name: report["scores"][name] for name in ("exact", "f1")}
    )
    listed = "Surest wrong answers" in (run / "report.html").read_text("utf-8")
    assert listed == (scores["exact"] < 100)


def test_unlabelled_test_questions_are_answered(run):
    assert set(json.loads((run / "predictions_test.json").read_text("utf-8"))) == {"0-0", "0-1"}


def test_the_model_is_evaluated_and_asked_from_the_command_line(run, capsys):
    model = aillm_tf.load(run / "model")
    assert model.unanswerable and model.max_question_length == 8
    assert main(["predict", str(run), f"where is Rollo ?\t{CONTEXTS[0]}"]) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(answer) == {"text", "answer", "score", "start", "end", "no_answer"}
    assert main(["evaluate", str(run), "--data", f"{run.parent}/train.json", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]["examples"] == 16
