"""MaskedLM: where it begins, what it learns, and which tokens it is asked for."""

import itertools

import numpy as np
import pytest

import aillm_tf
from aillm_tf.data.rows import around, split_rows
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.training.optimizer import adamw

# every word follows from the one before it: far below the unigram loss once learned
CYCLE = "the war of old men is a long story told with wit".split()
CORPUS = [" ".join(CYCLE[(start + i) % len(CYCLE)] for i in range(9)) for start in range(len(CYCLE))] * 4


def unigram_loss(data, special):
    ids = data.columns["token_ids"].values
    counts = np.bincount(ids[~np.isin(ids, special)])
    share = counts[counts > 0] / counts.sum()
    return -(share * np.log(share)).sum()


def test_the_loss_begins_near_that_of_guessing(make_masked_lm, reviews):
    model = make_masked_lm(initializer_range=0.02)
    data = model.dataset([text for text, _ in reviews], batch_size=16)
    loss = model.evaluate(data, verbose=0)["loss"]
    assert loss == pytest.approx(np.log(model.tokenizer.vocab_size), abs=0.2)


def test_a_repetitive_corpus_is_learned_far_below_its_unigram_loss(make_masked_lm):
    model = make_masked_lm(hidden_size=32, heads=4, ffn_size=64, max_length=64)
    model.compile(adamw(1e-2, steps=150, warmup=10))
    data = model.dataset(CORPUS, batch_size=24, shuffle=True, fixed_length=False)
    model.fit(data, steps=150, verbose=0)
    scores = model.evaluate(model.dataset(CORPUS, batch_size=24, seed=77), verbose=0)
    assert scores["loss"] < 0.5 * unigram_loss(data, model.tokenizer.special_ids)
    assert scores["perplexity"] == pytest.approx(np.exp(scores["loss"]))


def batch_of(model, texts, **options):
    batch = next(iter(model.dataset(texts, batch_size=len(texts), **options).batches()))
    return {name: value.numpy() for name, value in batch.items()}


def test_logits_at_the_masked_positions_equal_those_of_the_full_computation(make_masked_lm, reviews):
    model = make_masked_lm()
    batch = batch_of(model, [text for text, _ in reviews[:6]], fixed_length=True)
    at = batch["target_positions"]
    full = np.asarray(model.logits(batch))
    picked = np.asarray(model.logits(batch, at))
    assert picked.shape == (len(at), at.shape[1], model.config.vocab_size)
    np.testing.assert_allclose(picked, np.take_along_axis(full, at[..., None], axis=1), atol=1e-5)


def test_the_loss_is_the_cross_entropy_of_the_hidden_tokens(make_masked_lm, reviews):
    model = make_masked_lm()
    batch = batch_of(model, [text for text, _ in reviews[:6]], fixed_length=True)
    logits = np.asarray(model.logits(batch, batch["target_positions"]), "float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
    total, weight = model.loss_terms(batch)
    assert float(weight) == batch["target_weights"].sum() > 0
    assert float(total) == pytest.approx((losses * batch["target_weights"]).sum(), rel=1e-5)


@pytest.mark.parametrize("whole_word", [False, True])
def test_targets_are_what_the_mask_hides(whole_word, make_masked_lm, reviews):
    model = make_masked_lm(whole_word=whole_word)
    texts = [text for text, _ in reviews[:8]]
    data = model.dataset(texts, batch_size=8, fixed_length=True)
    batch = batch_of(model, texts, fixed_length=True)
    clean, offsets = data.columns["token_ids"]
    for i, row in enumerate(batch["row"]):
        ids = clean[offsets[row] : offsets[row + 1]]
        chosen = batch["target_weights"][i] > 0
        at = batch["target_positions"][i][chosen]
        np.testing.assert_array_equal(batch["targets"][i][chosen], ids[at])
        assert not np.isin(ids[at], model.tokenizer.special_ids).any()
        np.testing.assert_array_equal(np.delete(batch["token_ids"][i][: len(ids)], at), np.delete(ids, at))


def test_whole_words_are_hidden_with_all_their_pieces(make_masked_lm, reviews):
    texts = [text for text, _ in reviews]
    model = make_masked_lm(whole_word=True, rate=0.3, max_length=64)
    data = model.dataset(texts, batch_size=len(texts), fixed_length=True)
    batch = batch_of(model, texts, fixed_length=True)
    clean, offsets = data.columns["token_ids"]
    words = 0
    for i, row in enumerate(batch["row"]):
        ids = clean[offsets[row] : offsets[row + 1]]
        word = np.cumsum(~model.tokenizer.continuation[ids])
        word[np.isin(ids, model.tokenizer.special_ids)] = -1  # a long text may be cut within a word
        hidden = np.zeros(len(ids), bool)
        hidden[batch["target_positions"][i][batch["target_weights"][i] > 0]] = True
        for number in np.unique(word[hidden]):
            assert hidden[word == number].all()
            words += (word == number).sum() > 1
    assert words > 0


def test_masks_are_drawn_anew_every_epoch(make_masked_lm, reviews):
    data = make_masked_lm().dataset([text for text, _ in reviews], batch_size=40, fixed_length=True)
    first, second = (next(iter(data.batches(epoch)))["target_positions"].numpy() for epoch in (0, 1))
    assert (first != second).any(-1).mean() > 0.5


@pytest.mark.parametrize(("masks", "different"), [(1, 1), (3, 3)])
def test_a_row_has_as_many_masks_as_it_may(masks, different, make_masked_lm):
    data = make_masked_lm(masks=masks, rate=0.4).dataset(["a long cold war and a dull film"], fixed_length=True)
    seen = {batch["target_positions"].numpy()[0].tobytes() for batch in data.batches(0, 12)}  # an epoch each
    assert 1 <= len(seen) <= different
    assert masks == 1 or len(seen) > 1


@pytest.mark.parametrize("words", ["spaces", "collocations"])
def test_words_that_the_vocabulary_does_not_tell_need_whole_words(words, make_masked_lm, reviews):
    texts = [text for text, _ in reviews[:8]]
    with pytest.raises(ValueError, match="whole_word=True"):
        make_masked_lm().dataset(texts, words=words)
    batch = batch_of(make_masked_lm(whole_word=True), texts, words=words, fixed_length=True)
    assert batch["target_weights"].any() and "continues" not in batch


def test_long_texts_become_several_rows_and_nothing_is_lost(tokenizer, reviews):
    texts = [text for text, _ in reviews]
    encoded = tokenizer.encode(texts)
    where, offsets = split_rows(encoded.offsets, 10, *map(len, around(tokenizer)))
    ids = encoded.ids[where]
    assert np.diff(offsets).max() == 10
    pieces = [ids[start:end] for start, end in itertools.pairwise(offsets)]
    assert {piece[0] for piece in pieces} == {tokenizer.cls_id}
    assert {piece[-1] for piece in pieces} == {tokenizer.sep_id}
    whole = np.split(encoded.ids, encoded.offsets[1:-1])
    kept, original = (np.concatenate([part[1:-1] for part in parts]) for parts in (pieces, whole))
    np.testing.assert_array_equal(kept, original)


def test_empty_texts_are_left_out(make_masked_lm):
    assert len(make_masked_lm().dataset(["", "a film", "  "])) == 1


def test_texts_come_from_a_file_too(make_masked_lm, tmp_path):
    (tmp_path / "corpus.txt").write_text("a long war\n\nan old story\n")
    assert len(make_masked_lm().dataset(str(tmp_path / "corpus.txt"), on_bad="skip")) == 2


def test_answers_are_the_likeliest_tokens_for_every_mask(make_masked_lm):
    model = make_masked_lm()
    answer, none = model.answer(["a [MASK] story of [MASK]", "a story"])
    assert [len(tokens) for tokens in answer["masks"]] == [5, 5]
    for tokens in answer["masks"]:
        scores = [token["score"] for token in tokens]
        assert scores == sorted(scores, reverse=True)
        assert {token["token"] for token in tokens} <= set(model.tokenizer.vocabulary)
    assert none["masks"] == []


def test_a_saved_model_comes_back_the_same(make_masked_lm, tmp_path):
    asked = {"max_length": 16, "rate": 0.2, "whole_word": True, "spans": True, "masks": 10}
    asked |= {"transform_activation": "relu", "label_smoothing": 0.1, "z_loss": 1e-4}
    model = make_masked_lm(**asked)
    model.save(tmp_path)
    loaded = aillm_tf.load(tmp_path, dtype="float32")
    assert isinstance(loaded, MaskedLM)
    assert loaded.options() == model.options() == asked
    assert loaded.answer(["a [MASK]"]) == model.answer(["a [MASK]"])


def test_pretraining_goes_on_from_a_saved_model(make_masked_lm, tmp_path):
    model = make_masked_lm(seed=5)
    model.save(tmp_path)
    loaded = MaskedLM.from_pretrained(str(tmp_path), rate=0.3, dtype="float32")
    assert loaded.rate == 0.3
    for own, other in zip(loaded.variables, model.variables, strict=True):
        np.testing.assert_array_equal(own.numpy(), other.numpy(), err_msg=own.path)


def test_a_rate_out_of_range_is_refused(make_masked_lm):
    with pytest.raises(ValueError, match=r"rate is the share of tokens to mask, in \(0, 1\), not 1.5"):
        make_masked_lm(rate=1.5)
