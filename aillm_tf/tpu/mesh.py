"""The training step under the JAX backend: one program that all chips of a mesh run together (`training/layouts.py`).

JAX lowers the very step of `aillm_tf.training.jax_step` for TPUs, with the shardings of its weights and rows; the TPU
compiler splits it over the chips and adds the communication. JAX wants the devices of the mesh to be there when it
starts: the CPU passes for so many, in a process whose environment says so.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from aillm_tf.tpu.topology import Topology

if TYPE_CHECKING:
    import jax
    import tensorflow as tf

    from aillm_tf.tpu.lower import Program


def environment(devices: int, before: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process in which JAX is the backend and has so many devices, all of them this CPU.

    Args:
        devices: of the mesh.
        before: the environment of this process; one that is as wanted already stays as it is.

    Example:
        >>> environment(8, {"XLA_FLAGS": "--xla_dump_to=/tmp/x"})["XLA_FLAGS"]
        '--xla_dump_to=/tmp/x --xla_force_host_platform_device_count=8'
    """
    count = "--xla_force_host_platform_device_count"
    flags = [flag for flag in before.get("XLA_FLAGS", "").split() if not flag.startswith(count)]
    # wherever the package lies that this process runs
    package = str(Path(__file__).parents[2])
    paths = [path for path in before.get("PYTHONPATH", "").split(os.pathsep) if path not in ("", package)]
    wanted = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join([*flags, f"{count}={devices}"])}
    return {**before, **wanted, "PYTHONPATH": os.pathsep.join([package, *paths])}


def laid_on(slice: Topology, mesh: str) -> Topology:
    """A slice whose devices form a mesh.

    Args:
        slice: the chips.
        mesh: as in "data=4,model=2".

    Raises:
        ValueError: it is no mesh, or one of more or fewer devices than the slice has.
    """
    from aillm_tf.training.layouts import DATA, MODEL, parse_mesh

    sizes = parse_mesh(mesh)
    wanted, there, model = math.prod(sizes.values()), slice.devices, sizes[MODEL]
    if wanted != there:
        fitting = f"{DATA}={there // model},{MODEL}={model}" if there % model == 0 else f"{DATA}={there}"
        raise ValueError(
            f"--mesh {mesh} has {wanted} devices, {slice.name} has {there}: give --mesh {fitting}, or a --topology of "
            f"{wanted} chips"
        )
    return dataclasses.replace(slice, model=model)


def train_program(task, batch: Mapping[str, tf.TensorSpec]) -> Program:
    """Lowers a training step.

    Args:
        task: compiled, made within the scope of a `JaxStrategy`.
        batch: shapes and types of the rows that one device along the axis `data` gets.

    Returns:
        One program for all devices of the mesh; its `bytes` are those of the shards that one device holds.
    """
    import jax

    from aillm_tf.tpu.lower import Program

    step, arguments = traced_step(task, batch)
    text = step.lower(lowering_platforms=("tpu",)).as_text(debug_info=True)  # which names the layers
    held = {kind: sum(map(_shard_bytes, jax.tree.leaves(part))) for kind, part in arguments.items()}
    return Program(text, held, 0, (), task.strategy.mesh.size)


def traced_step(task, batch: Mapping[str, tf.TensorSpec]) -> tuple[jax.stages.Traced, dict[str, tuple]]:
    """A training step that JAX has traced, and its arguments by kind; see `train_program`."""
    import jax
    import numpy as np

    from aillm_tf.training.jax_step import make_step, state_of

    strategy = task.strategy
    whole, rows = strategy.sharding(), strategy.sharding(None, strategy.distribution.batch_dim_name)

    def of_variable(variable):
        where = whole if variable._layout is None else variable._layout.backend_layout
        return jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=where)

    def of_feature(spec: tf.TensorSpec):
        share = strategy.num_replicas_in_sync * spec.shape[0] // task.accumulate
        return jax.ShapeDtypeStruct((task.accumulate, share, *spec.shape[1:]), spec.dtype.as_numpy_dtype, sharding=rows)

    trained = {id(variable) for variable in task.trainable_variables}
    state = jax.tree.map(of_variable, state_of(task))
    fixed = [None if id(variable) in trained else of_variable(variable) for variable in task.variables]
    features = {name: of_feature(spec) for name, spec in batch.items()}
    sound = jax.ShapeDtypeStruct((), np.bool_, sharding=whole)
    # what the step does not read lies on a chip all the same
    options = {"donate_argnums": 0, "keep_unused": True}
    options["out_shardings"] = (jax.tree.map(lambda argument: argument.sharding, state), whole)
    step = jax.jit(make_step(task), **options).trace(state, fixed, features, sound)
    slots = {name: part for name, part in state.items() if name != "weight"}
    return step, {"weights": (state["weight"], fixed), "optimizer": (slots,), "batch": (features, sound)}


def _shard_bytes(argument: jax.ShapeDtypeStruct) -> int:
    return argument.dtype.itemsize * math.prod(argument.sharding.shard_shape(argument.shape))
