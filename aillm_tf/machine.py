"""What this machine and this Python have: versions, processor, memory. Reads files only; never imports TensorFlow."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path

PACKAGES = [
    *("aillm_tf", "tensorflow", "tensorflow-tpu", "libtpu", "tensorflow-text", "keras", "keras-hub", "numpy"),
    *("tokenizers", "safetensors", "transformers", "tensorflow-datasets", "datasets", "jax"),
    *("scikit-learn", "jsonargparse", "tensorboard", "wandb"),
]


def versions() -> dict[str, str]:
    """Version of Python and of each installed package that matters here.

    Example:
        >>> "python" in versions()
        True
    """
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if "aillm_tf" not in found:  # used from a checkout that is not installed
        from aillm_tf.version import __version__

        found["aillm_tf"] = __version__
    return found


def cpu_model() -> str:
    """The processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> set[str]:
    """Instruction sets of the processor, in Linux's spelling; empty where they cannot be read."""
    return set((_cpuinfo("flags") or _cpuinfo("Features") or "").split())


def cores() -> int:
    """Processor cores this process may use, also inside a container with a quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit():
        count = min(count, max(1, -(-int(quota) // int(period))))
    return count


def memory_gib() -> float | None:
    """Main memory this process may use, in GiB, also inside a container with a limit; None where unknown."""
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = _read("/sys/fs/cgroup/memory.max").strip()
    return (min(size, int(limit)) if limit.isdigit() else size) / 2**30


def hardware() -> dict:
    """The machine as a report states it: cpu, cores, memory, and devices if TensorFlow is already loaded."""
    memory = memory_gib()
    facts = {
        "cpu": cpu_model(),
        "cores": cores(),
        "memory_gib": memory and round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        facts["devices"] = [
            tensorflow.config.experimental.get_device_details(device).get("device_name", device.device_type)
            if device.device_type == "GPU"
            else device.device_type
            for device in tensorflow.config.list_logical_devices()
            if device.device_type in ("CPU", "GPU", "TPU")
        ]
    return facts


def _cpuinfo(key: str) -> str | None:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
