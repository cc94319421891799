"""What preflight found, as a table for the terminal, as JSON, and as a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from aillm_tf.tpu.lint import Finding
from aillm_tf.tpu.preflight import Result

GIGA = 1 << 30
MEMORY = ("weights", "optimizer", "batch", "cache", "padding", "activations", "code")
# not every result has all of these
ORDER = (
    *("topology", "mesh", "step", "chips", "rows on a chip", "remat", *MEMORY, "memory of a chip", "headroom"),
    *("FLOP of a chip", "bytes accessed", "collectives", "padding of the data", "compute / memory / network"),
    *("bound by", "step (modelled)", "MFU (modelled)", "tokens/s (modelled)", "dollars an epoch (modelled)"),
    "compiled in",
)


def to_dict(result: Result) -> dict:
    """JSON-ready."""
    step = result.step
    return {
        "topology": result.topology.name,
        "mesh": _mesh(result) or None,
        "chips": result.topology.chips,
        "step": step.name,
        "rows_per_chip": step.rows,
        "global_rows": step.rows * result.topology.replicas,
        "remat": result.remat,
        "padding_of_data": step.padding,
        "model_flops": step.flops,
        "tokens_per_step": step.tokens,
        "steps_per_epoch": step.steps_per_epoch,
        "used_bytes": result.estimate.used,
        "headroom": result.estimate.headroom,
        **dataclasses.asdict(result.estimate),
        "compiler": dict(result.compiled),
    }


def _mesh(result: Result) -> str:
    """The mesh that a program is spread over; empty where each device runs a copy of its own."""
    data, model = result.topology.replicas, result.topology.model
    return f"data={data},model={model}" if result.step.program.partitions > 1 else ""


def cells(result: Result) -> dict[str, str]:
    """Label -> what a person reads."""
    found, step, said = result.estimate, result.step, result.compiled
    moved = " + ".join(f"{count} {kind}" for kind, (count, _) in said["collectives"].items()) or "none"
    size = sum(size for _, size in said["collectives"].values())
    times = (found.compute_seconds, found.memory_seconds, found.network_seconds)
    return {
        "topology": result.topology.name,
        **({"mesh": mesh} if (mesh := _mesh(result)) else {}),
        "step": step.name,
        "chips": str(result.topology.chips),
        "rows on a chip": str(step.rows),
        "remat": "yes" if result.remat else "no",
        **{kind: f"{found.memory.get(kind, 0) / GIGA:.3f} GiB" for kind in MEMORY if found.memory.get(kind)},
        "memory of a chip": f"{found.used / GIGA:.3f} of {found.capacity / GIGA:.2f} GiB",
        "headroom": f"{found.headroom:.0%}",
        "FLOP of a chip": f"{said['flops'] / 1e12:.4f} T",
        "bytes accessed": f"{said['bytes_accessed'] / GIGA:.3f} GiB",
        "collectives": f"{moved}, {size / GIGA:.3f} GiB",
        "padding of the data": f"{step.padding:.1%}",
        "compute / memory / network": " / ".join(f"{1e3 * seconds:.2f}" for seconds in times) + " ms",
        "bound by": found.bound,
        "step (modelled)": f"{1e3 * found.seconds:.2f} ms",
        "MFU (modelled)": "" if found.mfu is None else f"{found.mfu:.1%}",
        "tokens/s (modelled)": f"{found.tokens_per_second:,.0f}",
        "dollars an epoch (modelled)": "" if found.dollars_per_epoch is None else f"{found.dollars_per_epoch:.2f}",
        "compiled in": f"{said['seconds']:.0f} s",
    }


def _side_by_side(results: Sequence[Result]) -> list[list[str]]:
    """A row for every label: it, and the cell of each result."""
    columns = [cells(result) for result in results]
    labels = sorted({label for column in columns for label in column}, key=ORDER.index)
    return [[label, *(column.get(label) or "-" for column in columns)] for label in labels]


def table(results: Sequence[Result]) -> str:
    """Results side by side, a column each."""
    rows = _side_by_side(results)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def to_give(result: Result) -> str:
    """The options that make the batch of a result."""
    rows = result.step.rows * result.topology.replicas
    remat = ", with remat (--training.remat true)" if result.remat else ""
    return f"{result.topology.name}: {result.step.rows} rows on a chip: --training.batch_size {rows}{remat}"


def write(out: Path, recipe: str, results: Sequence[Result], findings: Iterable[Finding], config: str) -> None:
    """Writes report.json and report.html.

    Args:
        out: the folder, made if missing.
        recipe: its name.
        results, findings: what they tell.
        config: the recipe's options, as YAML.
    """
    from aillm_tf.training.report import write_report

    out.mkdir(parents=True, exist_ok=True)
    names = [f"{number}" for number in range(1, len(results) + 1)]
    report = {
        "task": f"{recipe} on {', '.join(dict.fromkeys(result.topology.name for result in results))}",
        "scores": {},
        "results": [to_dict(result) for result in results],
        "tables": {
            "Preflight": [dict(zip(("", *names), row, strict=True)) for row in _side_by_side(results)],
            "Memory of a chip, bytes": [
                {"topology": r.topology.name, "step": r.step.name, **{k: r.estimate.memory.get(k, 0) for k in MEMORY}}
                for r in results
            ],
            "Advice": [dataclasses.asdict(finding) for finding in findings],
        },
    }
    write_report(out, report, {}, config)
