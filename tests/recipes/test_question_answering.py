"""The question_answering recipe from the command line to scores, predictions and answers, on a few questions."""

import itertools
import json

import pytest

import aillm_tf
from aillm_tf.cli import load_recipe, main
from aillm_tf.data.squad import read_squad
from aillm_tf.metrics.squad import score_predictions
from aillm_tf.training.options import Training

CONTEXTS = ["Rollo led the Norse to Normandy in 911.", "The war was long. The end was near, and the film is funny."]


MODEL = {"preset": "tiny", "vocab_size": 80, "max_length": 24, "stride": 4, "max_question_length": 8}
TRAINING = {"epochs": 2, "batch_size": 8, "dtype": "float32", "fixed_length": "true"}


def train(out, **data):
    sections = {"data": data, "model": MODEL, "training": TRAINING}
    given = [[f"--{name}.{key}", str(value)] for name, values in sections.items() for key, value in values.items()]
    main(["train", "question_answering", *itertools.chain(*given), "--out", str(out)])


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
    train(folder / "run", train=folder / "train.json", validation_share=0.25, test=folder / "test.json")
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


def test_a_test_file_that_cannot_be_scored_stops_the_run_before_the_training(run, tmp_path, capsys):
    content = json.loads((run.parent / "train.json").read_text("utf-8"))
    for article in content["data"]:
        qas = article["paragraphs"][0]["qas"]
        article["paragraphs"][0]["qas"] = [qa for qa in qas if qa["answers"]]
    (tmp_path / "answerable.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(SystemExit):
        train(tmp_path / "run", train=tmp_path / "answerable.json", test=run.parent / "train.json")
    assert "some of these questions have no answer" in capsys.readouterr().err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(("context", "scoring"), [("罗洛公爵率领诺曼人，罗洛。", "cmrc"), ("Rollo, 罗洛", "squad")])
def test_answers_are_scored_as_the_contexts_are_written(context, scoring, tmp_path):
    recipe = load_recipe("question_answering")
    qa = {"id": "1", "question": "谁", "answers": [{"text": "罗洛", "answer_start": context.index("罗洛")}]}
    content = {"data": [{"paragraphs": [{"context": context, "qas": [qa]}]}]}
    (tmp_path / "q.json").write_text(json.dumps(content), "utf-8")
    model = recipe.build(recipe.Model(**MODEL), Training(), read_squad(tmp_path / "q.json"))
    assert model.scoring == scoring


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
