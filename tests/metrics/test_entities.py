"""Scores of entities: equal to seqeval's, to the last bit, on random and adversarial predictions."""

import warnings

import numpy as np
import pytest

from aillm_tf.data.tags import Entity
from aillm_tf.metrics.entities import compared, entity_scores, type_confusion, type_scores, worst_sentences

SCORES = ("precision", "recall", "f1")
ADVERSARIAL = [
    ([["O", "O"]], [["O", "O"]]),
    ([["O"]], [["B-A"]]),
    ([["B-A"]], [["O"]]),
    ([["B-A", "I-A"], ["I-A"]], [["I-A", "I-A"], ["B-A"]]),
    ([["B-A", "I-B", "I-A"]], [["B-A", "I-A", "I-A"]]),
    ([["I-A", "B-A", "B-A"]], [["B-A", "I-A", "B-A"]]),
    ([["B-a-b", "I-a-b"]], [["B-a", "I-a-b"]]),
    ([["B-A"], ["I-A"]], [["B-A"], ["I-A"]]),
    ([[], ["B-A"]], [[], ["B-A"]]),
]


def random_sets(count, prefixes):
    chance = np.random.default_rng(7)
    for number in range(count):
        kinds = ["PER", "LOC", "creative-work"][: 1 + number % 3]
        tags = ["O", *(f"{prefix}-{kind}" for prefix in prefixes for kind in kinds)]
        targets = [chance.choice(tags, chance.integers(1, 9)).tolist() for _ in range(chance.integers(1, 6))]
        keep = chance.random()
        predicted = [[tag if chance.random() < keep else str(chance.choice(tags)) for tag in row] for row in targets]
        yield targets, predicted


def check_default(targets, predicted):
    metrics = pytest.importorskip("seqeval.metrics")
    functions = [getattr(metrics, f"{name}_score") for name in SCORES]
    scores = entity_scores(targets, predicted)
    assert [scores[name] for name in SCORES] == [score(targets, predicted) for score in functions]
    by_type = type_scores(targets, predicted)
    for name, score in zip(SCORES, functions, strict=True):
        assert [row[name] for row in by_type] == score(targets, predicted, average=None).tolist()


def check_strict(targets, predicted):
    metrics, scheme = pytest.importorskip("seqeval.metrics"), pytest.importorskip("seqeval.scheme")
    scores, by_type = entity_scores(targets, predicted), type_scores(targets, predicted, strict=True)
    for name in SCORES:
        score = getattr(metrics, f"{name}_score")
        assert scores[f"strict_{name}"] == score(targets, predicted, mode="strict", scheme=scheme.IOB2)
        per_type = score(targets, predicted, mode="strict", scheme=scheme.IOB2, average=None)
        assert [row[name] for row in by_type] == per_type.tolist()


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqeval warns of every ratio of nothing
        yield


@pytest.mark.parametrize("prefixes", ["BI", "BIES"])
def test_a_thousand_random_predictions_have_the_scores_of_seqeval(prefixes):
    for targets, predicted in random_sets(1000, prefixes):
        check_default(targets, predicted)
        if prefixes == "BI":
            check_strict(targets, predicted)


@pytest.mark.parametrize("targets, predicted", ADVERSARIAL)
def test_adversarial_predictions_have_the_scores_of_seqeval(targets, predicted):
    check_default(targets, predicted)
    check_strict(targets, predicted)


def test_macro_f1_is_the_mean_over_types():
    scores = entity_scores([["B-A", "B-B"]], [["B-A", "O"]])
    assert scores["macro_f1"] == 0.5


def test_confusion_pairs_the_entities_that_overlap_most():
    targets = [["B-PER", "I-PER", "B-LOC", "O", "B-ORG"]]
    predicted = [["B-PER", "I-ORG", "I-ORG", "B-LOC", "O"]]
    names, counts = type_confusion(targets, predicted)
    found = {(a, b): counts[i][j] for i, a in enumerate(names) for j, b in enumerate(names) if counts[i][j]}
    assert found == {("PER", "PER"): 1, ("LOC", "ORG"): 1, ("ORG", "(none)"): 1, ("(none)", "LOC"): 1}


def test_worst_sentences_are_wrong_and_ordered_by_loss():
    targets = [["B-A"], ["B-A"], ["O"], ["B-A"]]
    predicted = [["B-A"], ["O"], ["B-A"], ["B-B"]]
    assert worst_sentences(targets, predicted, [9.0, 1.0, 3.0, 2.0]) == [2, 3, 1]
    assert worst_sentences(targets, predicted, [9.0, 1.0, 3.0, 2.0], most=1) == [2]


def test_compared_says_what_is_right_missed_and_wrong():
    found = compared(["B-A", "O", "B-B"], ["B-A", "B-B", "O"])
    assert found == [(Entity("A", 0, 1), "right"), (Entity("B", 1, 2), "wrong"), (Entity("B", 2, 3), "missed")]


@pytest.mark.parametrize("targets, predicted", [([], []), ([["O"]], [["O", "O"]]), ([["O"]], [["O"], ["O"]])])
def test_what_cannot_be_compared_is_refused(targets, predicted):
    with pytest.raises(ValueError):
        entity_scores(targets, predicted)
