"""TPU generations: what a chip has, by the published specifications, and slices of them by name.

References:
    https://cloud.google.com/tpu/docs/system-architecture-tpu-vm and the page of each generation below it. Prices are
    Google's list prices for on-demand use in us regions when this was written: change them with a file, see `prices`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import yaml

from aillm_tf.training.flops import TPU_PEAKS

GIB = 1 << 30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip.

    Attributes:
        name: as in Google's documentation.
        hbm: bytes of memory.
        usable: of these, bytes that the compiler lets a program take; it keeps the rest for the runtime, of a v4 half.
        flops: bfloat16 FLOP/s at the peak.
        bandwidth: bytes/s of the memory.
        links: bytes/s between chips, all links of a chip together, each way.
        cores: TensorCores, each of which is a replica.
        per_host: chips of a host.
        dimensions: of the network between chips.
        dollars: of a chip-hour.
    """

    name: str
    hbm: int
    usable: int
    flops: float
    bandwidth: float
    links: float
    cores: int
    per_host: int
    dimensions: int
    dollars: float


CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, int(15.25 * GIB), TPU_PEAKS["v4"], 1228e9, 300e9, 1, 4, 3, 3.22),
    "v5e": Chip("TPU v5e", 16 * GIB, int(15.75 * GIB), TPU_PEAKS["v5litepod"], 819e9, 200e9, 1, 8, 2, 1.20),
    "v5p": Chip("TPU v5p", 95 * GIB, int(95.74 * GIB), TPU_PEAKS["v5p"], 2765e9, 600e9, 1, 4, 3, 4.20),
    "v6e": Chip("TPU v6e", 32 * GIB, int(31.25 * GIB), TPU_PEAKS["v6e"], 1640e9, 448e9, 1, 8, 2, 2.70),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: chips of one kind, side by side.

    Example:
        >>> slice = topology("v5e:2x4")
        >>> slice.chips, slice.replicas, slice.hosts
        (8, 8, 1)
    """

    name: str  # as the compiler takes it
    kind: str  # a key of CHIPS
    chip: Chip
    shape: tuple[int, ...]
    model: int = 1  # devices that share the rows of a replica: the axis `model` of a mesh

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        return self.chips * self.chip.cores

    @property
    def replicas(self) -> int:
        """Parts that the rows of a batch are cut into."""
        return self.devices // self.model

    @property
    def hosts(self) -> int:
        return -(-self.chips // self.chip.per_host)

    @property
    def dollars_per_hour(self) -> float:
        return self.chips * self.chip.dollars


def topology(name: str, dollars: dict[str, float] | None = None) -> Topology:
    """A slice by its name.

    Args:
        name: kind and shape in chips, such as "v5e:2x4" or "v5p:2x2x1".
        dollars: prices of a chip-hour by kind, instead of those listed here.

    Raises:
        ValueError: no such kind, or a shape that it cannot have; says which there are.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS:
        raise ValueError(f"unknown TPU {kind!r} in topology {name!r}: known are {', '.join(CHIPS)}, as in v5e:2x4")
    chip = CHIPS[kind]
    if not re.fullmatch(r"\d+(x\d+)*", shape):
        example = "x".join("2" * chip.dimensions)
        raise ValueError(f"topology {name!r}: give the chips along each axis of {kind}, as in {kind}:{example}")
    sizes = tuple(int(size) for size in shape.split("x"))
    if len(sizes) != chip.dimensions or 0 in sizes:
        raise ValueError(
            f"topology {name!r} has {len(sizes)} axes; the chips of a {kind} stand in {chip.dimensions}, none of them 0"
        )
    if dollars and kind in dollars:
        chip = dataclasses.replace(chip, dollars=dollars[kind])
    return Topology(name, kind, chip, sizes)


def prices(file: str | Path) -> dict[str, float]:
    """Prices of a chip-hour from a YAML file with lines such as ``v5e: 1.20``.

    Raises:
        ValueError: a line names no TPU or no price; names the file and what is wrong.
    """
    found = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{file}: must hold lines such as `v5e: 1.20`, dollars of a chip-hour")
    for kind, price in found.items():
        if kind not in CHIPS:
            raise ValueError(f"{file}: unknown TPU {kind!r}: known are {', '.join(CHIPS)}")
        if not isinstance(price, int | float) or isinstance(price, bool) or price < 0:
            raise ValueError(f"{file}: the price of {kind} is {price!r}, not dollars of a chip-hour")
    return {kind: float(price) for kind, price in found.items()}
