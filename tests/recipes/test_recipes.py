"""The recipes from the command line to scores, on a few rows; and their --help, which must not wait for TensorFlow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import aillm_tf
from aillm_tf.cli import main
from aillm_tf.training.metrics_log import read_rows

ROOT = Path(__file__).parents[2]
TRAINING = ["--training.batch_size", "8", "--training.dtype", "float32", "--training.fixed_length", "true"]


@pytest.mark.parametrize("recipe", sorted(path.stem for path in (ROOT / "recipes").glob("[a-z]*.py")))
def test_help_does_not_import_tensorflow(recipe):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{recipe}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path('recipes/{recipe}.py', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    print(stop.code, [m for m in ('tensorflow', 'keras', 'sklearn') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert "--out" in done.stdout


@pytest.fixture(scope="module")
def runs(reviews, tmp_path_factory):
    """A folder with train.tsv, dev.tsv, and two runs: `pretrained`, and `run`, fine-tuned from it."""
    folder = tmp_path_factory.mktemp("recipes")
    for name, lines in (("train", reviews), ("dev", reviews[:12])):
        content = "text\tlabel\n" + "".join(f"{text}\t{('bad', 'good')[label]}\n" for text, label in lines)
        (folder / f"{name}.tsv").write_text(content, encoding="utf-8")
    shape = ["--model.preset", "tiny", "--model.vocab_size", "150", "--model.max_length", "16"]
    pretrain = ["--data.train", f"{folder}/train.tsv", "--data.validation", f"{folder}/dev.tsv", *shape]
    main(["train", "pretrain", *pretrain, "--training.steps", "4", *TRAINING, "--out", f"{folder}/pretrained"])
    data = ["--data.train", f"{folder}/train.tsv", "--data.validation", f"{folder}/dev.tsv"]
    model = ["--model.init", f"{folder}/pretrained/model", "--model.max_length", "16", "--training.epochs", "2"]
    main(["train", "classification", *data, *model, *TRAINING, "--out", f"{folder}/run"])
    return folder


def report(run):
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def test_pretraining_reports_its_loss_beside_the_unigram_loss(runs):
    found = report(runs / "pretrained")
    assert (found["task"], found["seed"], found["steps"]) == ("MaskedLM", 0, 4)
    assert set(found["scores"]) == {"loss", "accuracy", "perplexity", "unigram_loss"}
    assert 2.0 < found["scores"]["unigram_loss"] < np.log(150)


def test_a_classifier_starts_from_the_pretrained_model(runs):
    pretrained, run = (aillm_tf.load(runs / name / "model", dtype="float32") for name in ("pretrained", "run"))
    assert run.tokenizer.fingerprint == pretrained.tokenizer.fingerprint
    before, after = (model.backbone.embeddings.token.numpy() for model in (pretrained, run))
    assert 0 < np.abs(before - after).max() < 0.01  # ten steps at 5e-5 from where pretraining ended


def test_a_run_directory_holds_everything(runs):
    names = {path.name for path in (runs / "run").iterdir()}
    assert names >= {
        "config.yaml",
        "metrics.jsonl",
        "tensorboard",
        "checkpoints",
        "model",
        "report.json",
        "report.html",
    }
    rows = read_rows(runs / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "epoch" not in row] == list(range(1, 11))
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2]
    assert all("val_accuracy" in row for row in rows if "epoch" in row)


def test_the_report_says_what_happened(runs):
    found = report(runs / "run")
    assert (found["task"], found["seed"], found["steps"], found["labels"]) == ("TextClassifier", 0, 10, ["bad", "good"])
    assert found["scores"]["examples"] == 12
    assert np.sum(found["confusion"]) == 12
    assert 0 < found["padding_fraction"] < 1
    assert found["data"]["train"] == 40


def test_evaluate_agrees_with_the_report(runs, capsys):
    command = ["evaluate", str(runs / "run"), "--data", f"{runs}/dev.tsv", "--json"]
    assert main(command) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
    expected = report(runs / "run")["scores"]
    assert scores["accuracy"] == expected["accuracy"]
    assert scores["loss"] == pytest.approx(expected["loss"], abs=1e-5)


def test_predict_answers_as_the_model_does(runs, capsys):
    texts = ["a warm film", "dull"]
    assert main(["predict", str(runs / "run"), *texts]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = aillm_tf.load(runs / "run" / "model").answer(texts)
    assert [answer.pop("text") for answer in answers] == texts
    for answer, other in zip(answers, expected, strict=True):
        assert answer["label"] == other["label"]
        assert answer["score"] == pytest.approx(other["score"], abs=1e-6)


def test_the_same_command_again_only_scores(runs):
    before = (runs / "run" / "metrics.jsonl").read_bytes()
    config = ["--config", str(runs / "run" / "config.yaml")]
    main(["train", "classification", *config])
    assert (runs / "run" / "metrics.jsonl").read_bytes() == before


def test_another_config_in_the_same_directory_names_the_key(runs, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "classification", "--config", str(runs / "run" / "config.yaml"), "--training.seed", "7"])
    assert stop.value.code == 2
    assert "training.seed (0 -> 7)" in capsys.readouterr().err


def test_an_unknown_option_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "classification", "--data.train", "x.tsv", "--training.epoch", "2"])
    assert stop.value.code == 2
    assert "training.epochs" in capsys.readouterr().err
