"""Preflight of a mesh: what goes with it, and, where the TPU compiler is installed, what a chip of one holds."""

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from aillm_tf.cli import main
from aillm_tf.tpu.compiler import INSTALL
from aillm_tf.tpu.mesh import environment, laid_on
from aillm_tf.tpu.topology import topology
from aillm_tf.verbs import tpu as verb

PROGRAM = Path(__file__).with_name("mesh_program.py")
installed = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("jax", "libtpu")),
    reason=f"the TPU compiler is not installed: {INSTALL}",
)
PREFLIGHT = ["tpu", "preflight", "pretrain", "--data.train", "corpus.txt"]


def test_the_environment_of_jax_keeps_other_flags_and_changes_once():
    before = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2 --xla_dump_to=x", "HOME": "/", "PYTHONPATH": "a"}
    found = environment(8, before)
    assert (found["KERAS_BACKEND"], found["JAX_PLATFORMS"], found["HOME"]) == ("jax", "cpu", "/")
    assert found["XLA_FLAGS"] == "--xla_dump_to=x --xla_force_host_platform_device_count=8"
    assert environment(8, found) == found


def test_rows_are_split_over_the_axis_data():
    slice = laid_on(topology("v5e:2x4"), "data=4,model=2")
    assert (slice.devices, slice.replicas, slice.chips) == (8, 4, 8)


@pytest.mark.parametrize(
    ("mesh", "told"),
    [
        ("data=4", "data=4 has 4 devices, v5e:2x4 has 8: give --mesh data=8,model=1, or a --topology of 4 chips"),
        ("data=4,model=4", "has 16 devices, v5e:2x4 has 8: give --mesh data=2,model=4, or a --topology of 16 chips"),
        ("data=4,model=3", "has 12 devices, v5e:2x4 has 8: give --mesh data=8, or a --topology of 12 chips"),
        ("rows=8", "as in data=8 or data=4,model=2"),
    ],
)
def test_a_mesh_of_other_devices_than_the_slice_has_is_refused_with_both_numbers(mesh, told):
    with pytest.raises(ValueError, match=told):
        laid_on(topology("v5e:2x4"), mesh)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        ([*PREFLIGHT, "--layout", "fully_sharded"], "give --mesh too"),
        ([*PREFLIGHT, "--mesh", "data=8", "--step", "train,evaluate"], "leave --step out"),
        (["tpu", "lint", *PREFLIGHT[2:], "--mesh", "data=8"], "leave --mesh out"),
    ],
)
def test_what_does_not_go_with_a_mesh_is_refused(argv, told, capsys):
    with pytest.raises(SystemExit):
        main(argv)
    assert told in capsys.readouterr().err


def test_a_mesh_without_jax_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(verb.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main([*PREFLIGHT, "--mesh", "data=8"])
    assert "pip install" in capsys.readouterr().err


@pytest.mark.parametrize(("what", "told"), [("preflight", "--mesh data=8"), ("lint", "lint reads TensorFlow's step")])
def test_jax_without_a_mesh_says_what_to_give(what, told, capsys, monkeypatch):
    monkeypatch.setattr("aillm_tf.training.strategy.on_jax", lambda: True)
    with pytest.raises(SystemExit):
        main(["tpu", what, *PREFLIGHT[2:]])
    error = capsys.readouterr().err
    assert told in error and "KERAS_BACKEND=tensorflow" in error


def test_the_command_begins_anew_in_a_process_with_as_many_devices_as_the_slice(monkeypatch):
    asked = {}

    def pretend(command, env):
        asked.update(command=command, env=env)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(verb.subprocess, "run", pretend)
    find = importlib.util.find_spec
    monkeypatch.setattr(verb.importlib.util, "find_spec", lambda name: name == "jax" or find(name))
    options = ["--mesh", "data=4,model=4", "--topology", "v5e:4x4"]
    assert main([*PREFLIGHT, *options]) == 3
    assert asked["command"][1:] == ["-m", "aillm_tf.cli", *PREFLIGHT, *options]
    assert asked["env"]["XLA_FLAGS"].endswith("device_count=16")


# What compilers say ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Of a small pretraining."""
    draw, words = random.Random(0), "a stirring and funny film about the end of long war told with wit heart".split()
    corpus = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    corpus.write_text("\n".join(" ".join(draw.choices(words, k=30)) for _ in range(200)), encoding="utf-8")
    return ["--data.train", str(corpus), "--model.preset", "tiny", "--model.max_length", "64"]


@installed
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tensor_parallel", "fully_sharded"])
def test_a_chip_holds_exactly_what_the_compiler_counts_as_arguments(layout, options):
    more = ["--training.accumulate", "2", "--training.spike_guard", "4", "--training.ema", "0.9"]
    command = [sys.executable, str(PROGRAM), "data=4,model=2", layout, *options, *more]
    env = environment(8, {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"})
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=570)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert sum(found["held"].values()) == found["counted"]


@pytest.fixture(scope="module")
def found(options, tmp_path_factory):
    """Options of a mesh -> what preflight finds; each is compiled once."""
    cache = tmp_path_factory.mktemp("cache")

    def found(mesh: str) -> dict:
        command = [sys.executable, "-m", "aillm_tf.cli", "tpu", "preflight", "pretrain", *options, "--json"]
        env = {**os.environ, "AILLM_CACHE": str(cache)}
        done = subprocess.run([*command, *mesh.split()], capture_output=True, text=True, env=env, timeout=570)
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)[0]

    return found


REPLICAS, TENSOR_PARALLEL = "--mesh data=8", "--mesh data=4,model=2"
FULLY_SHARDED = "--mesh data=4,model=2 --layout fully_sharded"


@installed
@pytest.mark.slow
@pytest.mark.parametrize("mesh", [TENSOR_PARALLEL, FULLY_SHARDED], ids=["tensor parallel", "fully sharded"])
def test_a_mesh_compiles_for_a_slice_and_updates_its_state_in_place(mesh, found):
    said = found(mesh)
    memory, compiler = said["memory"], said["compiler"]
    assert said["mesh"] == "data=4,model=2"
    assert compiler["flops"] > 0 and compiler["collectives"]
    # tiles that shards of so small a model do not fill are the rest
    held = sum(memory[kind] for kind in ("weights", "optimizer", "batch"))
    assert 0.8 * compiler["argument_bytes"] < held <= compiler["argument_bytes"]
    assert compiler["alias_bytes"] >= memory["weights"] + memory["optimizer"]


@installed
@pytest.mark.slow
def test_a_chip_of_a_fully_sharded_mesh_holds_little_more_than_its_share_of_the_weights(found):
    whole, sharded = (found(mesh)["memory"]["weights"] for mesh in (REPLICAS, FULLY_SHARDED))
    assert whole / 8 < sharded < whole / 5  # vectors are whole on every chip
