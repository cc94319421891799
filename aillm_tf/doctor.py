"""``aillm doctor``: is this machine ready to train, and if not, what to do.

Packages are judged by their metadata first. Only then is TensorFlow tried, in a process of its own: a libtpu without
TensorFlow's runtime does not raise, it aborts whoever touches a device.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version

from aillm_tf import chips, machine
from aillm_tf.weights.resolve import cache_folder

TENSORFLOW = ("2.20", "2.22")  # from .. below
PYTHON = ("3.10", "3.14")  # from .. below
BF16_FLAGS = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX-BF16", "bf16": "Arm BF16"}

PROBE = """
import json, time
import tensorflow as tf
import tensorflow_text
def seconds(dtype):
    a = tf.ones((1024, 1024), dtype)
    tf.matmul(a, a)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        tf.matmul(a, a).numpy()
        times.append(time.perf_counter() - start)
    return min(times)
devices = tf.config.list_physical_devices()
if any(device.device_type == "TPU" for device in devices):
    timing = {}
else:
    timing = {"float32": seconds(tf.float32), "bfloat16": seconds(tf.bfloat16)}
names = [tf.config.experimental.get_device_details(d).get("device_name", d.name) if d.device_type == "GPU" else d.name
         for d in devices]
print(json.dumps({"devices": names, "types": [d.device_type for d in devices], "matmul_seconds": timing}))
"""


class Finding(NamedTuple):
    """Something the user should know; a problem stops training, a note does not."""

    problem: bool
    text: str


def examine(timeout: float = 180.0) -> int:
    """Prints what this machine has and what is wrong with it.

    Args:
        timeout: seconds that TensorFlow may take to import and list its devices.

    Returns:
        1 if there is a problem, else 0.
    """
    versions = machine.versions()
    findings = check_packages(versions) + check_settings(os.environ)
    _print_table("versions", versions)

    flags = machine.cpu_flags()
    facts = {"cpu": machine.cpu_model(), "cores": machine.cores(), "memory": f"{machine.memory_gib() or 0:.1f} GiB"}
    facts["bf16 instructions"] = ", ".join(name for flag, name in BF16_FLAGS.items() if flag in flags) or "none"
    folder, free = cache_folder(), shutil.disk_usage(_existing(cache_folder())).free / 2**30
    facts["cache"] = f"{folder} ({free:.0f} GiB free)"
    if not os.access(_existing(folder), os.W_OK):
        findings.append(Finding(True, f"the cache folder {folder} cannot be written: set AILLM_CACHE to another"))
    if free < 2:
        findings.append(Finding(False, f"only {free:.1f} GiB free for the cache in {folder}: set AILLM_CACHE"))

    if any(finding.problem for finding in findings):
        facts["devices"] = "not looked for: fix the problems below first"
    else:
        probed, problem = probe_tensorflow(timeout)
        if problem:
            findings.append(problem)
        else:
            facts["devices"] = ", ".join(probed["devices"])
            findings += check_devices(probed) + check_tpu(probed, versions)
    _print_table("machine", facts)

    for finding in sorted(findings, key=lambda finding: not finding.problem):
        print(f"{'PROBLEM' if finding.problem else 'note'}: {finding.text}")
    problems = sum(finding.problem for finding in findings)
    print(f"\n{problems} problem{'s' * (problems != 1)} found" if problems else "\nready to train")
    return 1 if problems else 0


def check_packages(versions: Mapping[str, str]) -> list[Finding]:
    """Judges the installed versions without importing any of them.

    Args:
        versions: package name -> version, as machine.versions gives them.

    Returns:
        What is missing, in conflict, or out of the range that is tested.

    Example:
        >>> check_packages({"python": "3.11.7", "tensorflow": "2.21.0", "tensorflow-text": "2.21.1", "keras": "3.15.1"})
        []
    """
    findings = []
    tpu = versions.get("tensorflow-tpu")
    tensorflow = tpu or versions.get("tensorflow")
    if not tensorflow:
        findings.append(Finding(True, "TensorFlow is not installed: pip install 'tensorflow>=2.20,<2.22'"))
    elif not _within(tensorflow, TENSORFLOW):
        findings.append(Finding(False, f"TensorFlow {tensorflow} is untested here: 2.20 and 2.21 are supported"))
    problem = chips.packages_problem(versions)
    if problem:
        findings.append(Finding(True, problem))
    text = versions.get("tensorflow-text")
    if not text:
        how = "pip install --no-deps tensorflow-text" if tpu else "pip install tensorflow-text"
        findings.append(Finding(True, f"tensorflow-text is not installed: {how}=={_minor(tensorflow or '2.21')}.*"))
    elif tensorflow and _minor(text) != _minor(tensorflow):
        findings.append(
            Finding(
                True,
                f"tensorflow-text {text} does not load into TensorFlow {tensorflow}: "
                f"pip install {'--no-deps ' if tpu else ''}tensorflow-text=={_minor(tensorflow)}.*",
            )
        )
    keras = versions.get("keras")
    if not keras or Version(keras) < Version("3.12"):
        findings.append(Finding(True, f"Keras 3.12 or newer is needed, not {keras}: pip install 'keras>=3.12'"))
    if not _within(versions["python"], PYTHON):
        findings.append(Finding(False, f"Python {versions['python']} is untested here: 3.10 to 3.13 are supported"))
    return findings


def check_settings(environment: Mapping[str, str]) -> list[Finding]:
    """Judges environment variables and Keras's own settings file.

    Args:
        environment: such as os.environ.

    Returns:
        Settings that would make TensorFlow or Keras something else than this package needs.
    """
    findings = []
    settings = Path(environment.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    backend, source = environment.get("KERAS_BACKEND"), "KERAS_BACKEND"
    if not backend and settings.is_file():
        source = str(settings)
        try:
            backend = json.loads(settings.read_text(encoding="utf-8")).get("backend")
        except (ValueError, OSError, AttributeError):
            findings.append(Finding(False, f"{settings} cannot be read as JSON: delete it, Keras writes a new one"))
    if backend and backend not in ("tensorflow", "jax"):
        findings.append(Finding(True, f"{source} makes Keras use {backend}: set KERAS_BACKEND=tensorflow, or jax"))
    if environment.get("TF_USE_LEGACY_KERAS", "0").lower() in ("1", "true"):
        findings.append(Finding(True, "TF_USE_LEGACY_KERAS selects Keras 2: unset it"))
    return findings


def check_devices(probed: Mapping) -> list[Finding]:
    """Advice from what TensorFlow sees: an idle GPU, and whether bfloat16 pays.

    Args:
        probed: ``types`` (device types) and ``matmul_seconds`` (dtype -> seconds of a 1024 x 1024 matmul).
    """
    findings = []
    has_gpu_driver = Path("/proc/driver/nvidia/version").exists()
    if has_gpu_driver and not {"GPU", "TPU"} & set(probed["types"]):
        findings.append(
            Finding(False, "an NVIDIA driver is here but TensorFlow sees no GPU: pip install 'tensorflow[and-cuda]'")
        )
    timing = probed["matmul_seconds"]
    if timing:
        ratio = timing["float32"] / timing["bfloat16"]
        advice = "use mixed_bfloat16" if ratio > 1.2 else "float32 is as good here" if ratio > 0.8 else "use float32"
        findings.append(Finding(False, f"a bfloat16 matmul takes 1/{ratio:.1f} of float32's time: {advice}"))
    elif "TPU" in probed["types"]:
        findings.append(Finding(False, "TPUs multiply in bfloat16: use mixed_bfloat16"))
    return findings


def check_tpu(probed: Mapping, versions: Mapping[str, str]) -> list[Finding]:
    """Why TensorFlow sees no TPU, where this machine has one or tensorflow-tpu is installed.

    Args:
        probed: ``types`` (device types).
        versions: package name -> version.
    """
    has_chips = chips.chips().count > 0
    if "TPU" in probed["types"] or not (has_chips or "tensorflow-tpu" in versions):
        return []
    where = "" if has_chips else ". Until then TensorFlow computes on what there is"
    return [Finding(has_chips, f"no TPU for TensorFlow: {chips.why_no_tpu(versions)}{where}")]


def probe_tensorflow(timeout: float, code: str = PROBE) -> tuple[dict, Finding | None]:
    """Imports TensorFlow in a process of its own and lists its devices.

    Args:
        timeout: seconds.
        code: Python that prints one line of JSON last.

    Returns:
        What it printed, and no problem; or nothing, and the problem.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "1"},
        )
    except subprocess.TimeoutExpired:
        text = f"TensorFlow did not list its devices within {timeout:.0f} s: is another process holding the TPU or GPU?"
        return {}, Finding(True, text)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1]), None
    last = (done.stderr.strip() or "no message").splitlines()[-1]
    how = f"was killed by signal {-done.returncode}" if done.returncode < 0 else "failed"
    return {}, Finding(True, f"importing TensorFlow and listing its devices {how}: {last}")


def _within(version: str, bounds: tuple[str, str]) -> bool:
    return Version(bounds[0]) <= Version(version) < Version(bounds[1])


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is already there."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _print_table(title: str, rows: Mapping) -> None:
    width = max(map(len, rows))
    print(f"{title}\n" + "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items()) + "\n", flush=True)
