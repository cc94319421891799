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

import keras
import tensorflow as tf

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
    devices = keras.distribution.list_devices()
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

    def scope(self) -> contextlib.AbstractContextManager:
        """Within this context variables are laid on the mesh when they are made."""
        return self.distribution.scope()

    def sharding(self, *axes: str | None):
        """A `jax.sharding.NamedSharding` of tensors whose first dimensions these axes split."""
        import jax

        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(*axes))

    def distribute_datasets_from_function(self, function) -> tf.data.Dataset:
        """A step's slices for all replicas as one element, one more dimension in front."""
        context = tf.distribute.InputContext(num_replicas_in_sync=self.num_replicas_in_sync)
        return function(context).batch(self.num_replicas_in_sync).prefetch(2)


def current() -> JaxStrategy:
    """The strategy in whose scope this is called, else one of a single device."""
    found = keras.distribution.distribution()
    return _of(found or keras.distribution.DataParallel(devices=keras.distribution.list_devices()[:1]))


@functools.lru_cache(maxsize=1)
def _of(distribution: keras.distribution.Distribution) -> JaxStrategy:
    leave_devices_to_jax()
    return JaxStrategy(distribution)


def open_devices(name: str, mesh: str | None, layout: str) -> JaxStrategy:
    """The strategy that `aillm_tf.strategy` gives under the JAX backend.

    Args:
        name: "auto" (all devices, or those of the mesh) or "one".
        mesh, layout: see `distribution`.

    Raises:
        ValueError: a strategy of TensorFlow, or what `distribution` raises.
        RuntimeError: this is one of several JAX processes.
    """
    import jax

    if name not in ("auto", "one"):
        raise ValueError(
            f"strategy {name!r} is TensorFlow's, and KERAS_BACKEND is jax: leave it at auto and say with mesh "
            "(data=4,model=2) how the devices are used, or start the program with KERAS_BACKEND=tensorflow"
        )
    if jax.process_count() > 1:
        raise RuntimeError(
            "under JAX one process trains on all devices of one machine; for several machines use "
            "KERAS_BACKEND=tensorflow with the strategy multi_worker or tpu"
        )
    return _of(distribution("data=1" if name == "one" else mesh, layout))


def leave_devices_to_jax() -> None:
    """TensorFlow only reads the data then; it must not take the memory of GPUs."""
    with contextlib.suppress(RuntimeError):  # it has looked at its devices before: too late
        tf.config.set_visible_devices([], "GPU")
