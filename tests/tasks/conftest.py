"""A toy translation (every word has its counterpart, in the reverse order), its tokenizers and tiny models."""

import functools

import numpy as np
import pytest

from aillm_tf.data.parallel import Parallel
from aillm_tf.data.tables import Places
from aillm_tf.models.config import TransformerConfig
from aillm_tf.text.train import train_tokenizer

WORDS = dict(zip("one two three four five six".split(), "eins zwei drei vier fünf sechs".split(), strict=True))
SHAPE = {"hidden_size": 32, "layers": 1, "decoder_layers": 1, "heads": 2, "ffn_size": 64, "dropout": 0.0}
SHAPE |= {"attention_dropout": 0.0, "position": "sinusoidal", "norm_placement": "pre", "embedding_norm": False}
SHAPE |= {"initializer_range": 0.1, "embedding_scale": 32**0.5}


def pairs(count: int = 60, seed: int = 0, longest: int = 4) -> Parallel:
    rng = np.random.default_rng(seed)
    rows = [rng.choice(list(WORDS), rng.integers(1, longest + 1)) for _ in range(count)]
    sources = [" ".join(row) for row in rows]
    targets = [[" ".join(WORDS[word] for word in reversed(row))] for row in rows]
    return Parallel(sources, targets, Places(["toy:"], np.zeros(count, np.int32), np.arange(count)), [])


@functools.cache
def tokenizers(joint: bool = True) -> tuple:
    """Of the source and of the target; the same one twice where joint."""
    sides = [list(WORDS), list(WORDS.values())]
    corpora = [[word for side in sides for word in side]] * 2 if joint else sides
    source, target = (
        train_tokenizer([f"{word} {word}" for word in words], "bpe", 400, use="seq2seq") for words in corpora
    )
    return (source, source) if joint else (source, target)


def toy(task, joint: bool = True, **options):
    """A float32 task on the toy's tokenizers; fields of the TransformerConfig and options of the task by name."""
    source, target = tokenizers(joint)
    shape = SHAPE | {
        name: options.pop(name)
        for name in list(options)
        if name in TransformerConfig.__dataclass_fields__ and name != "max_length"
    }
    config = TransformerConfig(
        vocab_size=source.vocab_size, decoder_vocab_size=None if joint else target.vocab_size, **shape
    )
    sides = {} if joint else {"target_tokenizer": target}
    return task(config, source, **sides, **{"max_length": 16, "max_target_length": 12, "dtype": "float32", **options})


@pytest.fixture(scope="session")
def toy_pairs():
    """`pairs(count, seed)`: rows of the toy translation."""
    return pairs


@pytest.fixture(scope="session")
def toy_tokenizers():
    """`tokenizers(joint)`: of its source and target."""
    return tokenizers


@pytest.fixture(scope="session")
def make_toy():
    """`toy(task, joint, **options)`: a tiny float32 task for it."""
    return toy
