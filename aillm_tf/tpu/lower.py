"""The steps of a task as the StableHLO programs that one replica of a TPU runs.

TensorFlow lowers the very step of `aillm_tf.training.step`, and the very prefill and step of `aillm_tf.generation`, on
this machine. Three things differ from a machine with a TPU and are put right here: the reduction over replicas is
written as the collective that `strategy.run` makes of it there; random bytes are drawn by XLA's own generator (lowered
for a CPU, they would be thousands of operations); and what is updated in place is marked so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from aillm_tf.generation import loop
from aillm_tf.generation.generator import STRATEGIES
from aillm_tf.layers import fused_cpu
from aillm_tf.tpu import lint
from aillm_tf.training import step

THREEFRY = 2  # stands for the device's own generator until the text is written: its state has the same shape


@dataclasses.dataclass(frozen=True)
class Program:
    """A lowered step.

    Attributes:
        text: StableHLO.
        bytes: what its arguments hold on every chip, by kind: "weights", "optimizer", "batch", "cache".
        all_reduces: tensors that are summed over the replicas.
        advice: about its operations.
        partitions: devices that it is spread over; 1: each runs a copy of its own.
    """

    text: str
    bytes: dict[str, int]
    all_reduces: int
    advice: tuple[lint.Finding, ...]
    partitions: int = 1


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
    with on_tpu(task):
        context = Replica(replicas) if replicas > 1 else None
        function = step.make_replica_step(task, replicas, lambda: context or tf.distribute.get_replica_context())

        def run(batch):
            return tuple(function(batch, tf.constant(True), tf.constant(0.0)).values())

        slots = [v for kind in task.optimizer.slots().values() for v in kind]
        counts = [task.optimizer.steps_done, *(task.guard.variables().values() if task.guard else ())]
        held = {"weights": task.variables, "optimizer": [*slots, *counts]}
        return _lowered(run, {"batch": dict(batch)}, held, "variables")


def evaluation_program(task, batch: Mapping[str, tf.TensorSpec]) -> Program:
    """Lowers an evaluation step; see `train_program`."""
    with on_tpu(task):
        return _lowered(task.evaluation, {"batch": dict(batch)}, {"weights": task.variables})


def decoding_programs(task, rows: int, places: int) -> dict[str, Program]:
    """Lowers how a generative task answers: "prefill", which reads the prompts, and "decode", one token of every row.

    Args:
        task: a `GenerativeTask`; it is lowered with its own options, in float32 as it answers.
        rows: texts on one chip.
        places: tokens of a prompt, or of an encoder's input.

    Raises:
        aillm_tf.tpu.lint.Refused: a TPU would refuse it: the layer, and what to do.
    """
    options, backbone = task.generation_options(), task.backbone
    structure = loop.structure_of(options)
    start, one_more = STRATEGIES[options.strategy]
    budget = loop.bucket(options.max_new_tokens)
    spec = {name: tf.TensorSpec((rows, places), tf.int32) for name in ("token_ids", "segment_ids")}

    def prefill(features):
        prompt, lengths, source = task.prompts(features, options)
        limit, capacity = loop.position_limit(backbone), loop.bucket(prompt.shape[1] + options.max_new_tokens)
        capacity = capacity if limit is None else max(min(capacity, limit), prompt.shape[1])
        return start(backbone, prompt, lengths, source, capacity, budget, structure, loop.numbers_of(options))

    def decode(state):
        return one_more(backbone, state, structure, loop.numbers_of(options))

    with on_tpu(task), task.inference_precision():
        state = tf.function(prefill, autograph=False).get_concrete_function(spec).structured_outputs
        state = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), state)
        return {
            "prefill": _lowered(prefill, {"batch": spec}, {"weights": backbone.variables}),
            "decode": _lowered(decode, {"cache": state}, {"weights": backbone.variables}, "arguments"),
        }


@contextlib.contextmanager
def on_tpu(task) -> Iterator[None]:
    """Within this context graphs of a task are those that it makes on a TPU, where XLA compiles the whole step."""
    tasks = [task, *getattr(task, "tasks", {}).values()]  # several objectives
    before = [(each.on_tpu, each.fuse_on_cpu, each.jit_compile) for each in tasks]
    token = fused_cpu.other_bytes.set(_device_bytes)
    try:
        for each in tasks:
            each.on_tpu, each.fuse_on_cpu, each.jit_compile = True, False, False
        yield
    finally:
        fused_cpu.other_bytes.reset(token)
        for each, values in zip(tasks, before, strict=True):
            each.on_tpu, each.fuse_on_cpu, each.jit_compile = values


def _lowered(run: Callable, inputs: dict[str, Any], variables: Mapping[str, list], in_place: str = "") -> Program:
    """A function of one structure of tensors, given as `{kind: specs}`, as a program.

    `in_place` says what it writes its results to: "variables", or, one for one, its "arguments".
    """
    ((kind, structure),) = inputs.items()
    specs = tf.nest.flatten(structure)

    def flat(*tensors):
        return tuple(tf.nest.flatten(run(tf.nest.pack_sequence_as(structure, list(tensors)))))

    function = tf.function(flat, jit_compile=True, autograph=False)
    graph = function.get_concrete_function(*specs)
    findings = lint.of_graph(graph.graph)
    if errors := [finding for finding in findings if finding.level == "error"]:
        raise lint.Refused(errors)
    # zeros: the compiler's entry point takes no specs where variables are captured
    with tf.device("CPU:0"):
        zeros = [tf.zeros(spec.shape, spec.dtype) for spec in specs]
    try:
        text = function.experimental_get_compiler_ir(*zeros)(stage="stablehlo")
    except ValueError as error:  # what has no lowering at all
        raise lint.Refused(lint.of_lowering(str(error))) from None
    text = re.sub(r"(rng_bit_generator .*algorithm = +)THREE_FRY", r"\1DEFAULT", text)
    captured = {id(tensor) for tensor, _ in graph.graph.captures}
    held = {name: _bytes(v for v in found if id(v.value.handle) in captured) for name, found in variables.items()}
    held[kind] = sum(spec.dtype.size * spec.shape.num_elements() for spec in specs)
    if in_place == "variables":
        text = updated_in_place(text, new_values(text, len(graph.outputs)))
    elif in_place == "arguments":
        text = updated_in_place(text, [(i, i) for i in range(len(specs))])
    return Program(text, held, text.count('"stablehlo.all_reduce"'), tuple(findings))


def _bytes(variables) -> int:
    return sum(tf.as_dtype(v.dtype).size * v.shape.num_elements() for v in (v.value for v in variables))


def _device_bytes(like: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Random bytes in the shape of `like` by the generator of the device."""
    state = tf.cast(tf.bitcast(seed, tf.uint32), tf.uint64)  # (2,)
    _, output = gen_xla_ops.xla_rng_bit_generator(THREEFRY, state, tf.shape(like), dtype=tf.uint8)
    return tf.ensure_shape(output, like.shape)


def arguments_of(text: str) -> tuple[list[str], list[str]]:
    """The types of a program's arguments and results, as in "tensor<8x128xf32>"."""
    found = re.search(r"func\.func @main\((?P<arguments>.*)\) -> \((?P<results>.*?)\) \{", text)
    if found is None:  # a single result has no brackets
        found = re.search(r"func\.func @main\((?P<arguments>.*)\) -> (?P<results>tensor<[^>]*>.*?) \{", text)
    arguments = re.findall(r"%arg\d+: (tensor<[^>]*>)", found["arguments"])
    return arguments, re.findall(r"tensor<[^>]*>", found["results"])


def new_values(text: str, outputs: int) -> list[tuple[int, int]]:
    """(argument, result) of every variable that a program changes.

    Args:
        text: StableHLO, in which variables come last among the arguments, and the new values of those that have any
            come last among the results, in the same order.
        outputs: results before the first new value.
    """
    arguments, results = arguments_of(text)
    place, pairs = len(arguments), []
    for result in range(len(results) - 1, outputs - 1, -1):
        # backwards, so that each finds a place; which of two of one type it is makes no difference to the memory
        place -= 1
        while arguments[place] != results[result]:
            place -= 1
        pairs.append((place, result))
    return pairs


def updated_in_place(text: str, pairs: list[tuple[int, int]]) -> str:
    """The program with results in the memory of the arguments whose new values they are, as TensorFlow runs it.

    Args:
        text: StableHLO.
        pairs: numbers of an argument and of the result that takes its place.
    """
    start = text.index("func.func @main(")
    end = text.index("\n", start)
    header, arguments = text[start:end], arguments_of(text)[0]
    for argument, result in pairs:
        before = f"%arg{argument}: {arguments[argument]} "
        header = header.replace(before, f"{before}{{tf.aliasing_output = {result} : i32}} ", 1)
    return text[:start] + header + text[end:]
