"""Load an exported model with TensorFlow and tensorflow-text alone, as a server would, and answer.

The file is run by path (``python reload.py EXPORT``), never imported for that purpose, so that nothing of aillm_tf can
lend the export an op, a table or a weight that it does not hold itself. Export runs it to check what it
wrote, and copies it to ``serving/local.py`` for people who want answers without a server.

    python serving/local.py "a stirring, funny film"       one answer a line, as JSON
    python serving/local.py --json < columns.json           as `report` takes and gives them
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the ops that the tokenizer in the graph is made of
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

# Every TensorFlow build knows the names of these ops, but what they call lives in a Python interpreter.
PYTHON_OPS = frozenset({"PyFunc", "PyFuncStateless", "EagerPyFunc"})


def op_places(folder: str | Path) -> dict[str, str]:
    """Lists the ops of a SavedModel, with the first node each of them occurs in.

    Args:
        folder: Folder of the SavedModel.

    Returns:
        Op name to ``"node 'NODE' of function 'FUNCTION'"``. Calls of the SavedModel's own functions are not ops.
    """
    proto = saved_model_pb2.SavedModel.FromString(Path(folder, "saved_model.pb").read_bytes())
    places: dict[str, str] = {}
    for graph in (meta_graph.graph_def for meta_graph in proto.meta_graphs):
        functions = {function.signature.name for function in graph.library.function}
        nodes = [(node, "the main graph") for node in graph.node]
        for function in graph.library.function:
            nodes += [(node, f"function {function.signature.name!r}") for node in function.node_def]
        for node, owner in nodes:
            if node.op not in functions:
                places.setdefault(node.op, f"node {node.name!r} of {owner}")
    return places


def unservable_ops(places: dict[str, str]) -> dict[str, str]:
    """Picks the ops that a stock TF Serving binary cannot run: Python calls, and ops this process does not register.

    Args:
        places: What `op_places` gives.

    Returns:
        The part of ``places`` that cannot be served; in a process that imported only TensorFlow and tensorflow-text.
    """
    return {op: at for op, at in places.items() if op in PYTHON_OPS or op_def_registry.get(op) is None}


def answer(folder: str | Path, columns: dict, signature: str = "serving_default") -> dict[str, np.ndarray]:
    """Answers with one signature of a SavedModel.

    Args:
        folder: Folder of the SavedModel.
        columns: Input name to a list of strings (rows,), or of rows of token ids (rows, tokens).
        signature: ``"serving_default"`` (strings) or ``"tokens"``.

    Returns:
        Output name to array with ``rows`` first; strings are bytes.
    """
    return _call(tf.saved_model.load(str(folder)), columns, signature)


def _call(loaded, columns: dict, signature: str) -> dict[str, np.ndarray]:
    function = loaded.signatures[signature]
    specs = function.structured_input_signature[1]
    outputs = function(**{name: tf.constant(columns[name], spec.dtype) for name, spec in specs.items()})
    return {name: tensor.numpy() for name, tensor in outputs.items()}


def report(folder: str | Path, requests: dict[str, dict]) -> dict:
    """Says everything that the check of an export wants to know, as JSON can hold it.

    Args:
        folder: Folder of the SavedModel.
        requests: Signature name to columns, as `answer` takes them.

    Returns:
        ``{"refused": {op: place}}`` where an op cannot be served, else ``{"ops": [name], "answers": {signature:
        {output: rows}}}``.
    """
    places = op_places(folder)
    refused = unservable_ops(places)
    if refused:
        return {"refused": refused}
    loaded = tf.saved_model.load(str(folder))
    answers = {name: _call(loaded, columns, name) for name, columns in requests.items()}
    readable = {name: {key: _jsonable(value) for key, value in got.items()} for name, got in answers.items()}
    return {"ops": sorted(places), "answers": readable}


def _jsonable(array: np.ndarray) -> list:
    if array.dtype == object:
        return [item.decode("utf-8") if isinstance(item, bytes) else _jsonable(item) for item in array]
    return array.tolist()


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Answer with an exported model, without a server.")
    parser.add_argument("texts", nargs="*", help="texts; the parts of a pair are separated by a tab")
    parser.add_argument("--export", default=Path(__file__).resolve().parents[1], help="folder of the SavedModel")
    parser.add_argument("--json", action="store_true", help="read columns per signature from standard input")
    options = parser.parse_args()

    if options.json:
        print(json.dumps(report(options.export, json.load(sys.stdin))))
        return 0
    # Beside this file, both in the package and in an export's serving/ folder.
    from client import about_model, columns_of, read_rows

    about = about_model()
    outputs = answer(options.export, columns_of(options.texts, about["inputs"]))
    for row in read_rows({name: _jsonable(value) for name, value in outputs.items()}, about["labels"]):
        print(json.dumps(row, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
