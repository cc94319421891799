"""The export answers through TensorFlow's C API alone: what a server does, with neither Python nor Keras in sight."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text
from tensorflow.core.protobuf import saved_model_pb2

SOURCE = Path(__file__).parent / "c_client" / "predict.c"
TEXTS = ["The film was good.", "", "酒店差!", "bad " * 200, "Zoë said: good 😀"]


@pytest.fixture(scope="module")
def predict(tmp_path_factory):
    """The compiled program."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is not installed")
    libraries = Path(tf.sysconfig.get_lib())
    if not (libraries / "libtensorflow_cc.so.2").exists():
        pytest.skip(f"no libtensorflow_cc.so.2 in {libraries}: this TensorFlow wheel has no C library")
    program = tmp_path_factory.mktemp("c_client") / "predict"
    command = ["gcc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, SOURCE, f"-I{tf.sysconfig.get_include()}"]
    link = [f"-L{libraries}", "-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{libraries}"]
    done = subprocess.run([*command, *link], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return program


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
