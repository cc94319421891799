"""The largest batch that fits a chip, in few compilations.

The memory of a step grows about linearly with the rows of a batch, and the compiler says how much it wants even where
that is too much: after two compilations a line through them says where the third should be.
"""

from __future__ import annotations

from collections.abc import Callable

from aillm_tf.layers.transformer import remat_of, set_remat
from aillm_tf.tpu.capture import Captured
from aillm_tf.tpu.compiler import OutOfMemory
from aillm_tf.tpu.estimate import EFFICIENCY, memory_by_kind
from aillm_tf.tpu.preflight import Result, Step, batch_of, compile_step, compiled, lowered, rows_of
from aillm_tf.tpu.topology import Topology

MULTIPLE = 8  # of rows, which fill the tiles of a TPU
MOST = 1 << 14  # rows on a chip


def largest(used: Callable[[int], int], capacity: int, start: int, multiple: int = MULTIPLE) -> int:
    """The largest number of rows that fits, as far as a line through what was measured says that no more do.

    Args:
        used: rows -> bytes, also where they are more than there are.
        capacity: bytes.
        start: rows to begin with.
        multiple: of which the rows are one.

    Returns:
        Rows that were measured and fit; 0: not even the fewest do.

    Example:
        >>> largest(lambda rows: 1000 + 10 * rows, 5000, start=32)
        400
    """
    measured: dict[int, int] = {}
    rows = max(multiple, start // multiple * multiple)
    while rows not in measured:
        measured[rows] = used(rows)
        low = max((n for n, size in measured.items() if size <= capacity), default=0)
        high = min((n for n, size in measured.items() if size > capacity), default=MOST + multiple)
        if len(measured) == 1:
            rows = min(2 * rows, MOST) if low else rows // 2 // multiple * multiple
        else:  # the line through the two nearest to where it has to be
            (n1, size1), (n2, size2) = sorted(measured.items(), key=lambda item: abs(item[1] - capacity))[:2]
            slope = max((size2 - size1) / (n2 - n1), 1.0)
            guess = int((capacity - size1) / slope + n1) // multiple * multiple
            rows = min(max(guess, low), high - multiple)
        if not rows:
            break
    return low


def fit(captured: Captured, topology: Topology, efficiency: float = EFFICIENCY, log: Callable = print) -> list[Result]:
    """The largest training batch that fits, without and with blocks that are computed again (remat).

    Args:
        captured: what `capture` gave.
        topology: the slice.
        efficiency: share of the roofline that is assumed.
        log: told of every compilation.

    Returns:
        A `Result` for each of the two that fits at all, the one with more tokens a second first.

    Raises:
        lint.Refused: a TPU would refuse the step whatever its size.
    """
    task, found = captured.task, []
    before = remat_of(task)
    start = rows_of(batch_of(captured.data, topology, task.accumulate))
    try:
        for remat in (False, True):
            set_remat(task, remat)
            steps: dict[int, Step] = {}

            def used(rows: int, remat=remat, steps=steps) -> int:
                (steps[rows],) = lowered(captured, topology, "train", rows)
                size = _bytes(steps[rows], topology)
                log(f"{topology.name}, remat {remat}: {rows} rows on a chip want {size / (1 << 30):.2f} GiB")
                return size

            if rows := largest(used, topology.chip.usable, start, MULTIPLE * task.accumulate):
                found.append(compiled(steps[rows], topology, remat, efficiency))
    finally:
        set_remat(task, before)
    return sorted(found, key=lambda result: -result.estimate.tokens_per_second)


def _bytes(step: Step, topology: Topology) -> int:
    """What a step wants of a chip, also where that is too much."""
    try:
        found = compile_step(step, topology)
    except OutOfMemory as error:
        return error.used
    return sum(memory_by_kind(found, step.program.bytes).values())
