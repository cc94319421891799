"""A classifier small enough to export in seconds, and one export of it that tests share."""

import functools
import shutil
import string
import subprocess
from pathlib import Path

import pytest
import tensorflow as tf

from aillm_tf.export import reload, saved_model
from aillm_tf.export.saved_model import export
from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.classification import TextClassifier
from aillm_tf.text.tokenizer import Tokenizer

WORDS = ["good", "bad", "film", "the", "was", "##ing", "酒", "店", "好", "差", ",", "。", "!", ".", ":"]


def small_config(tokenizer: Tokenizer) -> TransformerConfig:
    """Two layers, whose random weights are large enough that answers are far from a tie."""
    return TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        layers=2,
        heads=2,
        ffn_size=32,
        max_length=32,
        segments=2,
        initializer_range=0.5,
    )


def small_classifier(tokenizer: Tokenizer, labels=("negative", "positive"), **options) -> TextClassifier:
    """A classifier of random weights; the same at every call."""
    config = small_config(tokenizer)
    return TextClassifier(config, tokenizer, labels=labels, **{"max_length": 32, "dtype": "float32", **options})


@pytest.fixture(scope="session")
def config(tokenizer) -> TransformerConfig:
    return small_config(tokenizer)


@pytest.fixture(scope="session")
def c_program(tmp_path_factory):
    """`c_program(name)`: the compiled program of c_client/name.c, on TensorFlow's C library alone."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    libraries = Path(tf.sysconfig.get_lib())
    if not (libraries / "libtensorflow_cc.so.2").exists():
        pytest.skip(f"no libtensorflow_cc.so.2 in {libraries}: this TensorFlow wheel has no C library")
    folder = tmp_path_factory.mktemp("c_client")

    @functools.cache
    def compiled(name: str) -> Path:
        program, source = folder / name, Path(__file__).parent / "c_client" / f"{name}.c"
        options = ["-O1", "-Wall", "-Wextra", "-Werror", f"-I{tf.sysconfig.get_include()}"]
        link = [f"-L{libraries}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
        command = ["gcc", *options, "-o", program, source, *link, f"-Wl,-rpath,{libraries}"]
        done = subprocess.run(command, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return program

    return compiled


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
