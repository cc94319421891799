"""What is said where the hardware asked for is not there, and the port for profiles."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aillm_tf import machine
from aillm_tf.training.strategy import strategy

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["auto", "tpu", "one"])
def test_a_libtpu_that_would_abort_is_told_before_tensorflow_touches_a_device(name, monkeypatch):
    versions = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.52"}
    monkeypatch.setattr(machine, "versions", lambda: versions)
    with pytest.raises(RuntimeError, match=r"pip install libtpu==0\.0\.21\.1"):
        strategy(name)


def test_a_tpu_of_several_hosts_is_told(monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "10.0.0.1,10.0.0.2")
    with pytest.raises(RuntimeError, match="2 hosts"):
        strategy("tpu")


def run(code, **environment):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_the_tpu_strategy_says_why_there_is_no_tpu():
    process = run("import aillm_tf as ai; ai.strategy('tpu')")
    output = process.communicate(timeout=120)[0]
    if process.returncode == 0:
        pytest.skip("this machine has a TPU")
    assert "RuntimeError: no TPU could be opened" in output.splitlines()[-1]
    assert "TPU chip" in output.splitlines()[-1]


@pytest.mark.slow
def test_a_trace_can_be_taken_of_a_process_that_was_given_a_port(tmp_path):
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "from aillm_tf.training.options import Training, open_strategy\n"
        "open_strategy(Training())\n"
        "import tensorflow as tf\n"
        "while True: tf.matmul(tf.ones((64, 64)), tf.ones((64, 64)))\n"
    )
    process = run(code, AILLM_PROFILER_PORT=str(port))
    try:
        import tensorflow as tf

        end = time.monotonic() + 60
        while socket.socket().connect_ex(("localhost", port)):
            assert time.monotonic() < end and process.poll() is None, "nothing listens"
            time.sleep(0.2)
        tf.profiler.experimental.client.trace(f"localhost:{port}", str(tmp_path), 500)
        assert list(tmp_path.rglob("*.xplane.pb"))
    finally:
        process.kill()
