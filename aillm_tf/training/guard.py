"""The loss-spike guard: a batch whose gradient norm is far above its running average is skipped.

It works inside the step, on the norm of the reduced gradient: every replica decides alike, and nothing waits for the
host. Of several objectives each has an average of its own, for the norms of one say nothing of another's. Its numbers
are a part of every checkpoint.
"""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.training.optimizer import read_local, subtract_local

DECAY = 0.98  # of the running average: about the last 50 steps
LEARNED = 20  # steps whose norms are only taken into the average, before one is judged


def judge(limit: float, norm, usable, totals, counts, turn=0) -> tuple:
    """Whether a norm is an outlier, and by how much `total`, `seen` and `skipped` of `SpikeGuard` fall, by name.

    Args:
        limit: see `SpikeGuard`.
        norm, usable, turn: see `SpikeGuard.accepts`.
        totals, counts: its `total` and `seen` before.
    """
    mine = ops.one_hot(turn, totals.shape[0]) if len(totals.shape) else 1.0
    total, seen = (ops.sum(numbers * ops.cast(mine, numbers.dtype)) for numbers in (totals, counts))
    highest = limit * total / ops.maximum(1.0 - DECAY ** ops.cast(seen, "float32"), 1e-8)
    outlier = ops.logical_and(ops.logical_and(usable, seen >= LEARNED), norm > highest)
    counted = ops.where(outlier, highest, norm)
    falls = {"seen": -ops.cast(usable, seen.dtype), "skipped": -ops.cast(outlier, seen.dtype)}
    falls["total"] = ops.where(usable, (1.0 - DECAY) * (total - counted), 0.0)
    return outlier, {name: fall * ops.cast(mine, fall.dtype) for name, fall in falls.items()}


class SpikeGuard:
    """Says of each step whether it is taken.

    A norm above `limit` times the average of the norms so far is an outlier. Into the average it goes as the limit
    itself, so that a lasting change of the norms is followed within some dozens of steps instead of being skipped for
    ever. Norms that are not finite are for `diagnose.py`, which ends the run.

    Args:
        limit: how many times the average is too much.
        objectives: of which every step trains one.

    Example:
        >>> guard = SpikeGuard(4.0)
        >>> taken = [bool(guard.accepts(tf.constant(norm), tf.constant(True))) for norm in [1.0] * 30 + [5.0, 1.0]]
        >>> taken[-3:], int(guard.skipped.numpy())
        ([True, False, True], 1)

    Reference:
        Chowdhery et al. 2022 (PaLM), section 5.1, https://arxiv.org/abs/2204.02311: steps with a spike are left out.
    """

    def __init__(self, limit: float, objectives: int = 1):
        if not limit > 1.0:
            raise ValueError(f"spike_guard is {limit}: give how many times the average norm is too much, above 1")
        self.limit = limit
        zero = np.zeros(() if objectives == 1 else objectives, "float32")
        self.total = keras.Variable(zero, trainable=False, name="spike_total")  # the average, not yet divided
        self.seen = keras.Variable(zero, dtype="int", trainable=False, name="spike_seen")
        self.skipped = keras.Variable(zero, dtype="int", trainable=False, name="spike_skipped")

    def accepts(self, norm: tf.Tensor, usable: tf.Tensor, turn: tf.Tensor | int = 0) -> tf.Tensor:
        """Judges a norm and takes it into the average, in a replica's context.

        Args:
            norm: float32 scalar, of the gradient of the global batch.
            usable: bool scalar; where False the norm is not looked at: it is not finite, or of a batch without weight.
            turn: int32 scalar, which objective's the batch is.

        Returns:
            bool scalar: whether the step is to be taken.
        """
        outlier, falls = judge(self.limit, norm, usable, read_local(self.total), read_local(self.seen), turn)
        for name, variable in self.variables().items():
            subtract_local(variable, falls[name])
        return ~outlier

    def variables(self) -> dict[str, keras.Variable]:
        """Its numbers by name."""
        return {"total": self.total, "seen": self.seen, "skipped": self.skipped}

    def state(self) -> dict[str, np.ndarray]:
        """Its numbers, for a checkpoint."""
        return {name: ops.convert_to_numpy(variable) for name, variable in self.variables().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Assigns what `state` returned."""
        for name, value in state.items():
            getattr(self, name).assign(value)
