"""SequenceToSequence: which tokens are learned, against numpy and transformers' numbers; vocabularies and files."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import aillm_tf
from aillm_tf.data.parallel import Parallel
from aillm_tf.data.tables import Places
from aillm_tf.tasks.sequence_to_sequence import SequenceToSequence

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def model(make_toy):
    return make_toy(SequenceToSequence, label_smoothing=0.1)


@pytest.fixture(scope="module")
def batch(model, toy_pairs):
    return next(iter(model.dataset(toy_pairs(6), batch_size=8, fixed_length=True).batches()))


def cross_entropy(logits, targets, smoothing=0.0):
    """(rows, places) float64 from (rows, places, vocabulary)."""
    logits = np.asarray(logits, np.float64)
    log_p = (
        logits
        - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    at_target = np.take_along_axis(log_p, np.asarray(targets)[..., None].astype(int), -1)[..., 0]
    return -(1 - smoothing) * at_target - smoothing * log_p.mean(-1)


def test_the_decoder_is_given_the_target_one_token_late(model, batch):
    end = model.target_tokenizer.eos_id
    for given, targets, weights in zip(
        *(batch[n].numpy() for n in ("target_ids", "targets", "target_weights")), strict=True
    ):
        count = int(weights.sum())
        if count:
            assert given[0] == model.start_id
            np.testing.assert_array_equal(given[1:count], targets[: count - 1])
            assert targets[count - 1] == end


def test_the_loss_is_label_smoothed_cross_entropy_at_the_targets(model, batch):
    losses = cross_entropy(model.logits(batch), batch["targets"], 0.1)
    loss, weight = model.loss_terms(batch)
    assert float(weight) == batch["target_weights"].numpy().sum()
    assert float(loss) == pytest.approx((losses * batch["target_weights"].numpy()).sum(), rel=1e-5)


def test_scores_are_without_label_smoothing(model, batch, toy_pairs):
    losses, weights = cross_entropy(model.logits(batch), batch["targets"]), batch["target_weights"].numpy()
    hits = np.asarray(model.logits(batch)).argmax(-1) == batch["targets"].numpy()
    scores = model.evaluate(model.dataset(toy_pairs(6), batch_size=8, fixed_length=True), verbose=0)
    assert scores["loss"] == pytest.approx((losses * weights).sum() / weights.sum(), rel=1e-5)
    assert scores["perplexity"] == pytest.approx(np.exp(scores["loss"]))
    assert scores["accuracy"] == pytest.approx((hits * weights).sum() / weights.sum())


def test_scores_do_not_depend_on_the_batches(model, toy_pairs):
    one, other = (
        model.evaluate(model.dataset(toy_pairs(20), **size), verbose=0)
        for size in ({"batch_size": 24, "fixed_length": True}, {"batch_size": 24})
    )
    assert one == pytest.approx(other, rel=1e-5)


def test_a_source_with_several_references_is_as_many_rows(model):
    rows = Parallel(["one"], [["eins", "zwei drei"]], Places(["t:"], np.zeros(1, int), np.zeros(1, int)), [])
    data = model.dataset(rows, batch_size=2)
    assert len(data) == 2
    np.testing.assert_array_equal(*np.split(data.columns["token_ids"].values, 2))


def test_what_is_too_long_is_cut_or_dropped_and_counted(caplog, make_toy, toy_pairs):
    model, rows = make_toy(SequenceToSequence, max_target_length=4), toy_pairs(20)
    cut = model.dataset(rows, batch_size=4)
    assert len(cut) == 20
    assert cut.lengths[:, 1].max() == 4
    kept = model.dataset(rows, batch_size=4, longer="drop")
    lengths = np.diff(model.target_tokenizer.encode([texts[0] for texts in rows.references]).offsets)
    assert len(kept) == (lengths <= 4).sum()
    assert f"{20 - len(kept)} of 20 pairs dropped" in caplog.text


def test_the_prefix_stands_before_sources(model, make_toy):
    prefixed = make_toy(SequenceToSequence, prefix="six ")
    plain = model.dataset(
        Parallel(["six one"], [["eins"]], Places(["t:"], np.zeros(1, int), np.zeros(1, int)), []), batch_size=1
    )
    data = prefixed.dataset(
        Parallel(["one"], [["eins"]], Places(["t:"], np.zeros(1, int), np.zeros(1, int)), []), batch_size=1
    )
    np.testing.assert_array_equal(data.columns["token_ids"].values, plain.columns["token_ids"].values)
    np.testing.assert_array_equal(prefixed.features(["one"])["token_ids"], model.features(["six one"])["token_ids"])


def test_two_vocabularies_are_saved_and_loaded(tmp_path, make_toy, toy_tokenizers):
    model = make_toy(SequenceToSequence, joint=False)
    model.save(tmp_path)
    loaded = aillm_tf.load(tmp_path)
    for ours, expected in zip((loaded.tokenizer, loaded.target_tokenizer), toy_tokenizers(joint=False), strict=True):
        assert ours.vocabulary == expected.vocabulary
    assert loaded.options() == model.options()
    assert loaded.answer(["one two"]) == model.answer(["one two"])


def test_a_target_without_end_token_is_refused(make_toy, toy_tokenizers):
    decoder_only = aillm_tf.train_tokenizer(["eins zwei"], "unigram", 30, use="decoder")
    with pytest.raises(ValueError, match="no end token after a text"):
        SequenceToSequence(make_toy(SequenceToSequence).config, toy_tokenizers()[0], target_tokenizer=decoder_only)


# Checkpoints in Hugging Face layout -----------------------------------------------------------------------------


def checkpoint(name: str, folder: Path) -> Path:
    """A golden model with a tokenizer of no more tokens than it has rows."""
    shutil.copytree(GOLDEN / name, folder)
    aillm_tf.train_tokenizer(["one two three"], "unigram", 40, use="seq2seq").save(folder)
    return folder


@pytest.mark.parametrize("name", ["t5_v1_0", "bart", "marian"])
def test_the_loss_of_a_checkpoint_is_that_of_transformers_logits(name, tmp_path):
    numbers = dict(np.load(GOLDEN / f"{name.partition('_')[0]}.npz"))
    model = SequenceToSequence.from_pretrained(
        str(checkpoint(name, tmp_path / name)), dtype="float32", max_length=16, max_target_length=16
    )
    valid = numbers["target_valid"].astype("float32")
    targets = np.roll(numbers["target_ids"], -1, axis=1)
    batch = {
        "token_ids": numbers["source_ids"],
        "valid": numbers["source_valid"],
        "target_ids": numbers["target_ids"],
        "targets": targets,
    }
    batch |= {"target_valid": valid, "target_weights": valid, "weight": np.ones(len(valid), "float32")}
    loss, weight = model.loss_terms(batch)
    expected = cross_entropy(numbers[f"{name}_logits"], targets[valid == 1]).mean()
    assert float(loss) / float(weight) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("name", "start", "end"), [("t5_v1_0", 0, 1), ("bart", 2, 2), ("marian", 59, 0)])
def test_a_checkpoint_says_how_its_decoder_begins_and_ends(name, start, end, tmp_path):
    model = SequenceToSequence.from_pretrained(
        str(checkpoint(name, tmp_path / name)), max_length=16, max_target_length=16
    )
    options = model.generation_options()
    assert (model.start_id, options.decoder_start_token_id, options.stop_ids) == (start, start, (end,))
    model.save(tmp_path / "saved")
    assert aillm_tf.load(tmp_path / "saved").generation_options() == options


def test_a_new_model_begins_with_the_beginning_of_texts(model):
    assert model.start_id == model.target_tokenizer.bos_id
    assert model.generation.max_new_tokens == 12


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t5_v1_0", "bart"])
def test_a_checkpoint_is_fine_tuned_and_written_back_in_its_own_layout(name, tmp_path, toy_pairs):
    options = {"dtype": "float32", "max_length": 28, "max_target_length": 28, "dropout": 0.0}
    model = SequenceToSequence.from_pretrained(str(checkpoint(name, tmp_path / name)), **options)
    data = model.dataset(toy_pairs(8, longest=2), batch_size=8, fixed_length=True)
    before = model.evaluate(data, verbose=0)["loss"]
    model.compile(aillm_tf.adamw(1e-2))
    model.fit(data, steps=20, verbose=0)
    after = model.evaluate(data, verbose=0)["loss"]
    assert after < before - 0.5
    model.save_huggingface(tmp_path / "saved")
    again = SequenceToSequence.from_pretrained(str(tmp_path / "saved"), **options)
    assert again.evaluate(data, verbose=0)["loss"] == pytest.approx(after, rel=1e-6)
    assert again.start_id == model.start_id
    assert again.generation_options() == model.generation_options()
