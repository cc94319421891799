"""Mixture: several data sets in one run, one of them at every step, by a schedule that is a function of (seed, step).

A batch is that of one data set; the features of the others are there too, so that all batches have one structure, but
as zeros of their static shape, or of no rows where the number of rows is not static.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from aillm_tf.data.pipeline import Dataset

BLOCK = 60  # steps within which every data set gets its share; of equal shares exactly, for up to six data sets


class Schedule:
    """Which of several data sets each step takes.

    Every block of 60 steps gives a data set its share, rounded up or down at random (systematic sampling, so that the
    expected number is exact whatever the shares), in random order.

    Args:
        shares: of the steps; positive, they are normalised.
        seed: of rounding and order.

    Example:
        >>> schedule = Schedule([0.5, 0.5], seed=0)
        >>> schedule.before(60).tolist()
        [30, 30]
    """

    def __init__(self, shares, seed: int):
        shares = np.asarray(shares, float)
        if not len(shares) or not np.isfinite(shares).all() or shares.min() <= 0:
            raise ValueError(f"shares are positive numbers, not {shares.tolist()}")
        self.shares, self.seed = shares / shares.sum(), seed
        self._block = functools.lru_cache(maxsize=1024)(self._make_block)
        self._totals = np.zeros((1, len(shares)), np.int64)  # [n]: steps of each data set in the first n blocks

    def _make_block(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed & 0x7FFFFFFF, 0x3117, number])
        points = (rng.random() + np.arange(BLOCK)) / BLOCK
        return rng.permutation(np.minimum(np.searchsorted(np.cumsum(self.shares), points), len(self.shares) - 1))

    def choices(self, first: int, last: int) -> np.ndarray:
        """The data sets of the steps [first, last): int64."""
        blocks = [self._block(number) for number in range(first // BLOCK, -(-last // BLOCK))]
        start = first % BLOCK
        return np.concatenate([np.zeros(0, np.int64), *blocks])[start : start + max(0, last - first)]

    def before(self, step: int) -> np.ndarray:
        """How many of the steps [0, step) each data set has: (data sets,) int64."""
        number = step // BLOCK
        if number >= len(self._totals):
            more = [
                np.bincount(self._block(n), minlength=len(self.shares)) for n in range(len(self._totals) - 1, number)
            ]
            self._totals = np.concatenate([self._totals, self._totals[-1] + np.cumsum(more, axis=0)])
        return self._totals[number] + np.bincount(self.choices(number * BLOCK, step), minlength=len(self.shares))


class Mixture(Dataset):
    """Several data sets as one; a step takes its batch from one of them, which goes through its own epochs.

    Batches hold "NAME/FEATURE" for every feature of every data set, and "NAME/active" (rows,) int32, which is 1 for the
    data set whose batch it is.

    Args:
        parts: name -> data set.
        weights: name -> how often, relative to the others; None: as often as each other, or by temperature.
        temperature: shares are those of the rows to the power of 1 / temperature: 1 in proportion to the rows, more
            evens them out (Arivazhagan et al. 2019, arXiv:1907.05019).
        seed: of the schedule.

    Raises:
        ValueError: weights that do not belong to the parts, or both weights and temperature.
    """

    def __init__(
        self,
        parts: Mapping[str, Dataset],
        *,
        weights: Mapping[str, float] | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ):
        if weights is not None and temperature is not None:
            raise ValueError("give weights or a temperature, not both")
        if weights is not None and set(weights) != set(parts):
            raise ValueError(f"weights for {', '.join(weights)}; the parts are {', '.join(parts)}")
        if temperature is not None and temperature <= 0:
            raise ValueError(f"temperature is above 0, not {temperature}")
        self.parts, self.names, self.seed = dict(parts), tuple(parts), seed
        if temperature is not None:
            shares = [len(part) ** (1.0 / temperature) for part in parts.values()]
        else:
            shares = [1.0 if weights is None else weights[name] for name in parts]
        self.schedule = Schedule(shares, seed)
        self.steps_per_epoch = sum(part.steps_per_epoch for part in parts.values())

    def __len__(self) -> int:
        return sum(map(len, self.parts.values()))

    def name_of(self, step: int) -> str:
        """Whose batch a step has."""
        return self.names[self.schedule.choices(step, step + 1)[0]]

    def steps_of(self, name: str, first_step: int, last_step: int) -> tuple[int, int]:
        """The steps of its own that a data set makes in the steps [first_step, last_step)."""
        number = self.names.index(name)
        first, last = (int(self.schedule.before(step)[number]) for step in (first_step, last_step))
        return first, last

    @property
    def padding_fraction(self) -> float:
        """Share of the positions of an epoch of every part that hold no token."""
        parts = self.parts.values()
        tokens = [part.tokens(0, part.steps_per_epoch) for part in parts]
        positions = [n / max(1.0 - part.padding_fraction, 1e-9) for n, part in zip(tokens, parts, strict=True)]
        return 1.0 - sum(tokens) / sum(positions)

    @property
    def fingerprint(self) -> str:
        """A checksum of the data and its order: equal exactly when every batch is."""
        parts = [(name, part.fingerprint) for name, part in self.parts.items()]
        return f"{zlib.crc32(repr((parts, self.schedule.shares.tolist(), self.seed)).encode()):08x}"

    def tokens(self, first_step: int, last_step: int) -> int:
        """Tokens without padding in the steps [first_step, last_step)."""
        return sum(self.tokens_of(first_step, last_step).values())

    def tokens_of(self, first_step: int, last_step: int) -> dict[str, int]:
        """The same, of every data set."""
        return {name: part.tokens(*self.steps_of(name, first_step, last_step)) for name, part in self.parts.items()}

    def batch_rows(self, step: int) -> tuple[np.ndarray, int, int]:
        """(row numbers, positions of a row, rows of a full batch) of a step, of the data set whose it is."""
        name = self.name_of(step)
        return self.parts[name].batch_rows(self.steps_of(name, step, step)[0])

    def batches(
        self,
        first_step: int = 0,
        last_step: int | None = None,
        *,
        replicas: range = range(1),
        total: int = 1,
        micro: int = 1,
    ) -> tf.data.Dataset:
        """Batches of the steps [first_step, last_step), see `Dataset.batches`."""
        if last_step is None:
            last_step = (first_step // self.steps_per_epoch + 1) * self.steps_per_epoch
        streams = {}
        for name, part in self.parts.items():
            first, last = self.steps_of(name, first_step, last_step)
            # at least one step, whose batch nobody asks for, so that its structure is known
            streams[name] = part.batches(first, max(last, first + 1), replicas=replicas, total=total, micro=micro)
        specs = {name: stream.element_spec for name, stream in streams.items()}
        whole = [stream.map(_in_all(name, specs)) for name, stream in streams.items()]
        choices = np.repeat(self.schedule.choices(first_step, last_step), len(replicas))
        choice = tf.data.Dataset.from_tensor_slices(choices.astype(np.int64))
        made = tf.data.Dataset.choose_from_datasets(whole, choice, stop_on_empty_dataset=False).prefetch(2)
        options = tf.data.Options()
        options.autotune.enabled = False  # see `Dataset.batches`
        return made.with_options(options)

    def specs(self, micro: int = 1) -> dict[str, dict[str, tf.TensorSpec]]:
        """name -> the features of that data set's batches on one device."""
        return {name: part.batches(0, 1, micro=micro).element_spec for name, part in self.parts.items()}


def _in_all(name: str, specs: dict[str, dict[str, tf.TensorSpec]]):
    """A function of a batch of one data set that adds the features of the others."""

    @tf.autograph.experimental.do_not_convert
    def add(batch: dict) -> dict:
        made = {}
        for other, features in specs.items():
            for feature, spec in features.items():
                empty = [size or 0 for size in spec.shape]
                made[f"{other}/{feature}"] = batch[feature] if other == name else tf.zeros(empty, spec.dtype)
            rows = tf.shape(made[f"{other}/row"])
            active = tf.fill(rows, int(other == name))
            made[f"{other}/active"] = tf.ensure_shape(active, features["row"].shape) if other == name else active
        return made

    return add
