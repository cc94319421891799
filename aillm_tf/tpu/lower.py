"""The training or evaluation step of a task as the StableHLO program that one replica of a TPU runs.

TensorFlow lowers the very step of `aillm_tf.training.step` on this machine. Three things differ from a machine with a
TPU and are put right here: the reduction over replicas is written as the collective that `strategy.run` makes of it
there; random bytes are drawn by XLA's own generator (lowered for a CPU, they would be thousands of operations); and
variables are marked as updated in place.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from aillm_tf.layers import fused_cpu
from aillm_tf.tpu import lint
from aillm_tf.training import step

THREEFRY = 2  # stands for the device's own generator until the text is written: its state has the same shape


@dataclasses.dataclass(frozen=True)
class Program:
    """A lowered step.

    Attributes:
        text: StableHLO.
        bytes: what its arguments hold on every chip, by kind: "weights", "optimizer", "batch".
        all_reduces: tensors that are summed over the replicas.
    """

    text: str
    bytes: dict[str, int]
    all_reduces: int


class Replica:
    """What `tf.distribute.get_replica_context()` is on a TPU of `replicas` replicas, as far as the step asks."""

    def __init__(self, replicas: int):
        self.group = tf.constant([list(range(replicas))], tf.int32)

    @property
    def replica_id_in_sync_group(self) -> tf.Tensor:
        return gen_xla_ops.xla_replica_id()

    def all_reduce(self, _, values: list[tf.Tensor]) -> list[tf.Tensor]:
        return [
            gen_xla_ops.xla_all_reduce(input=value, group_assignment=self.group, reduce_op="Add", mode="CrossReplica")
            for value in values
        ]


def train_program(task, batch: Mapping[str, tf.TensorSpec], replicas: int) -> Program:
    """Lowers a training step.

    Args:
        task: compiled.
        batch: shapes and types of one replica's share.
        replicas: in all.

    Raises:
        aillm_tf.tpu.lint.Refused: a TPU would refuse it: the layer, and what to do.
    """
    context = Replica(replicas) if replicas > 1 else None
    function = step.make_replica_step(task, replicas, lambda: context or tf.distribute.get_replica_context())
    names = list(batch)

    def run(*tensors):
        results = function(dict(zip(names, tensors, strict=True)), tf.constant(True), tf.constant(0.0))
        return tuple(results.values())

    slots = [v for kind in task.optimizer.slots().values() for v in kind]
    return _lowered(run, batch, {"weights": task.variables, "optimizer": slots})


def evaluation_program(task, batch: Mapping[str, tf.TensorSpec]) -> Program:
    """Lowers an evaluation step; see `train_program`."""
    names = list(batch)

    def run(*tensors):
        sums, rows = task.evaluation(dict(zip(names, tensors, strict=True)))
        return (*sums.values(), *rows.values())

    return _lowered(run, batch, {"weights": task.variables})


def _lowered(run, batch: Mapping[str, tf.TensorSpec], variables: Mapping[str, list]) -> Program:
    function = tf.function(run, jit_compile=True, autograph=False)
    token = fused_cpu.other_bytes.set(_device_bytes)
    try:
        graph = function.get_concrete_function(*batch.values())
        if errors := lint.of_graph(graph.graph):
            raise lint.Refused(errors)
        # zeros: the compiler's entry point takes no specs where variables are captured
        inputs = [tf.zeros(spec.shape, spec.dtype) for spec in batch.values()]
        text = function.experimental_get_compiler_ir(*inputs)(stage="stablehlo")
    finally:
        fused_cpu.other_bytes.reset(token)
    text = re.sub(r"(rng_bit_generator .*algorithm = +)THREE_FRY", r"\1DEFAULT", text)
    captured = {id(tensor) for tensor, _ in graph.graph.captures}
    held = {kind: _bytes(v for v in found if id(v.value.handle) in captured) for kind, found in variables.items()}
    held["batch"] = sum(spec.dtype.size * spec.shape.num_elements() for spec in batch.values())
    return Program(updated_in_place(text) if "optimizer" in held else text, held, text.count('"stablehlo.all_reduce"'))


def _bytes(variables) -> int:
    return sum(tf.as_dtype(v.dtype).size * v.shape.num_elements() for v in (v.value for v in variables))


def _device_bytes(like: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Random bytes in the shape of `like` by the generator of the device."""
    state = tf.cast(tf.bitcast(seed, tf.uint32), tf.uint64)  # (2,)
    _, output = gen_xla_ops.xla_rng_bit_generator(THREEFRY, state, tf.shape(like), dtype=tf.uint8)
    return tf.ensure_shape(output, like.shape)


def updated_in_place(text: str) -> str:
    """The program with every variable's new value in the memory of the old one, as TensorFlow runs it.

    TensorFlow puts variables last among the arguments and their new values last among the results, in one order.
    """
    found = re.search(r"func\.func @main\((?P<arguments>.*)\) -> \((?P<results>.*?)\) \{", text)
    if found is None:
        return text
    arguments = re.findall(r"%arg\d+: (tensor<[^>]*>)", found["arguments"])
    results = re.findall(r"tensor<[^>]*>", found["results"])
    both = 0
    while both < min(len(arguments), len(results)) and arguments[-1 - both] == results[-1 - both]:
        both += 1
    changed = found["arguments"]
    for i in range(both):
        argument, result = len(arguments) - both + i, len(results) - both + i
        changed = changed.replace(
            f"%arg{argument}: {arguments[argument]} ",
            f"%arg{argument}: {arguments[argument]} {{tf.aliasing_output = {result} : i32}} ",
            1,
        )
    return text[: found.start("arguments")] + changed + text[found.end("arguments") :]
