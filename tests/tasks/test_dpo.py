"""PreferenceTuning: the loss is that of the paper, the reference is the model before training."""

import math

import numpy as np
import pytest
from chats import chat, count, dialogue

import aillm_tf
from aillm_tf.tasks.dpo import PreferenceTuning
from aillm_tf.training.optimizer import adamw

PAIRS = [
    {"prompt": "one", "chosen": "eins", "rejected": "zwei"},
    {"messages": [*count("six"), {"role": "user", "content": "two"}], "chosen": "zwei zwei", "rejected": "drei"},
    {"prompt": "three four", "chosen": "drei vier", "rejected": "fünf"},
]


@pytest.fixture(scope="module")
def model():
    return dialogue(PreferenceTuning, beta=0.1, initializer_range=0.3)


@pytest.fixture(scope="module")
def data(model):
    return model.dataset(PAIRS, batch_size=3, fixed_length=True)


def test_the_loss_is_that_of_the_paper(model, data, monkeypatch):
    """Rafailov et al. 2023, equation 7, by hand: margins 0.1 (0.5 + 0.5) and 0.1 (-1 - 1); the last row is filling."""
    batch = {"references": np.array([[-2.5, -2.5], [-3.0, -2.0], [0.0, 0.0]], "float32")}
    batch["weight"] = np.array([1.0, 1.0, 0.0], "float32")
    monkeypatch.setattr(model, "log_probabilities", lambda *_: np.array([[-2.0, -3.0], [-4.0, -1.0], [0.0, 0.0]]))
    loss, weight = model.loss_terms(batch)
    assert float(loss) == pytest.approx(
        -math.log(1 / (1 + math.exp(-0.1))) - math.log(1 / (1 + math.exp(0.2))), rel=1e-6
    )
    assert float(weight) == 2.0


def test_log_probabilities_are_those_of_the_last_answers(model, data):
    expected = []
    for pair in PAIRS:
        messages = pair.get("messages") or chat(pair["prompt"])
        for name in ("chosen", "rejected"):
            ids = model.tokenizer.chat([*messages, {"role": "assistant", "content": pair[name]}]).ids
            start = len(model.prompt_ids(messages))
            logits = np.asarray(model.logits({"token_ids": ids[None]}), np.float64)[0]
            log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            expected.append(log_p[np.arange(start - 1, len(ids) - 1), ids[start:]].sum())
    batch = next(iter(data.batches()))
    np.testing.assert_allclose(np.ravel(model.log_probabilities(batch)), expected, rtol=1e-5)


def test_the_references_are_of_the_model_before_training(model, data):
    batch = next(iter(data.batches()))
    np.testing.assert_allclose(batch["references"], model.log_probabilities(batch), rtol=1e-5)
    scores = model.evaluate(data, verbose=0)
    assert scores["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert scores["margin"] == pytest.approx(0, abs=1e-4)


def test_references_that_are_known_are_not_computed_again(model):
    given = np.arange(6, dtype="float32").reshape(3, 2)
    np.testing.assert_array_equal(model.dataset(PAIRS, references=given).columns["references"], given)


def test_references_after_training_are_refused(model, monkeypatch):
    monkeypatch.setattr(model, "step", 1)
    with pytest.raises(RuntimeError, match="the reference is the model before training"):
        model.dataset(PAIRS)


def test_a_pair_that_is_too_long_is_named_or_skipped(model):
    rows = [*PAIRS, {"prompt": "one", "chosen": "eins " * 50, "rejected": "zwei"}]
    with pytest.raises(ValueError, match="pair 4: .* tokens are more than max_length 48"):
        model.dataset(rows)
    assert len(model.dataset(rows, on_bad="skip", references=np.zeros((3, 2)))) == 3
    with pytest.raises(ValueError, match="no pair fits: pair 1"):
        model.dataset(rows[-1:], on_bad="skip")


def test_references_of_other_pairs_are_refused(model):
    with pytest.raises(ValueError, match=r"references are \(2, 2\), not \(3, 2\)"):
        model.dataset(PAIRS, references=np.zeros((2, 2)))


def test_there_is_no_dropout():
    model = dialogue(PreferenceTuning, dropout=0.5)
    batch = next(iter(model.dataset(PAIRS, batch_size=3, fixed_length=True).batches()))
    assert float(model.loss_terms(batch, seed=np.array([1, 2], "int32"))[0]) == pytest.approx(3 * math.log(2), rel=1e-6)


def test_it_begins_with_the_lengths_of_the_model_that_it_begins_with(tmp_path):
    start = dialogue(max_length=40, max_target_length=6)
    start.save(tmp_path)
    model = PreferenceTuning.from_pretrained(tmp_path, dtype="float32")
    assert model.options() == start.options() | {"beta": 0.1}


def test_it_is_saved_with_its_beta(model, tmp_path):
    model.save(tmp_path)
    assert aillm_tf.load(tmp_path).options() == model.options() | {"beta": 0.1}


def test_a_tuned_model_that_is_its_own_reference_is_told(model, tmp_path, caplog):
    model.save(tmp_path)
    aillm_tf.load(tmp_path).dataset(PAIRS)
    assert "was tuned on preferences already and is now its own reference" in caplog.text


@pytest.mark.slow
def test_it_learns_what_is_preferred():
    """The margin grows, and answers change from one to the other."""
    start = dialogue(initializer_range=0.3)
    taught = [chat("one", answer) for answer in ("eins", "zwei", "zwei")]
    start.compile(adamw(1e-2, steps=40, schedule="constant", warmup=0))
    start.fit(start.dataset(taught, batch_size=3, fixed_length=True), steps=40, verbose=0)
    assert start.answer(["one"])[0]["text"] == "zwei"
    model = dialogue(PreferenceTuning, beta=0.1)
    model.set_weights(start.get_weights())
    data = model.dataset(PAIRS[:1], batch_size=1, fixed_length=True)
    model.compile(adamw(3e-3, steps=30, schedule="constant", warmup=0))
    model.fit(data, steps=30, verbose=0)
    scores = model.evaluate(data, verbose=0)
    assert scores["accuracy"] == 1.0 and scores["margin"] > 0.3 and scores["loss"] < 0.6
    assert model.answer(["one"])[0]["text"] == "eins"
