"""Autoencoder: all that the decoder knows of a text is one vector."""

import numpy as np
import pytest
from pretraining import OPTIONS, SHAPE, batch_of

import aillm_tf
from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.autoencoder import Autoencoder
from aillm_tf.training.optimizer import adamw


@pytest.fixture
def make(tokenizer):
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, decoder_layers=1, **SHAPE)
    return lambda **options: Autoencoder(config, tokenizer, **{**OPTIONS, "size": 8, **options})


@pytest.fixture
def texts(reviews):
    return [text for text, _ in reviews]


def test_the_loss_is_the_cross_entropy_of_the_text(make, texts):
    model = make()
    batch = batch_of(model.dataset(texts[:6], batch_size=8, fixed_length=True))
    logits = np.asarray(model.logits(batch), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    losses = -np.take_along_axis(log_p, batch["token_ids"][..., None], -1)[..., 0]
    weights = batch["valid"] * batch["weight"][:, None]
    total, weight = model.loss_terms(batch)
    assert float(weight) == weights.sum() > 0
    assert float(total) == pytest.approx((losses * weights).sum(), rel=1e-5)


def test_the_decoder_sees_the_source_through_the_vector_alone(make, texts):
    model = make()
    batch = batch_of(model.dataset(texts[:4], batch_size=4))
    other = {**batch, "token_ids": batch["token_ids"][::-1].copy(), "valid": batch["valid"][::-1].copy()}
    logits = np.asarray(model.logits(batch))
    assert np.abs(np.asarray(model.logits(other)) - logits).max() > 1e-3
    model.bottleneck.up.kernel.assign(np.zeros_like(model.bottleneck.up.kernel))
    np.testing.assert_array_equal(model.logits(other), model.logits(batch))


def test_the_vector_does_not_depend_on_padding(make):
    model = make()
    alone, (beside, _) = model.answer(["a war"]), model.answer(["a war", "a long story told with wit and heart"])
    assert len(alone[0]["vector"]) == 8
    np.testing.assert_allclose(alone[0]["vector"], beside["vector"], atol=1e-6)


@pytest.mark.slow
def test_a_few_texts_are_learned_by_heart(make, texts):
    model = make(size=32)
    model.compile(adamw(2e-2, steps=120, warmup=5))
    data = model.dataset(texts[:4], batch_size=4)
    before = model.evaluate(data, verbose=0)["loss"]
    model.fit(data, steps=120, verbose=0)
    assert model.evaluate(data, verbose=0)["loss"] < 0.3 * before


def test_a_saved_model_comes_back_the_same(make, tmp_path):
    model = make()
    model.save(tmp_path)
    loaded = aillm_tf.load(tmp_path, dtype="float32")
    assert loaded.options() == model.options()
    assert loaded.answer(["a war"]) == model.answer(["a war"])
