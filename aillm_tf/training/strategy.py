"""Which devices train: `tf.distribute` strategies by name, and the precision that suits them."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import tensorflow as tf

NAMES = ("auto", "one", "mirrored", "multi_worker", "tpu")


@cache
def _tpu() -> tf.distribute.TPUStrategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu="local")
    except Exception as error:
        raise RuntimeError(
            f"no TPU could be opened here ({type(error).__name__}: {error}). Run `aillm doctor`; tpu/README.md says "
            "which packages a TPU VM needs (tensorflow-tpu 2.20.0 with libtpu 0.0.21.1)"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def strategy(name: str = "auto") -> tf.distribute.Strategy:
    """A `tf.distribute` strategy.

    Args:
        name: "auto" (TPU, else all GPUs, else one device), "one", "mirrored" (all GPUs, or all logical CPU devices),
            "multi_worker" (the cluster of TF_CONFIG; call it before any other TensorFlow op), or "tpu" (the chips of
            this host).

    Returns:
        The strategy; build the model within its `scope()`.

    Raises:
        ValueError: unknown name.
        RuntimeError: the hardware asked for is not there.

    Example:
        >>> with strategy("one").scope():
        ...     pass
    """
    if name not in NAMES:
        raise ValueError(f"unknown strategy {name!r}: choose from {', '.join(NAMES)}")
    if name == "multi_worker":  # before anything looks at devices: it must configure them first
        return tf.distribute.MultiWorkerMirroredStrategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        if tf.config.list_physical_devices("TPU"):
            name = "tpu"
        else:
            name = "mirrored" if len(gpus) > 1 else "one"
    if name == "tpu":
        return _tpu()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy([d.name for d in gpus or tf.config.list_logical_devices("CPU")])
    return tf.distribute.OneDeviceStrategy(gpus[0].name if gpus else "/CPU:0")


def cpu_flags() -> set[str]:
    """Instruction sets of this machine's CPU, as Linux names them; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not info.exists():
        return set()
    return set(next((line for line in info.read_text().splitlines() if line.startswith("flags")), "").split())


def precision(name: str = "auto") -> str:
    """A Keras dtype policy name: "auto" is mixed_bfloat16 where the hardware multiplies bfloat16, else float32."""
    if name != "auto":
        return name
    if tf.config.list_physical_devices("TPU"):
        return "mixed_bfloat16"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return "mixed_bfloat16" if capability >= (8, 0) else "float32"
    return "mixed_bfloat16" if cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"
