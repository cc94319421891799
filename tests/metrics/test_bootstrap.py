"""Intervals by resampling: scipy's and sacreBLEU's on the same draws; tallies score resamples as the scorers do."""

import numpy as np
import pytest
from scipy import stats

from aillm_tf.metrics import classification, entities, squad, summaries, translation
from aillm_tf.metrics.bootstrap import intervals, mean_tally, resampled

SENTENCES = [
    ("the cat sat on the mat .", ["the cat sat on the mat .", "a cat was on the mat ."]),
    ("a dog barks", ["the dog barked loudly"]),
    ("it rains in Berlin today", ["today it is raining in Berlin", "it rains in Berlin"]),
    ("", ["nothing was said"]),
    ("two men play chess in a park .", ["two men are playing chess in the park ."]),
] * 4


def drawn(count, seed=0):
    """The examples of one resample, as `resampled` draws them."""
    return np.random.default_rng(seed).integers(0, count, (1, count))[0]


def test_the_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(1).gamma(2.0, size=80)
    found = intervals(mean_tally({"x": values}, range(80)), resamples=500, seed=3)["x"]
    options = {"n_resamples": 500, "method": "percentile", "vectorized": True}
    theirs = stats.bootstrap((values,), np.mean, rng=np.random.default_rng(3), **options).confidence_interval
    np.testing.assert_allclose(found, theirs, rtol=1e-12)


def test_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    tally = mean_tally({"x": np.arange(7.0)}, range(7))
    whole = resampled(tally, 50, seed=1)["x"]
    monkeypatch.setattr("aillm_tf.metrics.bootstrap.DRAWS", 20)
    np.testing.assert_array_equal(resampled(tally, 50, seed=1)["x"], whole)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        low, high = intervals(mean_tally({"x": rng.random(100) < 0.7}, range(100)), 200, seed)["x"]
        hits += low <= 0.7 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_a_score_that_is_not_defined_has_no_interval():
    assert intervals(mean_tally({"x": [np.nan, np.nan]}, range(2))) == {}
    with pytest.raises(ValueError, match="no examples"):
        intervals(mean_tally({"x": []}, []))


@pytest.mark.parametrize("classes", [2, 5])
def test_a_resample_of_a_classifier_scores_as_sklearn_does(classes):
    rng = np.random.default_rng(classes)
    targets, predicted = rng.integers(0, classes, 40), rng.integers(0, classes, 40)
    tally = classification.classification_tally(targets, predicted, list("abcde")[:classes])
    rows = drawn(40)
    theirs = classification.classification_scores(targets[rows], predicted[rows])
    for name, values in resampled(tally, 1).items():
        assert values[0] == pytest.approx(theirs[name]), name
    assert tally.score()["accuracy"] == classification.classification_scores(targets, predicted)["accuracy"]


def test_a_resample_of_a_multi_label_classifier_scores_as_sklearn_does():
    targets, predicted = np.random.default_rng(0).integers(0, 2, (2, 30, 3))
    rows = drawn(30)
    theirs = classification.multi_label_scores(targets[rows], predicted[rows])
    for name, values in resampled(classification.multi_label_tally(targets, predicted, list("abc")), 1).items():
        assert values[0] == pytest.approx(theirs[name]), name


def test_a_resample_of_a_tagger_scores_as_seqeval_does():
    rng = np.random.default_rng(5)
    tags = np.array(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG"])
    targets, predicted = ([list(tags[rng.integers(0, 6, n)]) for n in range(1, 26)] for _ in range(2))
    rows = drawn(25)
    theirs = entities.entity_scores([targets[i] for i in rows], [predicted[i] for i in rows])
    for name, values in resampled(entities.entity_tally(targets, predicted), 1).items():
        assert values[0] == pytest.approx(theirs[name]), name


def test_a_resample_of_answers_scores_as_squad_does():
    answers = ["Rollo", "", "in 911", "the Seine", "Rouen"] * 4
    golds = [["Rollo"], [], ["911", "in 911 AD"], [], ["Paris"]] * 4
    found = squad.score(answers, golds)
    tally = squad.answer_tally(found.exact, found.f1, golds, [str(i) for i in range(20)])
    assert tally.score() == pytest.approx({k: v for k, v in found.summary.items() if not k.endswith("total")})
    rows = drawn(20)
    theirs = squad.score([answers[i] for i in rows], [golds[i] for i in rows]).summary
    for name, values in resampled(tally, 1).items():
        assert values[0] == pytest.approx(theirs[name]), name


def test_a_resample_of_translations_scores_as_sacrebleu_does():
    written, references = zip(*SENTENCES, strict=True)
    rows = drawn(len(written))
    theirs = translation.translation_scores([written[i] for i in rows], [references[i] for i in rows]).scores
    found = resampled(translation.translation_tally(written, references), 1)
    assert {name: values[0] for name, values in found.items()} == pytest.approx(theirs)


def test_the_intervals_of_translations_are_as_wide_as_sacrebleus(monkeypatch):
    from sacrebleu.metrics import BLEU
    from sacrebleu.significance import PairedTest

    monkeypatch.setenv("SACREBLEU_SEED", "7")
    written, references = zip(*SENTENCES, strict=True)
    streams = [[texts[i] if i < len(texts) else None for texts in references] for i in range(2)]
    systems = [("a", list(written)), ("b", [text.replace("a ", "the ") for text in written])]
    _, theirs = PairedTest(systems, {"BLEU": BLEU()}, streams, test_type="bs", n_samples=400)()
    ours = np.sort(resampled(translation.translation_tally(written, references), 400, seed=7)["bleu"])
    assert ours.mean() == pytest.approx(theirs["BLEU"][0].mean)
    # sacreBLEU takes the tenth value from either end, and gives half of the width
    assert (ours[-11] - ours[10]) / 2 == pytest.approx(theirs["BLEU"][0].ci)


def test_summaries_are_means_over_rows():
    written, references = zip(*SENTENCES, strict=True)
    theirs = summaries.summary_scores(written, references)
    assert summaries.summary_tally(written, references).score() == pytest.approx(theirs)
