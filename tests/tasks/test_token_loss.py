"""Label smoothing and z-loss are of every task that predicts tokens, in training only."""

import numpy as np
import pytest
from pretraining import OPTIONS, SHAPE, batch_of

from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.autoencoder import Autoencoder
from aillm_tf.tasks.denoising import Denoising
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.text.train import train_tokenizer

TERMS = {"label_smoothing": 0.2, "z_loss": 0.01}


@pytest.fixture(scope="module", params=[MaskedLM, Denoising, Autoencoder])
def model_and_batch(request, reviews):
    texts = [text for text, _ in reviews]
    writes = request.param is not MaskedLM
    kind = {"kind": "bpe", "use": "seq2seq"} if writes else {}
    tokenizer = train_tokenizer(texts, vocab_size=300, **kind)
    config = TransformerConfig(vocab_size=tokenizer.vocab_size, decoder_layers=int(writes), **SHAPE)
    model = request.param(config, tokenizer, **OPTIONS, **TERMS)
    return model, batch_of(model.dataset(texts, batch_size=8))


def test_the_loss_has_label_smoothing_and_z_loss(model_and_batch):
    model, batch = model_and_batch
    hidden, targets, weights = (np.asarray(x) for x in model.predictions(batch))
    scores = np.asarray(model.scores_of(hidden), np.float64)
    normalizer = np.log(np.exp(scores).sum(-1))
    said = np.take_along_axis(scores, targets[..., None].astype(int), -1)[..., 0]
    losses = normalizer - 0.8 * said - 0.2 * scores.mean(-1) + 0.01 * normalizer**2
    assert float(model.loss_terms(batch)[0]) == pytest.approx((losses * weights).sum(), rel=1e-5)
    assert float(model.evaluation(batch)[0]["loss"]) == pytest.approx(((normalizer - said) * weights).sum(), rel=1e-5)


def test_they_are_options_of_the_task(model_and_batch):
    model, _ = model_and_batch
    assert TERMS.items() <= model.options().items()
    with pytest.raises(ValueError, match="label_smoothing is a share"):
        type(model)(model.config, model.tokenizer, **OPTIONS, label_smoothing=1.0)
