"""The dialogue and DPO recipes: what a conversation's answers cost before and after, and answers learned by heart."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import aillm_tf
from aillm_tf.cli import main
from aillm_tf.weights.known import CHATTERBOT
from aillm_tf.weights.resolve import resolve

ROOT = Path(__file__).parents[2]
SGD = ROOT.parent / "shared" / "data" / "sgd"
FILES = ("ai.yml", "food.yml", "gossip.yml", "money.yml")

pytestmark = pytest.mark.slow


def train(name: str, *options: str, recipe: str = "dialogue") -> dict:
    """The scores of a run."""
    out = options[options.index("--out") + 1]
    config = [] if name == "" else ["--config", str(ROOT / "recipes" / "configs" / f"dialogue-{name}.yaml")]
    main(["train", recipe, *config, *options, "--training.dtype", "float32"])
    return json.loads((Path(out) / "report.json").read_text(encoding="utf-8"))["scores"]


def check(scores: dict) -> None:
    assert scores["perplexity"] < scores["untrained_perplexity"] / 2
    assert scores["perplexity"] < scores["unigram_perplexity"]


@pytest.mark.skipif(not SGD.exists(), reason="the Schema-Guided Dialogue data does not lie beside the repository")
def test_answers_of_schema_guided_dialogue_get_likelier_than_by_frequency(tmp_path):
    data = ["--data.train", str(SGD / "train" / "dialogues_001.json"), "--data.test", str(SGD / "test")]
    few = [
        "--training.steps",
        "60",
        "--training.restore_best",
        "false",
        "--answers.rows",
        "4",
        "--answers.questions",
        "0",
    ]
    scores = train(
        "sgd", *data, *few, "--model.max_length", "192", "--model.max_target_length", "32", "--out", str(tmp_path)
    )
    check(scores)
    assert {"bleu", "distinct1", "distinct2"} <= set(scores)


@pytest.mark.parametrize("language", ["english", "chinese"])
def test_conversations_of_chatterbot_are_learned_by_heart(language, tmp_path):
    try:
        folder = Path(resolve(CHATTERBOT.format(language=language)))
    except RuntimeError as error:
        pytest.skip(f"chatterbot-corpus cannot be downloaded: {error}")
    (tmp_path / "data").mkdir()
    for name in FILES:
        if (folder / name).exists():
            shutil.copy(folder / name, tmp_path / "data" / name)
    size = ["--model.max_length", "128", "--model.max_target_length", "64", "--model.vocab_size", "1000"]
    size += ["--training.batch_size", "4", "--training.epochs", "90", "--training.learning_rate", "5e-3"]
    scores = train(
        "chatterbot", "--data.train", str(tmp_path / "data"), *size, "--answers.rows", "8", "--out", str(tmp_path)
    )
    check(scores)
    assert scores["questions"] == 20
    assert scores["questions_right"] >= 18


def test_an_encoder_decoder_is_trained_by_the_same_recipe(tmp_path):
    chats = tmp_path / "chats.jsonl"
    rows = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(("hi", "yes", "no", "so"))]
    chats.write_text(f"{json.dumps({'messages': rows})}\n" * 8, encoding="utf-8")
    size = ["--model.max_length", "32", "--model.max_target_length", "8", "--model.preset", "t5-tiny"]
    size += ["--model.vocab_size", "300", "--training.steps", "4", "--data.deduplicate", "true"]
    scores = train("", "--data.train", str(chats), "--out", str(tmp_path / "run"), *size)
    assert {"perplexity", "unigram_perplexity", "bleu", "questions_right"} <= set(scores)
    assert type(aillm_tf.load(tmp_path / "run" / "model")).__name__ == "DialogueResponses"
    written = [
        json.loads(line) for line in (tmp_path / "run" / "written.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert [row["reference"] for row in written] == ["yes", "so"]


def test_preferences_are_learned_on_top_of_a_run_which_is_the_reference(tmp_path):
    chats, pairs = tmp_path / "chats.jsonl", tmp_path / "pairs.jsonl"
    words = ["yes", "no", "maybe", "never"]
    rows = [
        {"messages": [{"role": "user", "content": f"number {i}?"}, {"role": "assistant", "content": word}]}
        for i in range(8)
        for word in words
    ]
    chats.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    asked = [{"prompt": f"number {i}?", "chosen": "yes", "rejected": "no"} for i in range(8)]
    pairs.write_text("".join(f"{json.dumps(row)}\n" for row in asked), encoding="utf-8")
    size = ["--model.max_length", "32", "--model.max_target_length", "8", "--model.preset", "gpt2-tiny"]
    size += ["--model.vocab_size", "300", "--training.steps", "40", "--training.learning_rate", "3e-3"]
    first = ["--data.train", str(chats), "--out", str(tmp_path / "chats"), "--data.validation_rows", "4"]
    scores = train("", *first, *size, "--training.validation_every", "20")
    assert scores["questions"] == 8
    pairs = ["--data.train", str(pairs), "--data.validation", str(pairs), "--training.steps", "20"]
    start = [
        "--model.init",
        str(tmp_path / "chats" / "model"),
        "--training.learning_rate",
        "1e-3",
        "--model.beta",
        "0.2",
    ]
    command = [*pairs, *start, "--out", str(tmp_path / "dpo")]
    scores = train("", *command, recipe="dpo")
    assert scores["accuracy"] == 1.0 and scores["margin"] > 0.1 and scores["loss"] < np.log(2)
    before = np.load(tmp_path / "dpo" / "references.npz")["train"]
    assert train("", *command, recipe="dpo") == pytest.approx(scores)  # nothing is left to train, references are kept
    np.testing.assert_array_equal(np.load(tmp_path / "dpo" / "references.npz")["train"], before)
    tuned = aillm_tf.load(tmp_path / "dpo" / "model")
    assert tuned.answer(["number 3?"])[0]["text"] == "yes"
    assert (tuned.max_length, tuned.beta) == (32, 0.2)
