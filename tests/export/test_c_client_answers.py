"""The export of a model that answers questions, through TensorFlow's C API alone, also with a long context."""

import json
import subprocess
from pathlib import Path

import pytest
import tensorflow_text
from tensorflow.core.protobuf import saved_model_pb2

from aillm_tf.tasks.question_answering import QuestionAnswering

PAIRS = [
    ("what was good ?", "The film was good."),
    ("", "酒店差! bad"),
    ("which film ?", ""),
    ("what did Zoë say ?", 'Zoë said:  "good" 😀 the film'),
    ("bad ?", ("the film was bad, " + "good " * 7) * 400),
]


@pytest.mark.slow
def test_c_program_and_fresh_process_answer_as_the_task_does(c_program, config, tokenizer, tmp_path):
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
    command = [c_program("outputs"), tmp_path / "1", inputs, *outputs, "--", *libraries, "--", *texts]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]
    got = json.loads(done.stdout)
    for row, answer in enumerate(task.answer(PAIRS)):
        for name in ("answer", "start", "end"):
            assert got[name][row] == answer[name]
        for name in ("score", "no_answer"):
            assert got[name][row] == pytest.approx(answer[name], abs=1e-4)
    assert [bool(text) for text in got["answer"]] == [True, True, False, True, True]
