"""The environment of TPU VMs, built here with what PyPI has, judged by `aillm doctor`, and some tests run in it."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A step under several replicas, tokenizers in the graph, an export: what differs most between versions of TensorFlow.
TESTS = ["tests/test_chips.py", "tests/test_doctor.py", "tests/training/test_step.py", "tests/text/test_graph.py"]


def run(*command, **environment):
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tpu") / "env"
    built = run("bash", "tpu/setup_vm.sh", "--local", str(folder), KERAS_BACKEND="tensorflow")
    assert built.returncode == 0, built.stdout + built.stderr
    return folder, built.stdout


@pytest.mark.slow
def test_the_doctor_finds_the_pinned_versions_and_says_that_there_is_no_tpu(environment):
    _, said = environment
    lines = [" ".join(line.split()) for line in said.splitlines()]
    assert {"tensorflow-tpu 2.20.0", "libtpu 0.0.21.1", "tensorflow-text 2.20.1"} <= set(lines)
    assert not any(line.startswith("tensorflow 2") for line in lines)
    if not list(Path("/dev").glob("accel*")):
        assert "note: no TPU for TensorFlow: this machine has no TPU chip" in said
    assert "ready to train" in lines


@pytest.mark.slow
def test_tests_pass_in_it(environment):
    folder, _ = environment
    done = run(f"{folder}/bin/python", "-m", "pytest", "-q", "-n", "1", "-p", "no:cacheprovider", *TESTS)
    assert done.returncode == 0, done.stdout[-3000:]
