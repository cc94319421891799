"""Classification metrics against hand-counted numbers and published formulas."""

import math

import numpy as np
import pytest

from aillm_tf.metrics.classification import (
    classification_scores,
    confusion_matrix,
    multi_label_scores,
    per_class,
    wilson_interval,
)

TARGETS = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
PREDICTED = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 0])


def test_accuracy_and_examples():
    scores = classification_scores(TARGETS, PREDICTED)
    assert scores["accuracy"] == 0.7
    assert scores["examples"] == 10
    assert scores["accuracy_low"] < 0.7 < scores["accuracy_high"]


def test_macro_f1_is_the_mean_of_the_classes():
    # f1 = 2 hits / (true + predicted): 6/8, 4/6, 4/6
    assert classification_scores(TARGETS, PREDICTED)["macro_f1"] == pytest.approx((6 / 8 + 4 / 6 + 4 / 6) / 3)


def test_matthews_of_two_classes_is_the_formula():
    targets, predicted = np.array([1] * 7 + [0] * 5), np.array([1] * 6 + [0] + [0] * 3 + [1] * 2)
    tp, fn, tn, fp = 6, 1, 3, 2
    formula = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert classification_scores(targets, predicted)["matthews"] == pytest.approx(formula)


def test_always_one_class_has_matthews_zero():
    assert classification_scores(np.array([0, 1, 1]), np.array([1, 1, 1]))["matthews"] == 0.0


def test_confusion_rows_are_true_classes_and_absent_classes_stay():
    expected = [[3, 1, 0, 0], [0, 2, 1, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    assert confusion_matrix(TARGETS, PREDICTED, 4).tolist() == expected


def test_per_class_from_confusion():
    rows = per_class(confusion_matrix(TARGETS, PREDICTED, 4), ["a", "b", "c", "d"])
    assert rows[0] == {"label": "a", "precision": 0.75, "recall": 0.75, "f1": 0.75, "examples": 4}
    assert rows[3] == {"label": "d", "precision": 0.0, "recall": 0.0, "f1": 0.0, "examples": 0}


def test_multi_label():
    targets = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]])
    predicted = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]])
    scores = multi_label_scores(targets, predicted)
    assert scores["micro_f1"] == pytest.approx(2 * 4 / (5 + 5))
    assert scores["macro_f1"] == pytest.approx((1 + 1 + 0) / 3)
    assert scores["exact_match"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"), [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_wilson_interval(correct, total, low, high):
    assert wilson_interval(correct, total) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_wilson_covers_the_truth_95_percent_of_the_time():
    draws = np.random.default_rng(0).binomial(500, 0.8, size=2000)
    intervals = [wilson_interval(int(n), 500) for n in draws]
    assert 0.935 < np.mean([low <= 0.8 <= high for low, high in intervals]) < 0.965


def test_no_rows_is_an_error():
    with pytest.raises(ValueError, match="no rows to score"):
        classification_scores(np.array([], int), np.array([], int))


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        classification_scores(np.zeros(3, int), np.zeros(2, int))
