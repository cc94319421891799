"""The mean of the last checkpoints' weights: a little better than any one of them, for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from aillm_tf.training.checkpoint import STEP_NAME
from aillm_tf.training.checkpoint_files import SUFFIX, check_file, read_state, read_tensors

GROUP = "model"


class Averaged(NamedTuple):
    """``weights``: name to float32 array; ``steps``: of the checkpoints that they are the mean of."""

    weights: dict[str, np.ndarray]
    steps: list[int]


def average_checkpoints(folder: str | Path, last: int) -> Averaged:
    """The mean weights of the newest checkpoints.

    Args:
        folder: of checkpoints, ``RUN/checkpoints``.
        last: how many at most.

    Returns:
        The weights, and of which steps.

    Raises:
        ValueError: fewer than one is asked for.
        FileNotFoundError: there are none.
        DamagedCheckpoint: one of them was changed after it was written; names the file.

    Example:
        >>> averaged = average_checkpoints("runs/translation/checkpoints", last=5)  # doctest: +SKIP

    Reference:
        Junczys-Dowmunt et al. 2016, The AMU-UEDIN Submission to the WMT16 News Translation Task,
        https://aclanthology.org/W16-2316; Vaswani et al. 2017, section 6.1.
    """
    if last < 1:
        raise ValueError(f"the mean of the last {last} checkpoints: give at least 1")
    folder = Path(folder)
    found = {int(match[1]): path for path in folder.glob("*") if (match := STEP_NAME.fullmatch(path.name))}
    steps = sorted(found)[-last:]
    if not steps:
        raise FileNotFoundError(f"{folder}: no checkpoints to take the mean of")
    sums: dict[str, np.ndarray] = {}
    for step in steps:
        file = found[step] / (GROUP + SUFFIX)
        check_file(file, read_state(found[step])["files"][file.name])
        for name, tensor in read_tensors(file).items():
            sums[name] = sums.get(name, 0.0) + tensor.astype(np.float64)
    return Averaged({name: (total / len(steps)).astype(np.float32) for name, total in sums.items()}, steps)
