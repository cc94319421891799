import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.export import serving
from aillm_tf.export.client import read_rows
from aillm_tf.export.reload import answer

# From tensorflow-serving-api 2.21.0:
#   log = prediction_log_pb2.PredictionLog(); request = log.predict_log.request
#   request.model_spec.name = "text_classifier"; request.model_spec.signature_name = "serving_default"
#   request.inputs["text"].CopyFrom(tf.make_tensor_proto(["good", "差"], tf.string, shape=(2,)))
#   log.SerializeToString(deterministic=True).hex()
GOLDEN = (
    "32430a410a220a0f746578745f636c61737369666965721a0f73657276696e675f64656661756c74"
    "121b0a0474657874121308071204120208024204676f6f644203e5b7ae"
)


def test_prediction_log_is_what_tensorflow_serving_api_encodes():
    assert serving.prediction_log("text_classifier", {"text": ["good", "差"]}).hex() == GOLDEN


def test_lengths_past_one_byte_are_varints():
    assert serving._field(2, b"x" * 300)[:3] == bytes([2 << 3 | 2, 0b10101100, 0b10])


def test_warmup_file_has_one_row_and_all_rows(exported):
    path = Path(exported[1]["path"], serving.WARMUP_FILE)
    sizes = [len(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    assert len(sizes) == 2
    assert sizes[0] < sizes[1]


def run_sh(export: Path, tmp_path: Path, *arguments: str) -> str:
    """Runs serving/run.sh with programs that print their command line."""
    for name in ("docker", "tensorflow_model_server"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\necho {name} "$@"\n')
        program.chmod(0o755)
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    command = ["sh", str(export / "serving" / "run.sh"), *arguments]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=True).stdout.strip()


def test_run_sh_starts_docker_on_the_model_config(exported, tmp_path):
    export = Path(exported[1]["path"])
    line = run_sh(export, tmp_path)
    assert line.startswith("docker run --rm -p 8500:8500 -p 8501:8501")
    assert f"{export}:/models/text_classifier/1:ro" in line
    assert line.endswith("tensorflow/serving:latest --model_config_file=/models/models.config")
    config = (export / "serving" / "models.config").read_text()
    assert 'name: "text_classifier"' in config
    assert 'base_path: "/models/text_classifier"' in config


def test_run_sh_binary_serves_the_folder_of_versions(exported, tmp_path):
    export = Path(exported[1]["path"])
    line = run_sh(export, tmp_path, "binary")
    assert line.startswith("tensorflow_model_server --port=8500 --rest_api_port=8501 --model_name=text_classifier")
    assert line.endswith(f"--model_base_path={export.parent}")


def test_run_sh_binary_gives_a_folder_without_a_number_the_version_1(exported, tmp_path):
    (tmp_path / "latest").symlink_to(exported[1]["path"])
    base = Path(run_sh(tmp_path / "latest", tmp_path, "binary").split("--model_base_path=")[1])
    assert (base / "1" / "saved_model.pb").exists()


@pytest.fixture
def server(exported):
    """Answers TF Serving's REST predict call from the export; yields its address and the requests it got."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append((self.path, request))
            if self.path != "/v1/models/text_classifier:predict":
                return self.reply(404, {"error": "Servable not found for request"})
            outputs = answer(exported[1]["path"], request["inputs"])
            columns = {name: column.tolist() for name, column in outputs.items()}
            columns["label"] = [label.decode() for label in columns["label"]]
            return self.reply(200, {"outputs": columns})

        def reply(self, status, body):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body, indent=1).encode())

        def log_message(self, *_):
            pass

    http = HTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://localhost:{http.server_port}", requests
    http.shutdown()
    http.server_close()


def client(export: str, *arguments: str, **options) -> subprocess.CompletedProcess:
    script = str(Path(export, "serving", "client.py"))
    # -S -I: nothing but the standard library can be imported.
    command = [sys.executable, "-S", "-I", script, *arguments]
    return subprocess.run(command, capture_output=True, encoding="utf-8", **options)


def test_client_asks_tf_serving_and_prints_an_answer_a_line(exported, server):
    address, requests = server
    texts = ["The film was good.", "酒店差!"]
    done = client(exported[1]["path"], "--server", address, *texts)
    assert done.returncode == 0, done.stderr
    path, request = requests[0]
    assert path == "/v1/models/text_classifier:predict"
    assert request == {"signature_name": "serving_default", "inputs": {"text": texts}}
    got = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["label"] for row in got] == [row["label"] for row in exported[0].answer(texts)]
    assert list(got[0]["probabilities"]) == ["negative", "positive"]


def test_client_reads_texts_from_standard_input(exported, server):
    done = client(exported[1]["path"], "--server", server[0], input="good\nbad\n")
    assert len(done.stdout.splitlines()) == 2


def test_client_shows_the_servers_own_words(exported, server, tmp_path):
    other = tmp_path / "serving"
    other.mkdir()
    for name in ("client.py", "model.json"):
        text = Path(exported[1]["path"], "serving", name).read_text(encoding="utf-8")
        (other / name).write_text(text.replace("text_classifier", "another"), encoding="utf-8")
    done = client(str(tmp_path), "--server", server[0], "good")
    assert done.returncode == 1
    assert "404" in done.stderr
    assert "Servable not found" in done.stderr


def test_client_says_when_no_server_answers(exported):
    done = client(exported[1]["path"], "--server", "http://localhost:9", "good")
    assert done.returncode == 1
    assert "is the server up?" in done.stderr


def test_client_reads_many_labels_as_the_task_does(make_task):
    task = make_task(multi_label=True, labels=["fast", "good", "cheap"])
    rows = read_rows({"probabilities": [[0.5, 0.2, 0.9], [0.1, 0.2, 0.3]]}, task.labels)
    probabilities = np.array([[0.5, 0.2, 0.9], [0.1, 0.2, 0.3]])
    assert rows == task.read_answers({"probabilities": probabilities})
