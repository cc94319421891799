"""Four logical CPU devices for tests of replicas, and a tokenizer, rows and models small enough to train in seconds."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SST2 = Path(__file__).parents[2] / "shared" / "data" / "sst2" / "train.tsv"
REVIEWS = [
    ("a stirring and funny film about the end of a long war", 1),
    ("dull", 0),
    ("the plot is thin , the jokes are old and the end is far too long in coming", 0),
    ("warm and wise", 1),
    ("an old story told with wit , heart and a fine cast", 1),
    ("a long , cold and dull film", 0),
    ("not a single joke works", 0),
    ("the cast is fine and the story holds you to the very end", 1),
    ("what a mess of a film this is , from the first scene to the last", 0),
    ("funny , fast and full of heart", 1),
    ("it has the wit of a tax form and the warmth of a cold war", 0),
    ("one of the best films about a war i have seen in a long time", 1),
    ("you will want it to end", 0),
    ("you will not want it to end", 1),
    ("thin", 0),
    ("a wise little film with a warm heart", 1),
    ("told too fast to follow and too slow to care for", 0),
    ("the best cast of the year in the best story of the year", 1),
    ("a mess", 0),
    ("a joy", 1),
]


def pytest_collection_finish():
    """Before the first test runs, and only where a test needs TensorFlow at all."""
    if "tensorflow" not in sys.modules:
        return
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
    except RuntimeError as error:
        raise RuntimeError("a test module makes tensors while it is imported: make them inside the tests") from error


@pytest.fixture(scope="session")
def reviews() -> list[tuple[str, int]]:
    """40 labelled sentences of different length: of SST-2 where it lies beside the repository, else made up."""
    if not SST2.exists():
        return REVIEWS * 2
    lines = SST2.read_text(encoding="utf-8").splitlines()[:40]
    return [(text, int(label)) for text, _, label in (line.rpartition("\t") for line in lines)]


@pytest.fixture(scope="session")
def tokenizer(reviews):
    """A WordPiece tokenizer of 200 tokens, trained on the reviews."""
    from aillm_tf.text.train import train_tokenizer

    return train_tokenizer([text for text, _ in reviews], vocab_size=200)


@pytest.fixture(scope="session")
def config(tokenizer):
    """One layer of 16 features, without dropout; weights large enough that outputs are far from each other."""
    from aillm_tf.models.config import TransformerConfig

    return TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        layers=1,
        heads=2,
        ffn_size=32,
        max_length=64,
        segments=2,
        dropout=0.0,
        attention_dropout=0.0,
        initializer_range=0.2,
    )


@pytest.fixture(scope="session")
def rows(reviews):
    """The reviews as `Labelled` rows with the labels "bad" and "good"."""
    return labelled_rows([text for text, _ in reviews], [label for _, label in reviews], ["bad", "good"])


def labelled_rows(texts, label_ids, labels, pairs=None):
    """Rows as `aillm_tf.data.sources.labelled` reads them from a file."""
    from aillm_tf.data.sources import Labelled
    from aillm_tf.data.tables import Places

    where = Places(["rows.tsv:"], np.zeros(len(texts), "int32"), np.arange(1, len(texts) + 1))
    ids = np.asarray(label_ids)
    return Labelled(texts, pairs, ids.astype("float32" if ids.ndim > 1 else "int32"), labels, where, [], {})


@pytest.fixture(scope="session")
def make_rows():
    """`labelled_rows(texts, label_ids, labels, pairs=None)`."""
    return labelled_rows


@pytest.fixture
def make_classifier(config, tokenizer):
    """Builds a float32 classifier; fields of the TransformerConfig and options of the task by name."""
    from aillm_tf.tasks.classification import TextClassifier

    return lambda **options: _task(TextClassifier, config, tokenizer, {"labels": ["bad", "good"], **options})


@pytest.fixture
def make_masked_lm(config, tokenizer):
    """Builds a float32 masked language model; fields of the TransformerConfig and options of the task by name."""
    from aillm_tf.tasks.masked_lm import MaskedLM

    return lambda **options: _task(MaskedLM, config, tokenizer, options)


def _task(task, config, tokenizer, options: dict):
    options = {"max_length": 16, "dtype": "float32", **options}
    shape = {field.name for field in dataclasses.fields(config)} - {"max_length"}
    changes = {name: options.pop(name) for name in shape & set(options)}
    return task(config.replace(**changes), tokenizer, **options)


@pytest.fixture(scope="session")
def two_replicas():
    """MirroredStrategy over two logical CPUs. In one process TensorFlow allows mirroring over one number only."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
