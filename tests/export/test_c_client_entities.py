"""A tagger's export answers through TensorFlow's C API alone, with characters counted as Python counts them."""

import json
import subprocess
from pathlib import Path

import pytest
import tensorflow_text
from tensorflow.core.protobuf import saved_model_pb2

from aillm_tf.tasks.tagging import TokenClassifier

TEXTS = ["The film was good.", "", "酒店差! bad", "bad " * 200, 'Zoë said:  "good" 😀 the']


@pytest.mark.slow
def test_c_program_finds_the_entities_that_the_task_finds(c_program, config, tokenizer, tmp_path):
    labels = ["O", "B-LOC", "I-LOC"]
    task = TokenClassifier(config, tokenizer, labels=labels, crf=True, max_length=32, dtype="float32")
    task.export(tmp_path / "1", check_texts=TEXTS)
    proto = saved_model_pb2.SavedModel.FromString((tmp_path / "1" / "saved_model.pb").read_bytes())
    signature = proto.meta_graphs[0].signature_def["serving_default"]
    outputs = [f"{name}={info.name}" for name, info in signature.outputs.items()]
    libraries = sorted(Path(tensorflow_text.__file__).parent.glob("python/ops/*.so"))
    command = [
        c_program("outputs"),
        tmp_path / "1",
        signature.inputs["text"].name,
        *outputs,
        "--",
        *libraries,
        "--",
        *TEXTS,
    ]
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
