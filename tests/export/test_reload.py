import json
import subprocess
import sys
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from aillm_tf.export.reload import PYTHON_OPS, op_places, unservable_ops


def test_ops_are_listed_with_their_place(exported):
    places = op_places(exported[1]["path"])
    assert "MatMul" in places
    assert places["MatMul"].startswith("node ")
    assert " of function " in places["MatMul"]


def test_calls_of_own_functions_are_not_ops(exported):
    assert not [op for op in op_places(exported[1]["path"]) if op.startswith("__inference")]


def test_stock_ops_can_be_served(exported):
    assert unservable_ops(op_places(exported[1]["path"])) == {}


def test_an_op_of_somebodys_own_library_cannot(exported, tmp_path):
    proto = saved_model_pb2.SavedModel.FromString(Path(exported[1]["path"], "saved_model.pb").read_bytes())
    function = proto.meta_graphs[0].graph_def.library.function[0]
    function.node_def.add(name="speedup", op="MyFusedAttention")
    (tmp_path / "saved_model.pb").write_bytes(proto.SerializeToString())
    refused = unservable_ops(op_places(tmp_path))
    assert refused == {"MyFusedAttention": f"node 'speedup' of function {function.signature.name!r}"}


def test_python_calls_cannot_though_tensorflow_registers_them():
    assert set(unservable_ops(dict.fromkeys(PYTHON_OPS, ""))) == PYTHON_OPS
    assert all(hasattr(tf.raw_ops, op) for op in PYTHON_OPS)


def test_local_py_answers_from_the_shell(exported):
    script = Path(exported[1]["path"], "serving", "local.py")
    done = subprocess.run([sys.executable, script, "The film was good."], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    expected = exported[0].answer(["The film was good."])[0]
    assert answer["label"] == expected["label"]
    assert abs(answer["probabilities"]["positive"] - expected["probabilities"]["positive"]) < 1e-6
