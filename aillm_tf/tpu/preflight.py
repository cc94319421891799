"""Compile a recipe's real step for a TPU that is not there, and say what it would hold, take and cost.

    aillm tpu preflight classification --topology v5e:2x4 --data.train train.tsv --training.batch_size 256

The recipe runs on this machine up to its training, with its own data; its step is then lowered for the number of
replicas of the slice and compiled by libtpu.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from aillm_tf.tpu import lint
from aillm_tf.tpu.capture import Captured
from aillm_tf.tpu.compiler import CompileError, compile_for_tpu
from aillm_tf.tpu.estimate import EFFICIENCY, Estimate, estimate
from aillm_tf.tpu.lower import evaluation_program, train_program
from aillm_tf.tpu.topology import Topology


@dataclasses.dataclass(frozen=True)
class Result:
    """A step of a recipe on a slice.

    Attributes:
        topology: the slice.
        step: "train" or "evaluate".
        rows: of a batch on one chip.
        compiled: what the compiler said.
        estimate: what follows from it.
        findings: advice; errors are raised.
    """

    topology: Topology
    step: str
    rows: int
    compiled: Mapping
    estimate: Estimate
    findings: tuple[lint.Finding, ...]

    def to_dict(self) -> dict:
        """JSON-ready."""
        found = {name: value for name, value in dataclasses.asdict(self.estimate).items() if name != "memory"}
        return {
            "topology": self.topology.name,
            "chips": self.topology.chips,
            "step": self.step,
            "rows_per_chip": self.rows,
            "memory_bytes": dict(self.estimate.memory),
            "headroom": self.estimate.headroom,
            **found,
            "compiler": dict(self.compiled),
            "advice": [str(finding) for finding in self.findings],
        }


def batch_of(data, topology: Topology, micro: int = 1) -> dict[str, tf.TensorSpec]:
    """Shapes and types of one replica's share of a batch."""
    made = data.batches(replicas=range(1), total=topology.replicas, micro=micro)
    # row numbers are for the host, which puts answers in order
    return {name: spec for name, spec in made.element_spec.items() if name != "row"}


def check(captured: Captured, topology: Topology) -> tuple[lint.Finding, ...]:
    """What can be said without the compiler.

    Returns:
        Advice.

    Raises:
        lint.Refused: there are errors.
    """
    batch = batch_of(captured.data, topology, captured.task.accumulate)
    errors = lint.of_batch(batch)
    if errors:
        raise lint.Refused(errors)
    return tuple(lint.of_model(captured.task, next(iter(batch.values())).shape[0]))


def preflight(captured: Captured, topology: Topology, step: str = "train", efficiency: float = EFFICIENCY) -> Result:
    """Compiles a step and estimates it.

    Args:
        captured: what `capture` gave.
        topology: the slice.
        step: "train" or "evaluate".
        efficiency: share of the roofline that is assumed.

    Raises:
        lint.Refused: a TPU would refuse it: where, and what to do.
        CompileError: the compiler's own words, a step that does not fit the memory among them.
    """
    from aillm_tf.training.flops import step_flops

    task, data = captured.task, captured.data
    advice = check(captured, topology)
    batch = batch_of(data, topology, task.accumulate)
    task.fuse_on_cpu = False  # on a TPU, XLA fuses the whole step
    program = train_program(task, batch, topology.replicas) if step == "train" else evaluation_program(task, batch)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "program.mlir")
        file.write_text(program.text, encoding="utf-8")
        compiled = compile_for_tpu(file, topology.name, topology.replicas)
    steps = data.steps_per_epoch
    flops = sum(step_flops(task, data, i) for i in range(steps)) / steps
    estimated = estimate(
        compiled,
        program.bytes,
        topology,
        model_flops=flops if step == "train" else flops / 3,
        tokens=data.tokens(0, steps) / steps,
        steps_per_epoch=steps if step == "train" else None,
        efficiency=efficiency,
    )
    return Result(topology, step, next(iter(batch.values())).shape[0], compiled, estimated, advice)


def too_big(error: CompileError) -> bool:
    """Whether the compiler refused a program because it does not fit the memory."""
    return "RESOURCE_EXHAUSTED" in str(error) or "Ran out of memory" in str(error)


def table(results: list[Result]) -> str:
    """Results side by side, a column each."""
    giga = 1 << 30

    def column(result: Result) -> list[str]:
        found, memory = result.estimate, result.estimate.memory
        moved = " + ".join(f"{count} {kind}" for kind, (count, _) in result.compiled["collectives"].items()) or "none"
        size = sum(size for _, size in result.compiled["collectives"].values())
        price = found.dollars_per_epoch
        return [
            result.topology.name,
            str(result.topology.chips),
            str(result.rows),
            *(f"{memory.get(kind, 0) / giga:.3f} GiB" for kind in MEMORY),
            f"{found.used / giga:.3f} of {found.capacity / giga:.0f} GiB",
            f"{found.headroom:.0%}",
            f"{result.compiled['flops'] / 1e12:.4f} T",
            f"{result.compiled['bytes_accessed'] / giga:.3f} GiB",
            f"{moved}, {size / giga:.3f} GiB",
            " / ".join(
                f"{1e3 * seconds:.2f}"
                for seconds in (found.compute_seconds, found.memory_seconds, found.network_seconds)
            )
            + " ms",
            found.bound,
            f"{1e3 * found.seconds:.2f} ms",
            f"{found.mfu:.1%}",
            f"{found.tokens_per_second:,.0f}",
            "-" if price is None else f"{price:.2f}",
            f"{result.compiled['seconds']:.0f} s",
        ]

    rows = list(zip(LABELS, *map(column, results), strict=True))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


MEMORY = ("weights", "optimizer", "batch", "padding", "activations", "code")
LABELS = (
    "topology",
    "chips",
    "rows on a chip",
    *MEMORY,
    "memory of a chip",
    "headroom",
    "FLOP of a chip",
    "bytes accessed",
    "collectives",
    "compute / memory / network",
    "bound by",
    "step (modelled)",
    "MFU (modelled)",
    "tokens/s (modelled)",
    "dollars an epoch (modelled)",
    "compiled in",
)
