"""The training step under the JAX backend as the program that all chips of a mesh run together (`training/layouts.py`).

JAX lowers the very step of `aillm_tf.training.jax_step`, for TPUs, with the shardings of its weights and rows; the TPU
compiler splits it over the chips and adds the communication. As many devices as the mesh has are there when JAX starts:
a CPU that passes for them, in a process whose environment says so.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aillm_tf.tpu.topology import Topology

if TYPE_CHECKING:
    import tensorflow as tf

    from aillm_tf.tpu.lower import Program


def environment(devices: int, of: Mapping[str, str]) -> dict[str, str]:
    """The environment `of` a process, changed so that JAX is the backend and has so many devices, on any machine."""
    kept = [flag for flag in of.get("XLA_FLAGS", "").split() if "xla_force_host_platform_device_count" not in flag]
    flags = " ".join([*kept, f"--xla_force_host_platform_device_count={devices}"])
    # wherever the package lies that this process runs
    package = str(Path(__file__).parents[2])
    paths = [package, *(path for path in of.get("PYTHONPATH", "").split(os.pathsep) if path and path != package)]
    own = {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "PYTHONPATH": os.pathsep.join(paths)}
    return {**of, **own}


def train_program(task, batch: Mapping[str, tf.TensorSpec]) -> Program:
    """Lowers a training step.

    Args:
        task: compiled, made within the scope of a `JaxStrategy`.
        batch: shapes and types of the rows of one device along the axis `data`.

    Returns:
        One program for all devices of the mesh. Its `bytes` are those of the shard that one device holds.
    """
    import jax
    import numpy as np

    from aillm_tf.tpu.lower import Program
    from aillm_tf.training.jax_step import make_step, state_of

    whole, split = task.strategy.sharding(), task.strategy.sharding(None, task.strategy.distribution.batch_dim_name)
    shares = task.strategy.num_replicas_in_sync

    def of_variable(variable):
        placed = whole if variable._layout is None else variable._layout.backend_layout
        return jax.ShapeDtypeStruct(variable.shape, variable.dtype, sharding=placed)

    def of_feature(spec: tf.TensorSpec):
        rows = shares * spec.shape[0] // task.accumulate
        shape = (task.accumulate, rows, *spec.shape[1:])
        return jax.ShapeDtypeStruct(shape, spec.dtype.as_numpy_dtype, sharding=split)

    trained = {id(variable) for variable in task.trainable_variables}
    state = jax.tree.map(of_variable, state_of(task))
    fixed = [None if id(variable) in trained else of_variable(variable) for variable in task.variables]
    features = {name: of_feature(spec) for name, spec in batch.items()}
    sound = jax.ShapeDtypeStruct((), np.bool_, sharding=whole)
    where = jax.tree.map(lambda argument: argument.sharding, state)
    # weights that the step does not read lie on a chip all the same
    step = jax.jit(make_step(task), donate_argnums=0, out_shardings=(where, whole), keep_unused=True)
    text = step.trace(state, fixed, features, sound).lower(lowering_platforms=("tpu",)).as_text(debug_info=True)
    of_optimizer = {name: part for name, part in state.items() if name != "weight"}
    kinds = {"weights": (state["weight"], fixed), "optimizer": of_optimizer, "batch": (features, sound)}
    held = {kind: sum(map(bytes_of_shard, jax.tree.leaves(arguments))) for kind, arguments in kinds.items()}
    return Program(text, held, 0, ()), step, (state, fixed, features, sound)


def bytes_of_shard(argument) -> int:
    """Of the part of an array that one device holds."""
    import math

    return argument.dtype.itemsize * math.prod(argument.sharding.shard_shape(argument.shape))
