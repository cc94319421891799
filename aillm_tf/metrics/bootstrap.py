"""How sure scores are: examples are drawn with replacement, and everything is scored again from sums over them.

A score that is a function of sums over examples (counts of entities, n-grams, right answers) needs no second look at
the texts: a resample is a vector of how often each example was drawn, and all resamples are one matrix product.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 1000
DRAWS = 1 << 24  # held at once

Scores = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tally:
    """What scores are made of, an example at a time.

    Args:
        statistics: (examples, columns) float64; scores depend on their sums over examples only.
        scores: sums (..., columns) -> name -> scores (...); NaN where one is not defined.
        keys: what each example is, so that two systems are compared on the same ones.
        correct: name of a score that is a share of right examples -> (examples,) bool.
    """

    statistics: np.ndarray
    scores: Callable[[np.ndarray], Scores]
    keys: Sequence[Any]
    correct: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.statistics)

    def score(self) -> dict[str, float]:
        """The scores of the examples as they are."""
        return {name: float(value) for name, value in self.scores(self.statistics.sum(0)).items()}

    def renamed(self, prefix: str) -> Tally:
        """The same with `prefix` before the names of the scores."""
        correct = {prefix + name: flags for name, flags in self.correct.items()}

        def scores(sums: np.ndarray) -> Scores:
            return {prefix + name: value for name, value in self.scores(sums).items()}

        return dataclasses.replace(self, scores=scores, correct=correct)


def ratio(above, below):
    """Above divided by below, 0 where below is 0."""
    above, below = np.asarray(above, float), np.asarray(below, float)
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below != 0)


def mean_tally(columns: Mapping[str, Sequence[float]], keys: Sequence[Any], correct=None) -> Tally:
    """The tally of scores that are means over examples.

    Args:
        columns: name -> (examples,) values.
        keys, correct: as for `Tally`.

    Example:
        >>> mean_tally({"rougeL": [0.0, 50.0]}, ["a", "b"]).score()
        {'rougeL': 25.0}
    """
    values = np.stack([*map(np.asarray, columns.values()), np.ones(len(keys))], axis=-1).astype(float)
    names = list(columns)

    def scores(sums: np.ndarray) -> Scores:
        return {name: sums[..., i] / sums[..., -1] for i, name in enumerate(names)}

    return Tally(values, scores, keys, correct or {})


def resampled(tally: Tally, resamples: int = RESAMPLES, seed: int = 0) -> Scores:
    """Scores of resamples.

    Args:
        tally: of one system.
        resamples: how many.
        seed: of the draws. Tallies of as many examples have the same ones, so that differences are paired.

    Returns:
        Name -> (resamples,).

    Raises:
        ValueError: no example.
    """
    count = len(tally)
    if not count:
        raise ValueError("no examples to resample: is the data file empty, or was every row skipped?")
    generator, sums = np.random.default_rng(seed), []
    at_once = max(1, DRAWS // count)
    for start in range(0, resamples, at_once):
        few = min(at_once, resamples - start)
        drawn = generator.integers(0, count, (few, count))
        drawn += count * np.arange(few)[:, None]
        times = np.bincount(drawn.ravel(), minlength=few * count).reshape(few, count)
        sums.append(times.astype(float) @ tally.statistics)
    return tally.scores(np.concatenate(sums))


def intervals(
    tally: Tally, resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the scores.

    Args:
        tally: of one system.
        resamples, seed: as for `resampled`.
        level: share of the resamples within.

    Returns:
        Name -> (low, high), of the scores that are defined.

    Example:
        >>> low, high = intervals(mean_tally({"accuracy": [0, 1] * 500}, range(1000)))["accuracy"]
        >>> 0.46 < low < 0.48 and 0.52 < high < 0.54
        True

    Reference:
        Efron 1979, Bootstrap methods: another look at the jackknife; Koehn 2004, Statistical significance tests for
        machine translation evaluation, https://aclanthology.org/W04-3250
    """
    found = {}
    for name, values in resampled(tally, resamples, seed).items():
        values = values[np.isfinite(values)]
        if len(values):
            low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            found[name] = (float(low), float(high))
    return found
