"""Which devices train: `tf.distribute` strategies by name, and the precision that suits them."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import tensorflow as tf

from aillm_tf.training import cluster as clusters

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


@cache
def _multi_worker(cluster: clusters.Cluster, timeout: float) -> tf.distribute.Strategy:
    from tensorflow.python.eager import context  # TensorFlow has no public name for the coordination service

    clusters.join(cluster, timeout)
    milliseconds = int(timeout * 1000)
    job = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": list(cluster.addresses)}),
        task_type="worker",
        task_id=cluster.index,
        rpc_layer="grpc",
    )
    if len(cluster.addresses) > 1:
        from tensorflow.compiler.xla.tsl.protobuf import coordination_config_pb2

        context.context().configure_coordination_service(
            service_type="standalone",
            service_leader="/job:worker/replica:0/task:0",
            heartbeat_timeout_in_ms=milliseconds,
            cluster_register_timeout_in_ms=milliseconds,
            shutdown_barrier_timeout_in_ms=milliseconds,
            coordinated_jobs=[coordination_config_pb2.CoordinatedJob(name="worker", num_tasks=len(cluster.addresses))],
        )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=job)
    if len(cluster.addresses) > 1:
        clusters.watch_over_others()
    return strategy


def strategy(
    name: str = "auto", *, cluster: Sequence[str] | None = None, worker: int | None = None, timeout: float = 300.0
) -> tf.distribute.Strategy:
    """A `tf.distribute` strategy.

    Args:
        name: "auto" (TPU, else all GPUs, else one device), "one", "mirrored" (all GPUs, or all logical CPU devices),
            "multi_worker" (several processes, each with its GPUs or CPU; call it before any other TensorFlow op), or
            "tpu" (the chips of this host).
        cluster: of "multi_worker": `host:port` of every worker, the chief first; None: TF_CONFIG, else SLURM says.
        worker: which of them this process is; None: SLURM_PROCID.
        timeout: seconds after which a worker that did not come, or fell silent, is given up.

    Returns:
        The strategy; build the model within its `scope()`.

    Raises:
        ValueError: unknown name, or nothing says who the workers are.
        RuntimeError: the hardware asked for is not there.
        TimeoutError: a worker did not come; names it.

    Example:
        >>> with strategy("one").scope():
        ...     pass
    """
    if name not in NAMES:
        raise ValueError(f"unknown strategy {name!r}: choose from {', '.join(NAMES)}")
    if name == "multi_worker":  # before anything looks at devices: it must configure them first
        return _multi_worker(clusters.find(cluster or (), worker), timeout)
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
