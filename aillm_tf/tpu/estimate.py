"""What a compiled step needs of a chip: memory, time by the roofline, MFU and dollars.

Exact, from the compiler: bytes of arguments, temporaries and code; the collectives and their bytes; FLOPs and bytes
accessed as its cost model counts them. Modelled here: the time. A step takes as long as the slower of the matrix unit
at its peak and the memory at its full bandwidth, plus the collectives one after the other on all links of a chip
(Williams et al. 2009, "Roofline"). No program reaches that; `efficiency` is the share of it that is assumed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from aillm_tf.tpu.topology import Topology

EFFICIENCY = 0.6  # of the roofline; an assumption, to be replaced by what a first run measures


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A step of one program on one slice; bytes and FLOPs are of one chip.

    Attributes:
        memory: bytes by kind: "weights", "optimizer", "batch", "activations", "code".
        capacity: bytes of a chip.
        compute_seconds, memory_seconds, network_seconds: at the peak rates.
        seconds: of a step, at `efficiency` of the roofline.
        bound: which of "compute", "memory" and "network" takes longest.
        mfu: share of the peak that the model's own FLOPs would use; None where there is no formula.
        tokens_per_second: of the slice, padding not counted.
        dollars_per_epoch: None where there is no epoch.
    """

    memory: Mapping[str, int]
    capacity: int
    compute_seconds: float
    memory_seconds: float
    network_seconds: float
    seconds: float
    bound: str
    mfu: float | None
    tokens_per_second: float
    dollars_per_epoch: float | None

    @property
    def used(self) -> int:
        return sum(self.memory.values())

    @property
    def headroom(self) -> float:
        """Share of the memory that is left; below 0, the step does not fit."""
        return 1.0 - self.used / self.capacity


def memory_by_kind(compiled: Mapping, held: Mapping[str, int]) -> dict[str, int]:
    """Bytes on a chip while the step runs.

    Args:
        compiled: what `compile_for_tpu` gave.
        held: bytes of the arguments by kind, as `lower.Program.bytes`.

    Returns:
        By kind; "activations" are the compiler's temporaries and results that have no place in an argument, "padding"
        what its layouts add to the arguments.
    """
    results = compiled["output_bytes"] - compiled["alias_bytes"]
    return {
        **held,
        "padding": max(0, compiled["argument_bytes"] - sum(held.values())),
        "activations": compiled["temp_bytes"] + results,
        "code": compiled["code_bytes"],
    }


def network_seconds(collectives: Mapping[str, tuple[int, int]], replicas: int, links: float) -> float:
    """Time of the collectives: of n devices in a ring each sends 2 (n - 1) / n of the bytes of an all-reduce.

    Args:
        collectives: kind -> (count, bytes of the results).
        replicas: devices that take part.
        links: bytes/s that leave a chip.

    Example:
        >>> round(network_seconds({"all-reduce": (1, 8_000)}, 4, 1000.0), 2)
        12.0
    """
    share = (replicas - 1) / replicas
    factors = {"all-reduce": 2 * share, "collective-permute": 1.0}
    return sum(factors.get(kind, share) * size for kind, (_, size) in collectives.items()) / links


def estimate(
    compiled: Mapping,
    held: Mapping[str, int],
    topology: Topology,
    *,
    model_flops: float | None,
    tokens: float,
    steps_per_epoch: int | None = None,
    efficiency: float = EFFICIENCY,
) -> Estimate:
    """Puts the compiler's numbers and a chip's specification together.

    Args:
        compiled: what `compile_for_tpu` gave.
        held: bytes of the arguments by kind.
        topology: the slice.
        model_flops: operations of the model's formula in a step, over all replicas (`training.flops.step_flops`), or
            None.
        tokens: of a step over all replicas, without padding.
        steps_per_epoch: for the price of an epoch.
        efficiency: share of the roofline that is assumed.
    """
    chip, cores = topology.chip, topology.chip.cores
    parts = {
        "compute": cores * compiled["flops"] / chip.flops,
        "memory": cores * compiled["bytes_accessed"] / chip.bandwidth,
        "network": network_seconds(compiled["collectives"], topology.devices, chip.links),
    }
    seconds = (max(parts["compute"], parts["memory"]) + parts["network"]) / efficiency
    dollars = None
    if steps_per_epoch is not None:
        dollars = steps_per_epoch * seconds / 3600 * topology.dollars_per_hour
    return Estimate(
        memory=memory_by_kind(compiled, held),
        capacity=chip.usable // cores,
        compute_seconds=parts["compute"],
        memory_seconds=parts["memory"],
        network_seconds=parts["network"],
        seconds=seconds,
        bound=max(parts, key=parts.get),
        mfu=None if model_flops is None else model_flops / (seconds * topology.chips * chip.flops),
        tokens_per_second=tokens / seconds,
        dollars_per_epoch=dollars,
    )
