"""The translation and summarization recipes from the command line to scores, answers and exports, on a few rows."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import aillm_tf
from aillm_tf.cli import main
from aillm_tf.training import text_to_text
from aillm_tf.training.options import Training

ENGLISH = ["the red house", "the old man", "a red dog", "the man", "an old house", "the dog"] * 4
GERMAN = ["das rote haus", "der alte mann", "ein roter hund", "der mann", "ein altes haus", "der hund"] * 4
TRAINING = ["--training.batch_size", "8", "--training.steps", "4", "--training.dtype", "float32"]
SCRATCH = ["--model.vocab_size", "300", "--model.max_length", "16", "--model.max_target_length", "12"]
BEAMS = ["--decoding.num_beams", "2", "--decoding.max_new_tokens", "6"]


def report(out: Path) -> dict:
    return json.loads((out / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Options that name train and test files of a translation."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, lines in (("en", ENGLISH), ("de", GERMAN)):
        (folder / f"train.{name}").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (folder / f"test.{name}").write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    files = {"train.source": "train.en", "train.target": "train.de", "test.source": "test.en", "test.target": "test.de"}
    return [word for key, name in files.items() for word in (f"--data.{key}", str(folder / name))]


@pytest.fixture(scope="module")
def articles(tmp_path_factory):
    """Options that name train and test files of a summarization; a source is a list of sentences."""
    folder = tmp_path_factory.mktemp("articles")
    rows = [
        {"source": [f"{first}.", f"{second}."], "target": [first]}
        for first, second in zip(ENGLISH, reversed(ENGLISH), strict=True)
    ]
    for name, some in (("train", rows), ("test", rows[:3])):
        text = "".join(json.dumps(row) + "\n" for row in some)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return ["--data.train", str(folder / "train.jsonl"), "--data.test", str(folder / "test.jsonl")]


@pytest.fixture(scope="module")
def translated(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("translation") / "run"
    main(["train", "translation", *pairs, *SCRATCH, "--model.preset", "t5-tiny", *TRAINING, *BEAMS, "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def summarized(articles, tmp_path_factory):
    out = tmp_path_factory.mktemp("summarization") / "run"
    options = [*articles, *SCRATCH, "--model.preset", "bart-tiny", *TRAINING, *BEAMS]
    main(["train", "summarization", *options, "--out", str(out)])
    return out


def test_a_translation_is_scored_by_sacrebleu_with_its_signatures(translated):
    found = report(translated)
    assert {"bleu", "chrf", "ter", "loss"} <= set(found["scores"])
    assert found["scored_on"] == "test"
    assert "tok:13a" in json.dumps(found)
    written = [json.loads(line) for line in (translated / "written.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["source"] for row in written] == ENGLISH[:3]


def test_a_summary_is_scored_beside_the_first_sentences(summarized):
    found = report(summarized)
    assert {"rouge1", "rouge2", "rougeL", "rougeLsum"} <= set(found["scores"])
    # the reference is the first sentence
    assert found["lead"]["sentences"] == 1 and found["lead"]["rougeL"] == pytest.approx(100.0)


@pytest.mark.parametrize("name", ["translated", "summarized"])
def test_the_model_writes_what_the_report_says(name, request):
    run = request.getfixturevalue(name)
    written = [json.loads(line) for line in (run / "written.jsonl").read_text(encoding="utf-8").splitlines()]
    model = aillm_tf.load(run / "model", dtype="float32")
    assert [answer["text"] for answer in model.answer([row["source"] for row in written])] == [
        row["written"] for row in written
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "recipe", "data", "kind"),
    [("translated", "translation", "pairs", "t5"), ("summarized", "summarization", "articles", "bart")],
)
def test_a_folder_in_hugging_face_layout_is_fine_tuned_and_exported(name, recipe, data, kind, request, tmp_path):
    folder, out = tmp_path / "hub", tmp_path / "run"
    assert main(["convert", str(request.getfixturevalue(name)), str(folder)]) == 0
    assert json.loads((folder / "config.json").read_text())["model_type"] == kind
    lengths = ["--model.max_length", "16", "--model.max_target_length", "12"]
    options = [*request.getfixturevalue(data), "--model.init", str(folder), *lengths, *TRAINING, *BEAMS]
    main(["train", recipe, *options, "--out", str(out)])
    assert report(out)["scores"]["loss"] < report(request.getfixturevalue(name))["scores"]["loss"]
    assert main(["export", str(out)]) == 0  # greedy and beams are compared in a fresh process


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.tokenizer", "runs/mistyped"], "runs/mistyped"),
        (["--model.tokenizer", "runs/one", "--model.joint", "false"], "model.tokenizer is one for both sides"),
    ],
)
def test_a_tokenizer_that_is_not_there_is_not_trained(options, message, pairs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["train", "translation", *pairs, *SCRATCH, *options, "--out", str(tmp_path / "run")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_validation_writes_as_the_final_score_does(pairs, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(text_to_text, "fit", lambda model, *_, **__: found.append(model.generation.num_beams))
    given = dict(zip(pairs[::2], pairs[1::2], strict=True))
    data = text_to_text.Data({side: given[f"--data.train.{side}"] for side in ("source", "target")})
    splits, training = text_to_text.read_splits(data, 0), Training(dtype="float32")
    run = SimpleNamespace(directory=tmp_path, model_folder=tmp_path / "model")
    model = text_to_text.build(
        aillm_tf.Translation, text_to_text.Model(preset="t5-tiny", vocab_size=300), training, splits.train, run
    )
    text_to_text.train(model, splits, data, training, text_to_text.Decoding(num_beams=3), run)
    assert found == [3]


@pytest.mark.slow
def test_a_decoder_is_fine_tuned_without_the_pairs_that_are_too_long(articles, tmp_path, caplog):
    folder, out = tmp_path / "gpt2", tmp_path / "run"
    tokenizer = aillm_tf.train_tokenizer([*ENGLISH, "TL;DR:"] * 2, "bpe", 300, use="decoder")
    config = aillm_tf.preset("gpt2-tiny", tokenizer.vocab_size)
    aillm_tf.CausalLM(config, tokenizer, dtype="float32").save_huggingface(folder)
    lengths = ["--model.max_length", "19", "--model.max_target_length", "5", "--data.longer", "drop"]
    options = [*articles, "--model.init", str(folder), *lengths, *TRAINING, *BEAMS[:2], "--out", str(out)]
    main(["train", "summarization", *options])
    assert "pairs dropped: longer than" in caplog.text
    found = report(out)
    assert found["task"] == "PromptedSummarization" and {"rouge1", "loss"} <= set(found["scores"])
