"""The recipes from the command line to scores, on a few rows; and their --help, which must not wait for TensorFlow."""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import aillm_tf
from aillm_tf.cli import load_recipe, main
from aillm_tf.data.prepare import prepare
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.data.shards import open_shards
from aillm_tf.tasks.base import Task
from aillm_tf.training import text_to_text
from aillm_tf.training.metrics_log import read_rows
from aillm_tf.training.options import Training

ROOT = Path(__file__).parents[2]
RECIPES = ("classification", "dialogue", "generation", "ner", "pretrain", "question_answering")
classification, dialogue, generation, ner, pretrain, question_answering = (
    load_recipe(str(ROOT / "recipes" / f"{name}.py")) for name in RECIPES
)
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


def test_a_stream_keeps_its_order_and_holds_out_its_end(tmp_path):
    lines = [f"line {number}" for number in range(50)]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    data = {"train": str(tmp_path / "a.txt"), "deduplicate": False, "validation_rows": 5}
    train, held_out, _ = pretrain.read_texts(pretrain.Data(**data, layout="stream"), seed=0)
    assert (train, held_out) == (lines[:45], lines[45:])
    train, held_out, _ = pretrain.read_texts(pretrain.Data(**data), seed=0)
    assert sorted([*train, *held_out]) == sorted(lines) and held_out != lines[45:]


@pytest.fixture(scope="module")
def shards(reviews, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    (folder / "a.txt").write_text("\n".join(text for text, _ in reviews), encoding="utf-8")
    rules = {"documents": "line", "quality": "none", "min_words": 1, "similarity": 0}
    options = PrepareOptions((str(folder / "a.txt"),), **rules, vocab_size=128, length=16, validation=8)
    prepare(folder / "corpus", options, progress=False)
    return folder / "corpus"


@pytest.mark.parametrize("split", ["", ":train"])
def test_what_a_prepared_folder_holds_out_is_found_beside_any_split(split, shards):
    for held_out in (
        pretrain.read_corpus(pretrain.Data(f"{shards}{split}"), 0)[1],
        generation.read(generation.Data(f"{shards}{split}"))[1],
    ):
        assert open_shards(held_out).split["documents"] == 8


def test_options_that_a_prepared_folder_does_not_use_are_named(shards, caplog):
    pretrain.read_corpus(pretrain.Data(str(shards), text="body", deduplicate=False), 0)
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "data.text is not used",
        "data.deduplicate is not used",
    ]


def test_another_tokenizer_than_that_of_a_prepared_folder_is_refused(shards, runs):
    command = ["train", "pretrain", "--data.train", str(shards), "--model.preset", "tiny", "--model.max_length", "16"]
    with pytest.raises(SystemExit):
        main([*command, "--model.tokenizer", f"{runs}/pretrained/tokenizer", "--out", f"{runs}/other"])
    assert not (runs / "other" / "model").exists()


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


@pytest.mark.parametrize(("task", "told"), [("MaskedLM", True), ("ReplacedToken", False)])
def test_guessing_tokens_is_compared_with_losses_of_tokens_only(task, told, runs, reviews):
    model = getattr(aillm_tf, task).from_pretrained(str(runs / "pretrained" / "model"), max_length=16)
    data = model.dataset([text for text, _ in reviews], batch_size=4)
    assert (pretrain.unigram_loss(model, data, data) is not None) == told


BUILDERS = {
    "classification": (classification, [[]]),
    "ner": (ner, [types.SimpleNamespace(labels=["O"])]),
    "question_answering": (question_answering, [types.SimpleNamespace(contexts=["a"], has_unanswerable=False)]),
    "pretrain": (pretrain, [None, None, None]),
    "generation": (generation, [None, None, None]),
    "dialogue": (dialogue, [None, None]),
    "translation": (text_to_text, [None, None]),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_options_of_a_new_model_are_named_where_there_is_a_pretrained_one(name, runs, monkeypatch, caplog):
    recipe, given = BUILDERS[name]
    there = str(runs / "pretrained" / "model")
    monkeypatch.setattr(Task, "from_pretrained", lambda source, **options: source)
    task = [aillm_tf.Translation] if name == "translation" else []
    model = recipe.Model(init=there, tokenizer="elsewhere", vocab_size=100)
    assert recipe.build(*task, model, Training(), *given) == there
    named = {record.message.split(":")[0] for record in caplog.records}
    assert named == {"model.tokenizer is not used", "model.vocab_size is not used"}


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
