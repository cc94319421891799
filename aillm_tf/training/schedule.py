"""Learning-rate schedules: a linear warm-up, then one of a table of decays, as pure functions of the step."""

from __future__ import annotations

import difflib
import math
from typing import Any

import keras
from keras import ops


def _part(step: Any, first: int, last: int) -> Any:
    """How much of the way from step ``first`` to step ``last`` is done: 0 before, 1 after."""
    return ops.clip((step - first) / max(last - first, 1), 0.0, 1.0)


def _linear(step: Any, warmup: int, steps: int, decay_steps: int) -> Any:
    return _part(step, warmup, steps)


def _cosine(step: Any, warmup: int, steps: int, decay_steps: int) -> Any:
    return 0.5 * (1.0 - ops.cos(math.pi * _part(step, warmup, steps)))


def _inverse_sqrt(step: Any, warmup: int, steps: int | None, decay_steps: int) -> Any:
    first = max(warmup, 1)
    step = ops.maximum(step if steps is None else ops.minimum(step, steps), first)
    return 1.0 - ops.sqrt(first / step)


def _wsd(step: Any, warmup: int, steps: int, decay_steps: int) -> Any:
    return _part(step, max(warmup, steps - decay_steps), steps)


def _constant(step: Any, warmup: int, steps: int | None, decay_steps: int) -> Any:
    return ops.zeros_like(step)


# How much of the way from the peak (0) to the end (1) is done at a float32 step.
DECAYS = {
    "linear": _linear,
    "cosine": _cosine,
    "inverse_sqrt": _inverse_sqrt,
    "wsd": _wsd,
    "constant": _constant,
}
ENDLESS = ("inverse_sqrt", "constant")


@keras.saving.register_keras_serializable(package="aillm_tf")
class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate as a function of the step; made by ``schedule``, which describes the arguments."""

    def __init__(
        self,
        peak: float,
        steps: int | None,
        warmup: float = 0.0,
        kind: str = "linear",
        end: float = 0.0,
        decay_fraction: float = 0.1,
    ):
        super().__init__()
        if kind not in DECAYS:
            nearest = difflib.get_close_matches(str(kind), DECAYS, n=1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise ValueError(f"unknown schedule {kind!r}: choose one of {', '.join(DECAYS)}{hint}")
        if steps is None and (kind not in ENDLESS or 0 < warmup < 1):
            raise ValueError(
                f"a {kind!r} schedule with a warm-up of {warmup} needs the number of steps of the run: give steps=, "
                f"or choose {' or '.join(ENDLESS)} with a warm-up in steps"
            )
        if steps is not None and steps < 1:
            raise ValueError(f"a schedule needs at least 1 step, not {steps}")
        if not 0 <= end <= peak:
            raise ValueError(f"learning rates must be 0 <= end <= peak, not end={end} and peak={peak}")
        if not 0 <= decay_fraction <= 1:
            raise ValueError(f"decay_fraction is a part of all steps, between 0 and 1, not {decay_fraction}")
        # Plain numbers, so that get_config is JSON whatever kind of number was given.
        self.peak, self.end, self.decay_fraction = float(peak), float(end), float(decay_fraction)
        self.steps, self.kind = None if steps is None else int(steps), kind
        self.warmup = float(warmup) if warmup < 1 else int(warmup)
        self.warmup_steps = round(self.warmup * (self.steps or 0)) if self.warmup < 1 else self.warmup
        if self.warmup < 0 or (steps is not None and self.warmup_steps > steps):
            raise ValueError(f"warm-up of {warmup} does not fit into {steps} steps: give steps or a part below 1")

    def __call__(self, step: Any) -> Any:
        """The learning rate of the update made after ``step`` updates.

        Args:
            step: integer or integer tensor, any shape, counted from 0.

        Returns:
            float32 tensor of the same shape.
        """
        step = ops.cast(step, "float32")
        done = DECAYS[self.kind](step, self.warmup_steps, self.steps, round(self.decay_fraction * (self.steps or 0)))
        # Written so that the peak and the end are met exactly, with no rounding left over.
        decayed = self.peak * (1.0 - done) + self.end * done
        return ops.where(step < self.warmup_steps, self.peak * (step / max(self.warmup_steps, 1)), decayed)

    def get_config(self) -> dict[str, Any]:
        return {
            "peak": self.peak,
            "steps": self.steps,
            "warmup": self.warmup,
            "kind": self.kind,
            "end": self.end,
            "decay_fraction": self.decay_fraction,
        }


def schedule(
    peak: float,
    steps: int | None,
    warmup: float = 0.0,
    kind: str = "linear",
    end: float = 0.0,
    decay_fraction: float = 0.1,
) -> Schedule:
    """Makes a learning-rate schedule for a Keras optimizer.

    Warm-up is ``peak * step / warmup`` with the step counted from 0, as in Hugging Face transformers: with a warm-up
    the very first update has learning rate 0 (it still fills the optimizer's moments) and update number ``warmup``,
    counted from 0, is the first with the peak. Without a warm-up the first update has the peak.

    After it, by ``kind``, reaching ``end`` at ``steps`` and staying there:

    - ``"linear"``: a straight line.
    - ``"cosine"``: half a cosine wave.
    - ``"wsd"``: warm-up, stable, decay: the peak until the last ``decay_fraction`` of the steps, then a straight line.
    - ``"inverse_sqrt"``: ``peak * sqrt(warmup / step)`` in its way to ``end=0``, without a last step of its own: after
      ``steps`` it stays at the value it has there.
    - ``"constant"``: the peak.

    Args:
        peak: highest learning rate.
        steps: optimizer steps of the whole run, the warm-up included. May be None for the two kinds that need no end,
            ``"constant"`` and ``"inverse_sqrt"``.
        warmup: steps of the warm-up; below 1, the part of ``steps``. 1 is one step.
        kind: a name from the list above.
        end: learning rate at ``steps`` and after; for ``"inverse_sqrt"`` the value it falls towards.
        decay_fraction: for ``"wsd"``, the part of ``steps`` in which the rate falls.

    Returns:
        A ``LearningRateSchedule`` that takes host integers and integer tensors.

    Raises:
        ValueError: an unknown kind, or numbers that make no schedule.

    Example:
        >>> rate = schedule(1e-3, steps=100, warmup=0.1)
        >>> [round(float(rate(step)), 6) for step in (0, 5, 10, 55, 100, 1000)]
        [0.0, 0.0005, 0.001, 0.0005, 0.0, 0.0]

    Reference:
        Warm-up: Goyal et al. 2017, https://arxiv.org/abs/1706.02677.
        Cosine: Loshchilov and Hutter 2016, https://arxiv.org/abs/1608.03983.
        Inverse square root: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
        WSD: Hu et al. 2024 (MiniCPM), https://arxiv.org/abs/2404.06395.
    """
    return Schedule(peak, steps, warmup, kind, end, decay_fraction)
