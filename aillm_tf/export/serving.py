"""The files that TensorFlow Serving and its users want beside a SavedModel.

    assets.extra/tf_serving_warmup_requests   requests the server runs before it says it is ready
    serving/README.md, run.sh                 how to start a server: docker, or a tensorflow_model_server binary
    serving/models.config                     the server's model list
    serving/client.py, local.py, model.json   ask the server; answer without one

They lie inside the version folder: TF Serving scans the folder above it for versions.

Reference:
    https://www.tensorflow.org/tfx/serving/serving_config and /saved_model_warmup
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from aillm_tf.export import client, reload

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _field(number: int, payload: bytes) -> bytes:
    """Encodes a length-delimited protobuf field (a string or a nested message)."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def prediction_log(model: str, columns: Mapping[str, Sequence[str]]) -> bytes:
    """Encodes the ``PredictionLog`` of one predict request on ``serving_default``.

    The three messages around TensorFlow's own ``TensorProto`` are written as wire format, because the package
    tensorflow-serving-api would bring gRPC along for them.

    Args:
        model: Name of the model on the server.
        columns: Input name to texts (rows,).

    Returns:
        The serialized message.

    Reference:
        tensorflow_serving/apis/{prediction_log,predict,model}.proto:
        PredictionLog.predict_log = 6; PredictLog.request = 1; PredictRequest.model_spec = 1, .inputs = 2 (a map:
        key = 1, value = 2); ModelSpec.name = 1, .signature_name = 3.
    """
    model_spec = _field(1, model.encode()) + _field(3, b"serving_default")
    request = _field(1, model_spec)
    for name, texts in columns.items():
        tensor = tf.make_tensor_proto(list(texts), tf.string, shape=(len(texts),))
        request += _field(2, _field(1, name.encode()) + _field(2, tensor.SerializeToString()))
    return _field(6, _field(1, request))


def write_warmup(folder: Path, model: str, requests: Sequence[Mapping[str, Sequence[str]]]) -> None:
    """Writes the requests that TF Serving runs while it loads the model.

    Args:
        folder: The export.
        model: Name of the model on the server.
        requests: One mapping of input name to texts for each request; at most 1,000, TF Serving's own bound.
    """
    path = folder / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for columns in requests:
            writer.write(prediction_log(model, columns))


def write_serving(
    folder: Path,
    model: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    labels: Sequence[str],
    example: str,
    **facts: str | bool,
) -> None:
    """Writes the ``serving/`` folder of an export.

    Args:
        folder: The export.
        model: Name of the model on the server.
        inputs: Names of the string inputs.
        outputs: Names of the outputs.
        labels: Labels by class id; empty where the task has none.
        example: A text for the commands in the README.
        **facts: What else model.json says: what `aillm evaluate` has to know of the task.
    """
    serving = folder / "serving"
    serving.mkdir()
    about = {"name": model, "inputs": list(inputs), "outputs": list(outputs), "labels": list(labels), **facts}
    (serving / "model.json").write_text(json.dumps(about, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(client.__file__, serving / "client.py")
    shutil.copyfile(reload.__file__, serving / "local.py")
    (serving / "models.config").write_text(_MODELS_CONFIG.replace("MODEL", model), encoding="utf-8")
    (serving / "run.sh").write_text(_RUN.replace("MODEL", model), encoding="utf-8")
    (serving / "run.sh").chmod(0o755)
    request = json.dumps({"inputs": {name: [example] for name in inputs}}, ensure_ascii=False)
    text = "\\t".join([example] * len(inputs))
    quoted = f"$'{text}'" if len(inputs) > 1 else f'"{text}"'
    readme = _README.replace("MODEL", model).replace("REQUEST", request).replace("TEXT", quoted)
    (serving / "README.md").write_text(readme.replace("OUTPUTS", ", ".join(outputs)), encoding="utf-8")


_MODELS_CONFIG = """\
# For --model_config_file. TF Serving serves the highest-numbered folder in base_path.
model_config_list {
  config {
    name: "MODEL"
    base_path: "/models/MODEL"
    model_platform: "tensorflow"
  }
}
"""

_RUN = """\
#!/bin/sh
# Serves this export: gRPC on port 8500, REST on port 8501.
#   run.sh            in docker (image: $TF_SERVING_IMAGE, else tensorflow/serving:latest)
#   run.sh binary     with a tensorflow_model_server on the PATH
set -eu
serving=$(cd "$(dirname "$0")" && pwd)
folder=$(dirname "$serving")
version=$(basename "$folder")
base=$(dirname "$folder")
case "$version" in
  *[!0-9]*) version=1; numbered=no ;;  # TF Serving loads only folders named by a number
  *) numbered=yes ;;
esac

if [ "${1:-docker}" = binary ]; then
  if [ "$numbered" = no ]; then
    base=$(mktemp -d)
    ln -s "$folder" "$base/$version"
  fi
  exec tensorflow_model_server --port=8500 --rest_api_port=8501 --model_name=MODEL --model_base_path="$base"
fi
exec docker run --rm -p 8500:8500 -p 8501:8501 \\
  -v "$folder:/models/MODEL/$version:ro" -v "$serving/models.config:/models/models.config:ro" \\
  "${TF_SERVING_IMAGE:-tensorflow/serving:latest}" --model_config_file=/models/models.config
"""

_README = """\
# Serving MODEL

Start a server (gRPC on 8500, REST on 8501), with docker or with a `tensorflow_model_server` binary:

    ./run.sh
    ./run.sh binary

Ask it, from the shell or from Python, with nothing but the standard library:

    python client.py TEXT
    curl -d 'REQUEST' http://localhost:8501/v1/models/MODEL:predict

Answer without a server, with TensorFlow and tensorflow-text:

    python local.py TEXT

`serving_default` takes strings and gives OUTPUTS. `saved_model_cli show --dir .. --all` lists the other signatures;
where there is one called `tokens`, it takes ids, for callers that tokenize themselves. `model.json` has the names of
inputs, outputs and labels.

New versions: a server that is given the folder above this export (`--model_base_path`) loads the highest-numbered
folder in it, and changes over without a gap when a higher number appears.
"""
