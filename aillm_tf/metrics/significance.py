"""Whether one system is better than another on the same examples, or merely luckier."""

from __future__ import annotations

from typing import Any

import numpy as np

from aillm_tf.metrics.bootstrap import RESAMPLES, Tally, resampled


class OtherExamples(ValueError):
    """Two systems were not scored on the same examples."""


def mcnemar(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """McNemar's exact test: of the examples that only one of two systems has right, does one have more than half?

    Args:
        first, second: (examples,) bool, what each has right.

    Returns:
        ``only_first`` and ``only_second``, examples, and the two-sided ``p_value``.

    Example:
        >>> mcnemar(np.array([1, 1, 1, 0, 1], bool), np.array([0, 0, 0, 0, 1], bool))
        {'only_first': 3, 'only_second': 0, 'p_value': 0.25}

    Reference:
        McNemar 1947; Dietterich 1998, Approximate statistical tests for comparing supervised classification learning
        algorithms
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    p_value = binomtest(only_first, only_first + only_second).pvalue if only_first + only_second else 1.0
    return {"only_first": only_first, "only_second": only_second, "p_value": float(p_value)}


def compared(first: Tally, second: Tally, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Compares two systems by every score that both have.

    The p-value is that of the paired bootstrap, two-sided: how often a resample's difference is as far from the
    observed one as that is from 0, counting the observed one itself.

    Args:
        first, second: of the same examples.
        resamples, seed: see `aillm_tf.metrics.bootstrap`.

    Returns:
        Name -> ``first``, ``second``, ``difference`` (first - second) with its 95 % interval ``difference_low`` ..
        ``difference_high``, ``p_value``, and, where the score is a share of right examples, ``mcnemar``.

    Raises:
        OtherExamples: they are not of the same examples.

    Reference:
        Efron & Tibshirani 1993, An introduction to the bootstrap, chapter 16; Berg-Kirkpatrick et al. 2012, An
        empirical investigation of statistical significance in NLP, https://aclanthology.org/D12-1091
    """
    if len(first) != len(second):
        raise OtherExamples(f"compared are scores of the same examples, not of {len(first)} and {len(second)}")
    for number, (one, other) in enumerate(zip(first.keys, second.keys, strict=True), start=1):
        if one != other:
            raise OtherExamples(
                f"compared are scores of the same examples: number {number} is {str(one)[:80]!r} for one and "
                f"{str(other)[:80]!r} for the other"
            )
    scores, others = first.score(), second.score()
    draws, other_draws = (resampled(tally, resamples, seed) for tally in (first, second))
    found: dict[str, dict[str, Any]] = {}
    for name in (name for name in scores if name in others):
        difference, differences = scores[name] - others[name], draws[name] - other_draws[name]
        differences = differences[np.isfinite(differences)]
        if not len(differences):
            continue
        # rounding must not tell apart what is as far
        far = np.abs(differences - difference) >= abs(difference) - 1e-12
        low, high = np.quantile(differences, [0.025, 0.975])
        found[name] = {
            "first": scores[name],
            "second": others[name],
            "difference": difference,
            "difference_low": float(low),
            "difference_high": float(high),
            "p_value": (int(far.sum()) + 1) / (len(differences) + 1),
        }
        if name in first.correct and name in second.correct:
            found[name]["mcnemar"] = mcnemar(first.correct[name], second.correct[name])
    return found
