"""ReplacedToken: what the generator puts in the gaps, what the discriminator is asked, and which of them is kept."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from pretraining import batch_of

import aillm_tf
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.tasks.replaced_token import ReplacedToken
from aillm_tf.training.optimizer import adamw

GOLDEN = Path(__file__).parents[1] / "golden" / "electra"


@pytest.fixture
def make(config, tokenizer):
    def made(**options):
        shape = {name: options.pop(name) for name in ("embedding_size", "dropout") if name in options}
        options = {"max_length": 16, "dtype": "float32", "generator_size": 0.5, **options}
        return ReplacedToken(config.replace(**shape), tokenizer, **options)

    return made


@pytest.fixture
def texts(reviews):
    return [text for text, _ in reviews]


def test_both_losses_are_those_of_the_paper(make, texts):
    model = make(rate=0.3, discriminator_weight=7.0)
    batch = batch_of(model.dataset(texts[:6], batch_size=8, fixed_length=True))
    at, row = batch["target_positions"], batch["weight"][:, None]
    predicted = batch["target_weights"] * row

    hidden = np.asarray(model.generator(batch, embeddings=model.backbone.embeddings))
    hidden = np.take_along_axis(hidden, at[..., None], 1)
    scores = np.asarray(model.scores_of(hidden), np.float64)
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    generator = -np.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]

    # drawn by the inverse of the distribution function
    chosen = (np.exp(log_p).cumsum(-1) <= batch["draws"][..., None]).sum(-1)
    filled = batch["original_ids"].copy()
    for i, j in zip(*np.nonzero(batch["target_weights"]), strict=True):
        filled[i, at[i, j]] = chosen[i, j]
    replaced = filled != batch["original_ids"]
    logits = np.asarray(model.logits({**batch, "token_ids": filled}), np.float64)
    losses = np.log1p(np.exp(np.where(replaced, -logits, logits)))
    means = (losses * batch["valid"]).sum(1) / np.maximum(batch["valid"].sum(1), 1)

    expected = (generator * predicted).sum() + 7.0 * (means * predicted.sum(1)).sum()
    total, weight = model.loss_terms(batch)
    assert float(weight) == predicted.sum() > 0
    assert float(total) == pytest.approx(expected, rel=1e-5)

    scores = model.scores({name: float(value) for name, value in model.evaluation(batch)[0].items()}, {})
    real = batch["valid"] * row
    assert scores["loss"] == pytest.approx(expected / predicted.sum(), rel=1e-5)
    assert scores["generator_loss"] == pytest.approx((generator * predicted).sum() / predicted.sum(), rel=1e-5)
    assert scores["discriminator_loss"] == pytest.approx((losses * real).sum() / real.sum(), rel=1e-5)
    assert scores["accuracy"] == pytest.approx((((logits > 0) == replaced) * real).sum() / real.sum())
    assert scores["replaced_share"] == pytest.approx((replaced * real).sum() / real.sum())
    assert scores["replaced_found"] == pytest.approx(((logits > 0) & replaced & (real > 0)).sum() / replaced.sum())


def test_guesses_follow_the_generators_distribution(make):
    model = make()
    hidden = np.random.default_rng(0).normal(size=(1, 1, model.generator.config.hidden_size)).astype("float32")
    share = np.exp(np.asarray(model.scores_of(hidden)))[0, 0, : model.tokenizer.vocab_size]
    share /= share.sum()
    draws = ((np.arange(5000) + 0.5) / 5000)[None].astype("float32")
    drawn = np.asarray(model.guesses(np.repeat(hidden, 5000, axis=1), draws))[0]
    counts = np.bincount(drawn, minlength=len(share))
    assert np.abs(counts - 5000 * share).max() <= 1.5  # a grid of draws hits every token as often as its share says


def test_guesses_made_in_chunks_are_the_same(make, monkeypatch):
    model = make()
    hidden = np.random.default_rng(0).normal(size=(30, 10, model.generator.config.hidden_size)).astype("float32")
    draws = np.random.default_rng(1).random((30, 10)).astype("float32")
    at_once = np.asarray(model.guesses(hidden, draws))
    monkeypatch.setattr("aillm_tf.tasks.replaced_token.SCORES", 0)
    np.testing.assert_array_equal(np.asarray(model.guesses(hidden, draws)), at_once)


def test_no_gradient_passes_through_the_guesses(make, texts):
    import tensorflow as tf

    model = make(discriminator_weight=1.0)
    batch = next(iter(model.dataset(texts[:4], batch_size=4).batches()))
    with tf.GradientTape() as tape:
        loss = model.evaluation(batch)[0]["scaled_loss"]
    values = [v.value for v in model.generator.trainable_variables]
    assert all(g is None or not np.any(g) for g in tape.gradient(loss, values))


@pytest.mark.parametrize("embedding_size", [None, 8])
def test_the_generator_is_smaller_and_shares_the_embeddings(embedding_size, make):
    model = make(embedding_size=embedding_size)
    names = variables_by_name(model)
    assert not [name for name in names if name.startswith("generator/") and "embeddings" in name]
    assert names["generator/projection/kernel"].shape == (embedding_size or 16, 8)
    assert names["generator/encoder/layer_0/attention/qkv/kernel"].shape == (8, 24)
    assert names["generator/mlm/transform/kernel"].shape == (8, embedding_size or 16)


def test_answers_are_the_probability_of_every_token_that_it_was_replaced(make):
    model = make()
    (answer,) = model.answer(["a long war"])
    assert [token["token"] for token in answer["tokens"]] == [
        model.tokenizer.vocabulary[i] for i in model.tokenizer.encode(["a long war"]).ids
    ]
    assert all(0 < token["score"] < 1 for token in answer["tokens"])


def test_fine_tuning_begins_with_the_discriminator(make, tmp_path):
    model = make()
    model.save(tmp_path)
    tuned = TextClassifier.from_pretrained(str(tmp_path), labels=["no", "yes"], max_length=16, dtype="float32")
    ours = variables_by_name(model)
    for name, variable in variables_by_name(tuned).items():
        if name.startswith("backbone/"):
            np.testing.assert_array_equal(variable, ours[name])


def test_a_saved_model_comes_back_with_its_generator(make, tmp_path):
    model = make(discriminator_weight=20.0, whole_word=True)
    model.save(tmp_path)
    loaded = aillm_tf.load(tmp_path, dtype="float32")
    assert loaded.options() == model.options()
    others = variables_by_name(loaded)
    for name, variable in variables_by_name(model).items():
        np.testing.assert_array_equal(variable, others[name])


def test_the_discriminator_is_saved_as_transformers_has_it(make, tmp_path):
    model = make(embedding_size=8)
    model.save_huggingface(tmp_path)
    loaded = ReplacedToken.from_pretrained(str(tmp_path), dtype="float32", max_length=16)
    assert loaded.config.model_type == "electra"
    for mine, its in zip(model.answer(["a long war"]), loaded.answer(["a long war"]), strict=True):
        assert mine == its


def test_a_checkpoint_of_transformers_gives_its_logits(tmp_path):
    golden = np.load(GOLDEN / "golden.npz")
    shutil.copytree(GOLDEN / "discriminator", tmp_path, dirs_exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *"abcdefgh"]), encoding="utf-8")
    model = ReplacedToken.from_pretrained(str(tmp_path), dtype="float32", max_length=20)
    real = golden["token_ids"] != golden["token_ids"][1, -1]
    logits = np.asarray(model.logits({"token_ids": golden["token_ids"], "valid": real.astype("int32")}))
    np.testing.assert_allclose(logits[real], golden["discriminator_logits"], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_two_replicas_and_micro_batches_give_the_same_curve(make, texts, two_replicas):
    from aillm_tf.training.strategy import strategy

    curves = []
    for scope, accumulate in ((strategy("one"), 1), (two_replicas, 2)):
        with scope.scope():
            model = make()
        model.compile(adamw(5e-3, steps=20, warmup=2), accumulate=accumulate)
        history = model.fit(model.dataset(texts, batch_size=8, shuffle=True), steps=4, validation_every=1, verbose=0)
        curves.append(history.history["loss"])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-5)


@pytest.mark.slow
def test_xla_compiles_the_step_and_gives_the_same_curve(make, texts):
    curves = []
    for jit_compile in (False, True):
        model = make(dropout=0.0)
        model.compile(adamw(5e-3, steps=20, warmup=2), jit_compile=jit_compile)
        data = model.dataset(texts, batch_size=8, shuffle=True, fixed_length=True)
        curves.append(model.fit(data, steps=2, validation_every=1, verbose=0).history["loss"])
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rate": 0.0}, "rate is the share"), ({"generator_size": 1.5}, "generator_size is a share")],
)
def test_options_out_of_range_are_refused(options, message, make):
    with pytest.raises(ValueError, match=message):
        make(**options)
