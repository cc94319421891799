"""Meshes of devices for the JAX backend, and how the weights of the layer stack lie on them (`keras.distribution`).

A mesh has the axes `data` and `model`, in this order. Rows of a batch are split over `data`; what `model` splits says
one table, for every family alike, because the stack names its weights alike:

- "tensor_parallel" (Shoeybi et al. 2019, Megatron-LM, arXiv:1909.08053): the first kernel of a sublayer is split by
  columns, the second by rows, token tables and heads by the vocabulary. All else is whole on every device.
- "fully_sharded" (Rajbhandari et al. 2020, ZeRO, arXiv:1910.02054): besides, every matrix is split over `data` too, and
  gathered where it is used: a device holds its share of weights and optimizer state only.

The compiler adds the communication; what is computed stays the same.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from aillm_tf.training import cluster as clusters

logger = logging.getLogger("aillm_tf")

DATA, MODEL = "data", "model"
LAYOUTS = ("tensor_parallel", "fully_sharded")
# The pattern of a variable's path -> which of its dimensions the axis `model` splits.
SPLIT = {
    r".*(attention/qkv|ffn/up)/kernel": (None, MODEL),
    r".*(attention/qkv|ffn/up)/bias": (MODEL,),
    r".*(attention/out|ffn/down)/kernel": (MODEL, None),
    r".*embeddings/token": (MODEL, None),
    r".*backbone/head/kernel": (None, MODEL),
    r".*(backbone/head|mlm)/bias": (MODEL,),
}


def parse_mesh(text: str) -> dict[str, int]:
    """Axis -> devices along it, of a mesh as it is written in options.

    Args:
        text: "data=8", or "data=4,model=2".

    Returns:
        Both axes, `data` first.

    Raises:
        ValueError: it says something else.

    Example:
        >>> parse_mesh("data=4,model=2")
        {'data': 4, 'model': 2}
    """
    sizes = {DATA: 1, MODEL: 1}
    for part in text.split(","):
        name, _, size = (word.strip() for word in part.partition("="))
        if name not in sizes or not size.isdecimal() or not int(size):
            raise ValueError(f"mesh {text!r}: say how many devices lie along each axis, as in data=8 or data=4,model=2")
        sizes[name] = int(size)
    return sizes


def distribution(mesh: str | None = None, layout: str = "tensor_parallel") -> keras.distribution.Distribution:
    """How `keras.distribution` lays weights and batches on devices.

    Args:
        mesh: see `parse_mesh`; None: all devices along `data`.
        layout: one of `LAYOUTS`.

    Returns:
        `DataParallel` where every device holds all weights, else a `ModelParallel`.

    Raises:
        ValueError: an unknown layout, or a mesh of more devices than there are.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout is one of {', '.join(LAYOUTS)}, not {layout!r}")
    devices = _devices()
    sizes = {DATA: len(devices), MODEL: 1} if mesh is None else parse_mesh(mesh)
    wanted = math.prod(sizes.values())
    if wanted > len(devices):
        raise ValueError(
            f"mesh {mesh} wants {wanted} devices, JAX has {len(devices)} ({devices[0]}, ...): give a smaller one. To "
            f"try it on a CPU, set XLA_FLAGS=--xla_force_host_platform_device_count={wanted}"
        )
    if sizes[MODEL] == 1 and layout == "tensor_parallel":
        return keras.distribution.DataParallel(devices=devices[:wanted])
    return Sharded(keras.distribution.DeviceMesh(tuple(sizes.values()), tuple(sizes), devices[:wanted]), layout)


class Sharded(keras.distribution.ModelParallel):
    """`ModelParallel` by the table `SPLIT`. A dimension that an axis does not divide stays whole, and the log says so.

    Args:
        mesh: with the axes `data` and `model`.
        layout: one of `LAYOUTS`.
    """

    def __init__(self, mesh: keras.distribution.DeviceMesh, layout: str):
        table = keras.distribution.LayoutMap(mesh)
        for pattern, axes in SPLIT.items():
            table[pattern] = axes
        super().__init__(layout_map=table, batch_dim_name=DATA)
        self.layout, self.sizes = layout, dict(zip(mesh.axis_names, mesh.shape, strict=True))

    def get_variable_layout(self, variable) -> keras.distribution.TensorLayout:
        """Which axis splits each dimension of a variable."""
        axes = list(super().get_variable_layout(variable).axes)
        for i, axis in enumerate(axes):
            if axis is not None and variable.shape[i] % self.sizes[axis]:
                logger.warning(
                    "%s stays whole: its %d entries are no multiple of the %d devices along %s",
                    variable.path,
                    variable.shape[i],
                    self.sizes[axis],
                    axis,
                )
                axes[i] = None
        if self.layout == "fully_sharded" and len(axes) > 1:
            free = [i for i, axis in enumerate(axes) if axis is None and variable.shape[i] % self.sizes[DATA] == 0]
            if free:
                axes[free[0]] = DATA
        return keras.distribution.TensorLayout(axes, self.device_mesh)


class JaxStrategy:
    """What `fit` asks of a `tf.distribute` strategy, for devices that JAX computes on.

    Args:
        distribution: how weights and batches lie on them.
    """

    def __init__(self, distribution: keras.distribution.Distribution):
        self.distribution, self.mesh = distribution, distribution.device_mesh.backend_mesh
        self.num_replicas_in_sync = self.mesh.shape[distribution.batch_dim_name]
        self.processes = sorted({device.process_index for device in self.mesh.devices.flat})

    def scope(self) -> contextlib.AbstractContextManager:
        """Within this context variables are laid on the mesh when they are made."""
        return self.distribution.scope()

    def sharding(self, *axes: str | None):
        """A `jax.sharding.NamedSharding` of tensors whose first dimensions these axes split."""
        import jax

        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(*axes))

    def distribute_datasets_from_function(self, function) -> tf.data.Dataset:
        """A step's slices for the replicas of this process as one element, one more dimension in front."""
        import jax

        workers = len(self.processes)
        context = tf.distribute.InputContext(
            num_input_pipelines=workers,
            input_pipeline_id=self.processes.index(jax.process_index()),
            num_replicas_in_sync=self.num_replicas_in_sync,
        )
        return function(context).batch(self.num_replicas_in_sync // workers).prefetch(2)

    def put(self, arrays, *axes: str | None):
        """Arrays of NumPy in any nesting on the mesh; each is the part of this process alone along split dimensions."""
        import jax

        return jax.make_array_from_process_local_data(self.sharding(*axes), arrays)

    def of_every_process(self, array) -> np.ndarray:
        """(processes, ...): what each process has given, in the order of their slices; integers are 32 bits wide."""
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(np.asarray(array))[self.processes]


def current() -> JaxStrategy:
    """The strategy in whose scope this is called, else one of a single device."""
    return _of(keras.distribution.distribution() or _one_device())


def _one_device() -> keras.distribution.Distribution:
    import jax

    return keras.distribution.DataParallel(devices=_names(jax.local_devices()[:1]))


def _devices() -> list[str]:
    """All devices as Keras names them, those of one process side by side: they take neighbouring slices of a batch."""
    import jax

    return _names(sorted(jax.devices(), key=lambda device: device.process_index))


def _names(devices) -> list[str]:
    return [f"{device.platform}:{device.id}" for device in devices]


@functools.lru_cache(maxsize=1)
def _of(distribution: keras.distribution.Distribution) -> JaxStrategy:
    leave_devices_to_jax()
    return JaxStrategy(distribution)


def open_devices(
    name: str, mesh: str | None, layout: str, cluster: Sequence[str] | None, worker: int | None, timeout: float
) -> JaxStrategy:
    """The strategy that `aillm_tf.strategy` gives under the JAX backend.

    Args:
        name: "auto" (all devices, or those of the mesh), "one", "multi_worker" or "tpu".
        mesh, layout: see `distribution`.
        cluster, worker, timeout: see `aillm_tf.strategy`.

    Raises:
        ValueError: a strategy of TensorFlow, a mesh that several processes cannot train on, or what `distribution`
            raises.
        RuntimeError: there is no TPU, or JAX has been used before its processes were started.
        TimeoutError: a worker did not come; names it.
    """
    import jax

    if name == "mirrored":
        raise ValueError(
            f"strategy {name!r} is TensorFlow's, and KERAS_BACKEND is jax: leave it at auto and say with mesh "
            "(data=4,model=2) how the devices are used, or start the program with KERAS_BACKEND=tensorflow"
        )
    workers = clusters.find(cluster or (), worker) if name == "multi_worker" else None
    if name == "tpu" or (name == "auto" and "tpu" in (jax.config.jax_platforms or "tpu")):
        workers = clusters.of_tpu()
    several = workers is not None and len(workers.addresses) > 1
    if several:
        if splits_weights(mesh, layout):
            raise ValueError(
                f"mesh {mesh} with the layout {layout} splits weights, which several processes cannot do yet: leave "
                "both out, every device then holds all weights; or train on the devices of one machine"
            )
        _start(workers, timeout, name != "multi_worker")
    if name == "tpu" and jax.default_backend() != "tpu":
        raise RuntimeError(
            f"JAX has found no TPU, it computes on {jax.default_backend()}: `aillm doctor` says what this machine has, "
            "and JAX's installation page which build opens a TPU"
        )
    if name == "one":
        return _of(_one_device())
    if not several and jax.process_count() > 1:
        raise RuntimeError(
            f"this is one of {jax.process_count()} JAX processes, which were not started here: give the strategy "
            "multi_worker on every machine, or on the hosts of a TPU tpu with TPU_WORKER_HOSTNAMES and TPU_WORKER_ID"
        )
    opened = _of(distribution(mesh, layout))
    if several:
        _check_shares(opened)
    return opened


@functools.cache
def _start(workers: clusters.Cluster, timeout: float, on_tpu: bool) -> None:
    from aillm_tf.training import jax_processes

    jax_processes.start(workers, timeout, on_tpu)


def splits_weights(mesh: str | None, layout: str) -> bool:
    """Whether a device holds a part of the weights only; arguments as of `distribution`."""
    return layout != "tensor_parallel" or (mesh is not None and parse_mesh(mesh)[MODEL] > 1)


def _check_shares(strategy: JaxStrategy) -> None:
    """Every process has as many devices as another, and all of them are on the mesh."""
    import jax

    counts = {process: 0 for process in range(jax.process_count())}
    for device in strategy.mesh.devices.flat:
        counts[device.process_index] += 1
    if len(set(counts.values())) > 1:
        raise ValueError(
            "every worker has to train on as many devices as the others, not "
            + ", ".join(f"worker {worker} on {count}" for worker, count in counts.items())
            + ": leave the mesh out, and give all of them the same number of devices"
        )


def leave_devices_to_jax() -> None:
    """TensorFlow only reads the data then; it must not take the memory of GPUs."""
    with contextlib.suppress(RuntimeError):  # it has looked at its devices before: too late
        tf.config.set_visible_devices([], "GPU")
