"""The export answers through TensorFlow's C API alone: what a server does, with neither Python nor Keras in sight."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow_text
from tensorflow.core.protobuf import saved_model_pb2

TEXTS = ["The film was good.", "", "酒店差!", "bad " * 200, "Zoë said: good 😀"]


@pytest.fixture(scope="module")
def predict(c_program):
    """The compiled program."""
    return c_program("predict")


def run(predict: Path, folder: str, texts: list[str]) -> list[dict]:
    proto = saved_model_pb2.SavedModel.FromString(Path(folder, "saved_model.pb").read_bytes())
    signature = proto.meta_graphs[0].signature_def["serving_default"]
    tensors = [signature.inputs["text"].name, *(signature.outputs[name].name for name in ("label", "probabilities"))]
    ops = sorted(Path(tensorflow_text.__file__).parent.glob("python/ops/*.so"))
    done = subprocess.run([predict, folder, *tensors, *ops, "--", *texts], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(answers: list[dict], expected: list[dict]) -> None:
    assert [answer["label"] for answer in answers] == [answer["label"] for answer in expected]
    np.testing.assert_allclose(
        [answer["probabilities"] for answer in answers],
        [list(answer["probabilities"].values()) for answer in expected],
        atol=1e-4,
    )


@pytest.mark.slow
def test_c_program_answers_as_the_task_does(predict, exported):
    task, facts = exported
    check(run(predict, facts["path"], TEXTS), task.answer(TEXTS))
