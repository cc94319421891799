"""Facts about this machine, without TensorFlow."""

import subprocess
import sys
from pathlib import Path

from aillm_tf import machine


def test_versions_name_python_and_this_package():
    assert {"python", "aillm_tf"} <= set(machine.versions())


def test_hardware_has_cores_and_memory():
    facts = machine.hardware()
    assert facts["cores"] >= 1
    assert facts["cpu"]
    assert facts["memory_gib"] is None or facts["memory_gib"] > 0.1


def test_container_limits_count(monkeypatch):
    files = {"/sys/fs/cgroup/cpu.max": "150000 100000\n", "/sys/fs/cgroup/memory.max": str(2**28) + "\n"}
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path, ""))
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert machine.cores() == 2
    assert machine.memory_gib() == 0.25


def test_tensorflow_is_not_imported():
    code = (
        "import sys; from aillm_tf import machine as m; m.hardware(), m.versions(); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "False\n"
