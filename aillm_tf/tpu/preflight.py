"""Compile a recipe's real steps for a TPU that is not there, and say what they would hold, take and cost.

    aillm tpu preflight classification --topology v5e:2x4 --data.train train.tsv --training.batch_size 256

The recipe runs on this machine up to its training, with its own data; its steps are then lowered for the number of
replicas of the slice and compiled by libtpu.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from aillm_tf.tasks.generative import GenerativeTask
from aillm_tf.tpu import lint, mesh
from aillm_tf.tpu.capture import Captured
from aillm_tf.tpu.compiler import OutOfMemory, compile_for_tpu
from aillm_tf.tpu.estimate import EFFICIENCY, Estimate, estimate
from aillm_tf.tpu.lower import Program, decoding_programs, evaluation_program, train_program
from aillm_tf.tpu.topology import Topology
from aillm_tf.training.strategy import on_jax

STEPS = ("train", "evaluate", "decode")
SAMPLE = 64  # steps of an epoch that are looked at for what an average one computes


@dataclasses.dataclass(frozen=True)
class Step:
    """A lowered step.

    Attributes:
        name: "train", "evaluate" (of several objectives, with the name of one), "prefill" or "decode".
        program: what is compiled.
        rows: of a batch on one chip.
        tokens: of a step over all replicas, padding not counted.
        flops: of the model's formula in a step over all replicas; None where there is no formula.
        padding: share of the computed positions that hold no token.
        steps_per_epoch: None where there is no epoch.
    """

    name: str
    program: Program
    rows: int
    tokens: float
    flops: float | None
    padding: float
    steps_per_epoch: int | None


@dataclasses.dataclass(frozen=True)
class Result:
    """A step of a recipe on a slice.

    Attributes:
        topology: the slice.
        step: what was compiled.
        compiled: what the compiler said.
        estimate: what follows from it.
        remat: whether blocks are computed again in the backward pass.
    """

    topology: Topology
    step: Step
    compiled: Mapping
    estimate: Estimate
    remat: bool


def batch_of(data, topology: Topology, micro: int = 1) -> dict[str, tf.TensorSpec]:
    """Shapes and types of one replica's share of a batch."""
    made = data.batches(replicas=range(1), total=topology.replicas, micro=micro)
    # row numbers are for the host, which puts answers in order
    return {name: spec for name, spec in made.element_spec.items() if name.rpartition("/")[2] != "row"}


def rows_of(batch: Mapping[str, tf.TensorSpec]) -> int:
    """Rows of a batch."""
    return next(iter(batch.values())).shape[0]


def check(captured: Captured, topology: Topology) -> list[lint.Finding]:
    """What can be said without the compiler.

    Returns:
        Advice.

    Raises:
        lint.Refused: there are errors.
    """
    task, data = captured.task, captured.data
    batch = batch_of(data, topology, task.accumulate)
    errors = lint.of_batch(batch)
    if errors:
        raise lint.Refused(errors)
    advice = lint.of_run(captured.config.training, captured.sources, data, topology)
    return [*lint.of_model(task, rows_of(batch) // task.accumulate), *advice]


def lowered(captured: Captured, topology: Topology, which: str, rows: int | None = None) -> list[Step]:
    """The programs of a step.

    Args:
        captured: what `capture` gave.
        topology: the slice.
        which: one of `STEPS`.
        rows: of a training batch on one chip; by default those that the recipe's options make.

    Raises:
        ValueError: there is no such step.
        lint.Refused: a TPU would refuse it: where, and what to do.
    """
    task = captured.task
    if which == "evaluate":
        data = captured.validation or captured.data
        parts = {"": (task, data)}
        if hasattr(task, "tasks"):  # each objective has an evaluation of its own
            parts = {f" {name}": (part, data.parts[name]) for name, part in task.tasks.items()}
        return [_evaluation(f"evaluate{name}", *part, topology) for name, part in parts.items()]
    batch = batch_of(captured.data, topology, task.accumulate)
    if which == "train":
        tokens, padding, flops = _of_data(task, captured.data, topology, task.accumulate)
        share = 1.0 if rows is None else rows / rows_of(batch)
        batch = {name: _with_rows(spec, round(share * spec.shape[0])) for name, spec in batch.items()}
        epoch = round(captured.data.steps_per_epoch / share)
        program = mesh.train_program(task, batch) if on_jax() else train_program(task, batch, topology.replicas)
        return [Step("train", program, rows_of(batch), tokens * share, flops * share, padding, epoch)]
    if not isinstance(task, GenerativeTask):
        raise ValueError(f"{type(task).__name__} writes no text: there is no decode step, give --step train,evaluate")
    count = rows_of(batch) // task.accumulate
    limit = task.backbone.config.max_length - task.generation_options().max_new_tokens
    places = task.max_length if task.backbone.config.decoder_layers else max(1, min(task.max_length, limit))
    tokens = {"prefill": count * topology.replicas * places, "decode": count * topology.replicas}
    programs = decoding_programs(task, count, places)
    return [Step(name, program, count, tokens[name], None, 0.0, None) for name, program in programs.items()]


def _evaluation(name: str, task, data, topology: Topology) -> Step:
    batch = batch_of(data, topology)
    tokens, padding, flops = _of_data(task, data, topology)
    # the formula counts the backward pass as two forward passes
    return Step(name, evaluation_program(task, batch), rows_of(batch), tokens, flops / 3.0, padding, None)


def _of_data(task, data, topology: Topology, micro: int = 1) -> tuple[float, float, float]:
    """Tokens of a step without padding, share of padding, FLOPs of the formula: the mean over steps of an epoch."""
    from aillm_tf.training.flops import step_flops

    tokens = positions = flops = 0.0
    steps = np.unique(np.linspace(0, data.steps_per_epoch - 1, SAMPLE).astype(int)).tolist()
    for step in steps:
        _, length, full = data.batch_rows(step)
        tokens += data.tokens(step, step + 1)
        # rows that only fill a batch are computed too
        positions += -(-full // (topology.replicas * micro)) * topology.replicas * micro * length
        flops += step_flops(task, data, step)
    return tokens / len(steps), 1.0 - tokens / positions, flops / len(steps)


def _with_rows(spec: tf.TensorSpec, rows: int) -> tf.TensorSpec:
    return tf.TensorSpec((rows, *spec.shape[1:]), spec.dtype)


def compile_step(step: Step, topology: Topology) -> dict:
    """What the compiler says of a lowered step; see `compile_for_tpu`."""
    partitions = step.program.partitions
    return compile_for_tpu(step.program.text, topology.name, topology.devices // partitions, partitions)


def compiled(step: Step, topology: Topology, remat: bool, efficiency: float = EFFICIENCY) -> Result:
    """Compiles a lowered step and estimates it.

    Args:
        step: one of `lowered`.
        topology: the slice.
        remat: as it was lowered.
        efficiency: share of the roofline that is assumed.

    Raises:
        lint.Refused: it does not fit; says what needs how much, in which layer.
        CompileError: the compiler's own words.
    """
    try:
        found = compile_step(step, topology)
    except OutOfMemory as error:
        raise lint.Refused([lint.of_memory(error, step.rows, remat)]) from error
    estimated = estimate(
        found,
        step.program.bytes,
        topology,
        model_flops=step.flops,
        tokens=step.tokens,
        steps_per_epoch=step.steps_per_epoch,
        efficiency=efficiency,
    )
    return Result(topology, step, found, estimated, remat)
