"""The export of a model that answers questions, through TensorFlow's C API alone, also with a long context."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import tensorflow as tf
import tensorflow_text
from tensorflow.core.protobuf import saved_model_pb2

from aillm_tf.models.config import TransformerConfig
from aillm_tf.tasks.question_answering import QuestionAnswering

SOURCE = Path(__file__).parent / "c_client" / "outputs.c"
PAIRS = [
    ("what was good ?", "The film was good."),
    ("", "酒店差! bad"),
    ("which film ?", ""),
    ("what did Zoë say ?", 'Zoë said:  "good" 😀 the film'),
    ("bad ?", ("the film was bad, " + "good " * 7) * 400),
]


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
def test_c_program_and_fresh_process_answer_as_the_task_does(program, tokenizer, tmp_path):
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
    task = QuestionAnswering(config, tokenizer, max_length=32, stride=8, no_answer_threshold=1.0, dtype="float32")
    assert len(PAIRS[-1][1]) > 20_000
    facts = task.export(tmp_path / "1", check_texts=PAIRS)  # compares the answers of a process without aillm_tf
    assert facts["max_difference"] <= 1e-4
    proto = saved_model_pb2.SavedModel.FromString((tmp_path / "1" / "saved_model.pb").read_bytes())
    signature = proto.meta_graphs[0].signature_def["serving_default"]
    inputs = ",".join(signature.inputs[name].name for name in task.serving_inputs)
    outputs = [f"{name}={info.name}" for name, info in signature.outputs.items()]
    libraries = sorted(Path(tensorflow_text.__file__).parent.glob("python/ops/*.so"))
    texts = [text for column in zip(*PAIRS, strict=True) for text in column]
    command = [program, tmp_path / "1", inputs, *outputs, "--", *libraries, "--", *texts]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout)
    for row, answer in enumerate(task.answer(PAIRS)):
        for name in ("answer", "start", "end"):
            assert got[name][row] == answer[name]
        for name in ("score", "no_answer"):
            assert got[name][row] == pytest.approx(answer[name], abs=1e-4)
    assert [bool(text) for text in got["answer"]] == [True, True, False, True, True]
