"""A tagger's export answers through TensorFlow's C API alone, with characters counted as Python counts them."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import tensorflow as tf
import tensorflow_text
from tensorflow.core.protobuf import saved_model_pb2

from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.tagging import TokenClassifier

SOURCE = Path(__file__).parent / "c_client" / "outputs.c"
TEXTS = ["The film was good.", "", "酒店差! bad", "bad " * 200, 'Zoë said:  "good" 😀 the']


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    libraries = Path(tf.sysconfig.get_lib())
    if not shutil.which("gcc") or not (libraries / "libtensorflow_cc.so.2").exists():
        pytest.skip("needs gcc and a TensorFlow wheel with its C library")
    built = tmp_path_factory.mktemp("c_client") / "outputs"
    command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", built, SOURCE, f"-I{tf.sysconfig.get_include()}"]
    link = [f"-L{libraries}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{libraries}"]
    done = subprocess.run([*command, *link], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return built


@pytest.mark.slow
def test_c_program_finds_the_entities_that_the_task_finds(program, tokenizer, tmp_path):
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
    labels = ["O", "B-LOC", "I-LOC"]
    task = TokenClassifier(config, tokenizer, labels=labels, crf=True, max_length=32, dtype="float32")
    task.export(tmp_path / "1", check_texts=TEXTS)
    proto = saved_model_pb2.SavedModel.FromString((tmp_path / "1" / "saved_model.pb").read_bytes())
    signature = proto.meta_graphs[0].signature_def["serving_default"]
    outputs = [f"{name}={info.name}" for name, info in signature.outputs.items()]
    libraries = sorted(Path(tensorflow_text.__file__).parent.glob("python/ops/*.so"))
    command = [program, tmp_path / "1", signature.inputs["text"].name, *outputs, "--", *libraries, "--", *TEXTS]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout)
    found = 0
    for row, answer in enumerate(task.answer(TEXTS)):
        assert got["counts"][row] == len(answer["entities"])
        for place, entity in enumerate(answer["entities"]):
            assert got["types"][row][place] == entity["type"]
            assert (got["starts"][row][place], got["ends"][row][place]) == (entity["start"], entity["end"])
            assert got["entities"][row][place] == entity["text"]
            assert got["scores"][row][place] == pytest.approx(entity["score"], abs=1e-4)
            found += 1
    assert found > 5
