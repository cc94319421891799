"""Scores of classifiers, and how sure they are: accuracy with its interval, F1, Matthews correlation, confusion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from sklearn import metrics

from aillm_tf.metrics.bootstrap import Scores, Tally, ratio


def classification_scores(targets: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Scores one predicted class a row.

    Macro F1 is the mean over the classes that occur in targets or predictions.

    Args:
        targets: (rows,) true class ids.
        predicted: (rows,) predicted class ids.

    Returns:
        ``accuracy`` with its 95 % interval ``accuracy_low`` .. ``accuracy_high``, ``macro_f1``, ``matthews``,
        ``examples``.

    Raises:
        ValueError: no rows, or not as many predictions as targets.

    Example:
        >>> scores = classification_scores(np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]))
        >>> scores["accuracy"], round(scores["macro_f1"], 4)
        (0.75, 0.7333)

    Reference:
        Matthews 1975; Gorodkin 2004 for more than two classes.
    """
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    _check(targets, predicted, dimensions=1)
    correct = int((targets == predicted).sum())
    low, high = wilson_interval(correct, len(targets))
    return {
        "accuracy": correct / len(targets),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": float(metrics.f1_score(targets, predicted, average="macro", zero_division=0)),
        "matthews": float(metrics.matthews_corrcoef(targets, predicted)),
        "examples": len(targets),
    }


def multi_label_scores(targets: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Scores any number of predicted classes a row.

    Args:
        targets: (rows, classes) 0/1.
        predicted: (rows, classes) 0/1, that is, probabilities already compared with a threshold.

    Returns:
        ``micro_f1`` (over all cells), ``macro_f1`` (mean over classes; one never true and never predicted counts
        as 0), ``exact_match`` (share of rows with every class right) with its 95 % interval, ``examples``.

    Raises:
        ValueError: no rows, or shapes that differ.

    Example:
        >>> multi_label_scores(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [1, 0]]))["micro_f1"]
        0.8
    """
    targets, predicted = np.asarray(targets).astype(int), np.asarray(predicted).astype(int)
    _check(targets, predicted, dimensions=2)
    exact = int((targets == predicted).all(axis=1).sum())
    low, high = wilson_interval(exact, len(targets))
    return {
        "micro_f1": float(metrics.f1_score(targets, predicted, average="micro", zero_division=0)),
        "macro_f1": float(metrics.f1_score(targets, predicted, average="macro", zero_division=0)),
        "exact_match": exact / len(targets),
        "exact_match_low": low,
        "exact_match_high": high,
        "examples": len(targets),
    }


def classification_tally(targets: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Tally:
    """What `classification_scores` is made of: hits, true and predicted rows of each class.

    Args:
        targets, predicted: (rows,) class ids.
        labels: the name of each class.
    """
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    _check(targets, predicted, dimensions=1)
    true, guessed = (np.eye(len(labels))[ids] for ids in (targets, predicted))

    def scores(sums: np.ndarray) -> Scores:
        hits, true, guessed = _thirds(sums)
        rows, right = true.sum(-1), hits.sum(-1)
        spread = (rows**2 - (true**2).sum(-1)) * (rows**2 - (guessed**2).sum(-1))
        return {
            "accuracy": right / rows,
            "macro_f1": ratio(ratio(2 * hits, true + guessed).sum(-1), (true + guessed > 0).sum(-1)),
            "matthews": ratio(right * rows - (true * guessed).sum(-1), np.sqrt(spread)),
        }

    statistics = np.concatenate([true * guessed, true, guessed], axis=1)
    return Tally(statistics, scores, [labels[i] for i in targets], {"accuracy": targets == predicted})


def multi_label_tally(targets: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> Tally:
    """What `multi_label_scores` is made of.

    Args:
        targets, predicted: (rows, classes) 0/1.
        labels: the name of each class.
    """
    true, guessed = (np.asarray(flags).astype(float) for flags in (targets, predicted))
    _check(true, guessed, dimensions=2)
    exact = (true == guessed).all(axis=1)

    def scores(sums: np.ndarray) -> Scores:
        hits, true, guessed = _thirds(sums[..., 2:])
        return {
            "micro_f1": ratio(2 * hits.sum(-1), (true + guessed).sum(-1)),
            "macro_f1": ratio(2 * hits, true + guessed).mean(-1),
            "exact_match": sums[..., 0] / sums[..., 1],
        }

    statistics = np.concatenate([exact[:, None], np.ones_like(true[:, :1]), true * guessed, true, guessed], axis=1)
    keys = [tuple(label for label, flag in zip(labels, row, strict=True) if flag) for row in true]
    return Tally(statistics, scores, keys, {"exact_match": exact})


def _thirds(sums: np.ndarray) -> list[np.ndarray]:
    return np.split(sums, 3, axis=-1)


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts rows by true and predicted class.

    Args:
        targets: (rows,) true class ids.
        predicted: (rows,) predicted class ids.
        classes: number of classes.

    Returns:
        (classes, classes) int64: row is the true class, column the predicted one.

    Example:
        >>> confusion_matrix(np.array([0, 1, 1]), np.array([0, 1, 0]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    targets, predicted = np.asarray(targets), np.asarray(predicted)
    _check(targets, predicted, dimensions=1)
    return metrics.confusion_matrix(targets, predicted, labels=range(classes)).astype(np.int64)


def per_class(confusion: np.ndarray, labels: Sequence[str]) -> list[dict]:
    """Precision, recall and F1 of each class, from a confusion matrix.

    Args:
        confusion: (classes, classes) counts; row is the true class.
        labels: the name of each class.

    Returns:
        One dict a class: ``label``, ``precision``, ``recall``, ``f1``, ``examples`` (rows of that true class). A
        ratio with nothing below the line is 0.

    Example:
        >>> per_class(np.array([[3, 1], [0, 4]]), ["no", "yes"])[0]
        {'label': 'no', 'precision': 1.0, 'recall': 0.75, 'f1': 0.8571428571428571, 'examples': 4}
    """
    confusion = np.asarray(confusion)
    rows = []
    for index, label in enumerate(labels):
        hits, true, predicted = (
            int(n) for n in (confusion[index, index], confusion[index].sum(), confusion[:, index].sum())
        )
        rows.append(
            {
                "label": label,
                "precision": hits / predicted if predicted else 0.0,
                "recall": hits / true if true else 0.0,
                "f1": 2 * hits / (true + predicted) if true + predicted else 0.0,
                "examples": true,
            }
        )
    return rows


def wilson_interval(correct: int, total: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The interval that a proportion lies in with 95 % confidence (at the default z).

    Args:
        correct: number of successes.
        total: number of trials, above 0.
        z: quantile of the normal distribution.

    Returns:
        (low, high), within 0 .. 1.

    Raises:
        ValueError: total is 0 or correct is outside 0 .. total.

    Example:
        >>> [round(x, 4) for x in wilson_interval(2310, 3000)]
        [0.7546, 0.7847]

    Reference:
        Wilson 1927, Probable inference, the law of succession, and statistical inference.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} correct of {total}: there is nothing to score")
    share = correct / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _check(targets: np.ndarray, predicted: np.ndarray, dimensions: int) -> None:
    if targets.ndim != dimensions or targets.shape != predicted.shape:
        raise ValueError(f"targets have shape {targets.shape}, predictions {predicted.shape}: both need {dimensions}-d")
    if len(targets) == 0:
        raise ValueError("no rows to score: is the data file empty, or was every row skipped?")
