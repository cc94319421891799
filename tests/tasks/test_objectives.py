"""Every objective learns from real text: in seconds its loss falls far below guessing by frequency."""

import itertools

import numpy as np
import pytest
from pretraining import paragraphs

from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.autoencoder import Autoencoder
from aillm_tf.tasks.denoising import Denoising
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.tasks.replaced_token import ReplacedToken
from aillm_tf.tasks.sentence_order import NextSentence, SentenceOrder
from aillm_tf.text.sentinels import with_sentinels
from aillm_tf.text.train import train_tokenizer
from aillm_tf.training.optimizer import adamw

pytestmark = pytest.mark.slow

SHAPE = {"hidden_size": 64, "layers": 2, "heads": 2, "ffn_size": 128, "max_length": 48, "norm_placement": "pre"}
SHAPE |= {"dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture(scope="module")
def train():
    return paragraphs("valid")


@pytest.fixture(scope="module")
def held_out():
    return paragraphs("test")[:120]


@pytest.fixture(scope="module")
def reader(train):
    tokenizer = train_tokenizer(train, vocab_size=500)
    return TransformerConfig(vocab_size=tokenizer.vocab_size, segments=2, **SHAPE), tokenizer


@pytest.fixture(scope="module")
def writer(train):
    tokenizer = with_sentinels(train_tokenizer(train, kind="bpe", vocab_size=500, use="seq2seq"), 12)
    return TransformerConfig(vocab_size=tokenizer.vocab_size, decoder_layers=2, **SHAPE), tokenizer


def fitted(task, parts, train, held_out, steps, rate=3e-3, **options):
    """Scores on held-out texts after some steps, and the data."""
    model = task(*parts, max_length=48, dtype="float32", **options)
    model.compile(adamw(rate, steps=steps, warmup=0.1, schedule="cosine"))
    data = model.dataset(train, batch_size=32, shuffle=True, fixed_length=True)
    model.fit(data, steps=steps, verbose=0)
    validation = model.dataset(held_out, batch_size=32, fixed_length=True)
    return model.evaluate(validation, verbose=0), data, validation


def targets(data, batches, names=("targets", "target_weights")):
    """What the model had to predict in some batches."""
    made = itertools.islice(data.batches(0, 2 * batches), batches)
    return np.concatenate([b[names[0]].numpy()[b[names[1]].numpy() > 0] for b in made])


def guessing(data, validation, **names):
    """Cross-entropy of guessing every target by its frequency in training, in nats."""
    seen, asked = targets(data, 60, **names), targets(validation, 10, **names)
    counts = np.bincount(seen, minlength=asked.max() + 1) + 1.0
    return float(-np.log(counts[asked] / counts.sum()).mean())


@pytest.mark.parametrize("options", [{}, {"whole_word": True}, {"spans": True}, {"masks": 1}], ids=str)
def test_masked_tokens_are_learned(options, reader, train, held_out):
    scores, data, validation = fitted(MaskedLM, reader, train, held_out, 150, **options)
    assert scores["loss"] < 0.85 * guessing(data, validation)


@pytest.mark.parametrize("noise", ["span_corruption", ("sentence_permutation", "text_infilling"), "token_deletion"])
def test_noise_is_taken_away(noise, writer, train, held_out):
    scores, data, validation = fitted(Denoising, writer, train, held_out, 200, noise=noise)
    print(noise, scores, guessing(data, validation))
    assert scores["loss"] < 0.8 * guessing(data, validation)


def test_replaced_tokens_are_found(reader, train, held_out):
    scores, data, validation = fitted(ReplacedToken, reader, train, held_out, 150, generator_size=0.5)
    share = scores["replaced_share"]
    print(scores, guessing(data, validation), -(share * np.log(share) + (1 - share) * np.log(1 - share)))
    assert scores["generator_loss"] < 0.9 * guessing(data, validation)
    assert scores["discriminator_loss"] < 0.9 * -(share * np.log(share) + (1 - share) * np.log(1 - share))


def test_texts_are_written_from_a_vector(writer, train, held_out):
    scores, data, validation = fitted(Autoencoder, writer, train, held_out, 200)
    baseline = guessing(data, validation, names=("token_ids", "valid"))
    print(scores, baseline)
    assert scores["loss"] < 0.8 * baseline


@pytest.mark.parametrize("task", [NextSentence, SentenceOrder])
def test_pairs_are_told_apart(task, reader, train, held_out):
    scores, _, _ = fitted(task, reader, train, held_out, 200, 1e-3, pooling="mean")
    print(scores)
    assert scores["loss"] < 0.97 * np.log(2)
