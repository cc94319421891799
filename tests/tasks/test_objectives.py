"""Every objective learns from real text: in seconds its loss falls far below guessing by frequency."""

import gzip
import itertools
import json

import numpy as np
import pytest
from pretraining import WIKITEXT, paragraphs

from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.autoencoder import Autoencoder
from aillm_tf.tasks.causal_lm import CausalLM
from aillm_tf.tasks.denoising import Denoising
from aillm_tf.tasks.masked_lm import MaskedLM
from aillm_tf.tasks.replaced_token import ReplacedToken
from aillm_tf.tasks.sentence_order import NextSentence, SentenceOrder
from aillm_tf.text.sentinels import with_sentinels
from aillm_tf.text.train import train_tokenizer
from aillm_tf.training.optimizer import adamw

pytestmark = pytest.mark.slow

SHARED = WIKITEXT.parent
SHAPE = {"hidden_size": 64, "layers": 2, "heads": 2, "ffn_size": 128, "max_length": 48, "norm_placement": "pre"}
SHAPE |= {"dropout": 0.0, "attention_dropout": 0.0, "initializer_range": 0.1}

LSTM = {"cell": "lstm", "position": "none", "embedding_norm": False, "layers": 1, "heads": 1}


@pytest.fixture(scope="module")
def train():
    return paragraphs("valid")


@pytest.fixture(scope="module")
def held_out():
    return paragraphs("test")[:120]


@pytest.fixture(scope="module")
def reader(train):
    tokenizer = train_tokenizer(train, vocab_size=150)  # letters: what stands beside them says most about them
    return TransformerConfig(vocab_size=tokenizer.vocab_size, segments=2, position="rotary", **SHAPE), tokenizer


@pytest.fixture(scope="module")
def writer(train):
    tokenizer = with_sentinels(train_tokenizer(train, kind="bpe", vocab_size=500, use="seq2seq"), 12)
    return TransformerConfig(vocab_size=tokenizer.vocab_size, decoder_layers=2, **SHAPE), tokenizer


def open_shared(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{name} does not lie beside the repository")
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def fitted(task, parts, train, held_out, steps, learning_rate=5e-3, **options):
    """Scores on held-out texts after some steps, and the data."""
    model = task(*parts, max_length=parts[0].max_length, dtype="float32", **options)
    model.compile(adamw(learning_rate, steps=steps, warmup=0.1, schedule="cosine"))
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


@pytest.mark.parametrize("options", [{}, {"whole_word": True}, {"spans": True}, {"masks": 4}], ids=str)
def test_masked_tokens_are_learned(options, reader, train, held_out):
    steps = 750 if "spans" in options else 250  # what surrounds a long gap says little of it
    scores, data, validation = fitted(MaskedLM, reader, train, held_out, steps, rate=0.3, **options)
    assert scores["loss"] < 0.85 * guessing(data, validation)


@pytest.mark.parametrize(
    ("options", "shape", "learning_rate"),
    [({}, {}, 5e-3), ({"prefix_lm": True}, {}, 5e-3), ({}, LSTM, 2e-2)],
    ids=["decoder", "prefix_lm", "lstm"],
)
def test_next_tokens_are_learned(options, shape, learning_rate, train, held_out):
    tokenizer = train_tokenizer(train, kind="bpe", vocab_size=500, use="decoder")
    shape = {**SHAPE, "causal": True, "position": "rotary", **shape}
    parts = TransformerConfig(vocab_size=tokenizer.vocab_size, **shape), tokenizer
    scores, data, validation = fitted(CausalLM, parts, train, held_out, 200, learning_rate, **options)
    names = ("targets", "target_weights" if options else "valid")
    assert scores["loss"] < 0.85 * guessing(data, validation, names=names)


@pytest.mark.parametrize(
    "noise",
    [
        "span_corruption",
        ("sentence_permutation", "text_infilling"),
        "token_deletion",
        "token_masking",
        "document_rotation",
        "sentence_permutation",
    ],
)
def test_noise_is_taken_away(noise, writer, train, held_out):
    scores, data, validation = fitted(Denoising, writer, train, held_out, 200, noise=noise)
    assert scores["loss"] < 0.8 * guessing(data, validation)


def test_replaced_tokens_are_found(reader, train, held_out):
    scores, data, validation = fitted(ReplacedToken, reader, train, held_out, 900, rate=0.5, generator_size=0.25)
    share = scores["replaced_share"]
    assert scores["generator_loss"] < 0.9 * guessing(data, validation)
    assert scores["discriminator_loss"] < 0.9 * -(share * np.log(share) + (1 - share) * np.log(1 - share))


def test_texts_are_written_from_a_vector(writer, train, held_out):
    scores, data, validation = fitted(Autoencoder, writer, train, held_out, 200)
    baseline = guessing(data, validation, names=("token_ids", "valid"))
    assert scores["loss"] < 0.8 * baseline


@pytest.fixture(scope="module")
def abstracts():
    with open_shared("scitldr/train.jsonl") as lines:
        return [" ".join(json.loads(line)["source"]) for line in lines]


@pytest.fixture(scope="module")
def german():
    """Descriptions of pictures, eight a text."""
    with open_shared("multi30k/train.de.gz") as lines:
        return [" ".join(eight) for eight in itertools.islice(zip(*[map(str.strip, lines)] * 8, strict=False), 1500)]


def pair_reader(texts):
    tokenizer = train_tokenizer(texts, vocab_size=2000)
    shape = {**SHAPE, "max_length": 96, "position": "rotary"}
    return TransformerConfig(vocab_size=tokenizer.vocab_size, segments=2, **shape), tokenizer


def test_sentences_of_other_texts_are_told_from_the_next(abstracts, train, german):
    texts = [*abstracts, *train, *german]
    scores, _, _ = fitted(NextSentence, pair_reader(texts), texts[::2], texts[1::20], 250, 3e-3, pooling="mean")
    assert scores["loss"] < 0.85 * np.log(2)


def test_the_order_of_sentences_is_told(abstracts):
    scores, _, _ = fitted(
        SentenceOrder, pair_reader(abstracts), abstracts[300:], abstracts[:300], 500, 2e-3, pooling="mean"
    )
    assert scores["loss"] < 0.93 * np.log(2)
