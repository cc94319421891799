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
    (
        "a stirring and quietly funny film about two brothers who come home in 1919 , at the end of a "
        "long and pointless war",
        1,
    ),
    ("apparently written over a weekend by somebody who had once heard of this film 's subject", 0),
    (
        "the plot is paper thin , the jokes are older than the actors , and the ending , when it "
        "finally arrives , feels like a rescue party that took a wrong turn somewhere in the second act",
        0,
    ),
    ("warm , wise and wonderfully strange , this is a film about memory , love and the price of looking away", 1),
    ("an old fashioned story of love and betrayal , told with wit , patience and a superb supporting cast", 1),
    ("the most surprising thing about the film is how gently it treats all of its fools", 1),
    ("a chilly exercise in style that mistakes silence for depth and slowness for thought", 0),
    ("not one of its many songs is wasted , and the dancing is better still", 1),
    (
        "the young director handles grief , memory and music with the confidence of a tourist , "
        "pointing at everything and seeing nothing of it at all",
        0,
    ),
    ("what a dull and shouting film", 0),
    ("funny , fast and full of heart , it is the rare film that parents and children will both want to see twice", 1),
    ("it has all the charm of a tax form and none of the suspense of waiting for the refund", 0),
    (
        "begins as a promising thriller but collapses into shouting , car crashes and a villain that "
        "nobody in the theater could possibly fear , let alone believe",
        0,
    ),
    ("among the finest films about factory work that i have ever watched , and the most humane", 1),
    ("you will want your money back , and probably your evening as well", 0),
    ("you may leave the theater humming , thinking and , if you are anything like me , wiping your eyes", 1),
    ("the script hurries where it should linger and lingers where any sensible editor would have used scissors", 0),
    (
        "gorgeous photography , playful dialogue and a central performance that deserves every prize of "
        "2003 , and one or two that have yet to be invented",
        1,
    ),
    ("a thin and forgettable little film", 0),
    ("this clumsy sequel repeats the original beat for beat but forgets why anybody ever laughed", 0),
    ("loud , long and humorless", 0),
    ("beneath the slapstick there is a serious and rather moving portrait of friendship between unlikely neighbors", 1),
    (
        "the dialogue sounds as though it had been translated twice and never read aloud , the music as "
        "though it had been bought by the yard , and the film as a whole as though nobody involved had "
        "ever asked anybody else what it was about",
        0,
    ),
    (
        "imagine a birthday party where the clown does n't show up , the cake is stale and they still "
        "make you sing `` happy birthday '' for the full 96 minutes",
        0,
    ),
    (
        "the romance never catches fire , perhaps because the two leads seem to have met only five "
        "minutes before the cameras began",
        0,
    ),
    (
        "rarely has a courtroom drama been so gripping without raising its voice , and never has a film "
        "about lawyers been so kind to them",
        1,
    ),
    (
        "it respects children enough to scare them a little , and parents enough to make them laugh out "
        "loud at the very same scene",
        1,
    ),
    ("a mess", 0),
    (
        "visually inventive from the opening credits to the closing shot , the film keeps its best "
        "ideas for the quiet parts",
        1,
    ),
    ("what were they thinking ?", 0),
    (
        "even devoted readers of the novel may find this film too faithful to breathe and too short to "
        "make any sense of its 40 characters",
        0,
    ),
    ("an unexpected joy", 1),
    ("a sly , generous comedy of manners", 1),
    ("by turns frightening and tender , it stays with you", 1),
    ("a small jewel , cut with great care", 1),
    ("predictable from the first handshake", 0),
    (
        "somewhere inside these three hours hides a decent short film , waving for help while the sub "
        "plots march past it",
        0,
    ),
    (
        "it wants to be a satire of television , but it merely looks like bad television on a bigger "
        "screen , with more adverts and fewer jokes",
        0,
    ),
    (
        "an astonishing first film , made with little money and much imagination by people who plainly love the cinema",
        1,
    ),
    ("sharp , honest and very well acted !", 1),
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
        return REVIEWS
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
