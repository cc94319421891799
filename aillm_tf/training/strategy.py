"""Which devices train: `tf.distribute` strategies by name, and the precision that suits them."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import keras
import tensorflow as tf

from aillm_tf import chips, machine
from aillm_tf.training import cluster as clusters

NAMES = ("auto", "one", "mirrored", "multi_worker", "tpu")


def on_jax() -> bool:
    """Whether Keras computes with JAX."""
    if keras.backend.backend() not in ("tensorflow", "jax"):
        raise RuntimeError(
            f"KERAS_BACKEND is {keras.backend.backend()}: set it to tensorflow, or to jax for meshes of devices"
        )
    return keras.backend.backend() == "jax"


def current():
    """The strategy in whose scope this is called."""
    if not on_jax():
        return tf.distribute.get_strategy()
    from aillm_tf.training import layouts

    return layouts.current()


def trains_on_tpu() -> bool:
    """Whether what is made here computes on TPUs."""
    if not on_jax():
        return isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
    import jax

    return jax.default_backend() == "tpu"


def of_several_processes(strategy) -> bool:
    """Whether other processes train with this one."""
    if not isinstance(strategy, tf.distribute.Strategy):
        return len(strategy.processes) > 1
    return strategy.extended._in_multi_worker_mode()


@cache
def _tpu() -> tf.distribute.TPUStrategy:
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    if len(hosts) > 1:
        raise RuntimeError(
            f"this TPU has {len(hosts)} hosts, of which TensorFlow would open one and wait for the others: start the "
            "program with KERAS_BACKEND=jax on all of them, or use a TPU of a single host, such as v5e:2x4"
        )
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu="local")
    except Exception as error:
        raise RuntimeError(
            f"no TPU could be opened ({type(error).__name__}): {chips.why_no_tpu(machine.versions())}"
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
    name: str = "auto",
    *,
    mesh: str | None = None,
    layout: str = "tensor_parallel",
    cluster: Sequence[str] | None = None,
    worker: int | None = None,
    timeout: float = 300.0,
) -> tf.distribute.Strategy:
    """A `tf.distribute` strategy; with KERAS_BACKEND=jax a `aillm_tf.training.layouts.JaxStrategy` in its place.

    Args:
        name: "auto" (TPU, else all GPUs, else one device), "one", "mirrored" (all GPUs, or all logical CPU devices),
            "multi_worker" (several processes, each with its GPUs or CPU; call it before any other TensorFlow op), or
            "tpu" (the chips of this host). Under JAX, "auto" (all devices, of all hosts of a TPU), "one",
            "multi_worker" (several processes, each with all its devices; call it before any JAX op), or "tpu" (as
            "auto", and an error where there is none).
        mesh: of JAX: devices along each axis, as in "data=4,model=2"; None: all along `data`.
        layout: of JAX: how weights lie on the mesh, "tensor_parallel" or "fully_sharded".
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
    if on_jax():
        from aillm_tf.training import layouts

        return layouts.open_devices(name, mesh, layout, cluster, worker, timeout)
    if mesh is not None:
        raise ValueError(f"mesh {mesh!r} is for JAX: start the program with KERAS_BACKEND=jax")
    if name == "multi_worker":  # before anything looks at devices: it must configure them first
        return _multi_worker(clusters.find(cluster or (), worker), timeout)
    problem = chips.packages_problem(machine.versions())
    if problem:  # TensorFlow would abort at the next line
        raise RuntimeError(problem)
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


def listen_for_profiler() -> None:
    """Where AILLM_PROFILER_PORT is set, as tpu/launch.sh does: lets tpu/profile.sh take traces of this process."""
    port = os.environ.get("AILLM_PROFILER_PORT")
    if not port:
        return
    if on_jax():
        import jax

        jax.profiler.start_server(int(port))
    else:
        tf.profiler.experimental.server.start(int(port))


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
    if on_jax():
        import jax

        if jax.default_backend() == "gpu":
            return "mixed_bfloat16" if float(jax.devices()[0].compute_capability) >= 8 else "float32"
        if jax.default_backend() == "tpu":
            return "mixed_bfloat16"
    elif tf.config.list_physical_devices("TPU"):
        return "mixed_bfloat16"
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability", (0, 0))
        return "mixed_bfloat16" if capability >= (8, 0) else "float32"
    return "mixed_bfloat16" if cpu_flags() & {"avx512_bf16", "amx_bf16"} else "float32"
