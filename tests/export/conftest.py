"""A classifier small enough to export in seconds, and one export of it that tests share."""

import string

import pytest

from aillm_tf.export import reload, saved_model
from aillm_tf.export.saved_model import export
from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.text.tokenizer import Tokenizer

WORDS = ["good", "bad", "film", "the", "was", "##ing", "酒", "店", "好", "差", ",", "。", "!", ".", ":"]


def small_classifier(tokenizer: Tokenizer, labels=("negative", "positive"), **options) -> TextClassifier:
    """Two layers of random weights, large enough that answers are far from a tie; the same at every call."""
    config = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        layers=2,
        heads=2,
        ffn_size=32,
        max_length=32,
        segments=2,
        initializer_range=0.5,
    )
    return TextClassifier(config, tokenizer, labels=labels, **{"max_length": 32, "dtype": "float32", **options})


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    pieces = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase), *string.digits]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*WORDS, *pieces])]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return Tokenizer.from_folder(folder)


@pytest.fixture
def make_task(tokenizer):
    """Builds a `small_classifier`; same options, same weights."""
    return lambda **options: small_classifier(tokenizer, **options)


@pytest.fixture(scope="session")
def exported(tokenizer, tmp_path_factory):
    """One export, shared: ``(task, facts)``. Read only."""
    task = small_classifier(tokenizer)
    return task, export(task, tmp_path_factory.mktemp("export") / "1")


@pytest.fixture
def same_process(monkeypatch):
    """Checks exports in this process: for tests of what the check does with answers, without seconds of importing."""
    monkeypatch.setattr(saved_model, "fresh_process", reload.report)
