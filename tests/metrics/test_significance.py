"""Paired tests: McNemar's exact test equals statsmodels', the paired bootstrap agrees with the t-test of means."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from aillm_tf.metrics.bootstrap import mean_tally
from aillm_tf.metrics.classification import classification_tally
from aillm_tf.metrics.significance import compared, mcnemar

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "significance.json").read_text())


@pytest.mark.parametrize(("a", "b", "p_value"), GOLDEN)
def test_mcnemar_is_statsmodels(a, b, p_value):
    first = np.repeat([True, False, True], [a, b, 9])
    second = np.repeat([False, True, True], [a, b, 9])
    found = mcnemar(first, second)
    assert (found["only_first"], found["only_second"]) == (a, b)
    assert found["p_value"] == pytest.approx(p_value, rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.25, 0.5])
def test_the_paired_bootstrap_agrees_with_the_t_test(shift):
    rng = np.random.default_rng(2)
    first = rng.normal(size=300)
    second = first + rng.normal(size=300) - shift
    tallies = [mean_tally({"x": values}, range(300)) for values in (first, second)]
    found = compared(*tallies, resamples=4000, seed=0)["x"]
    assert found["difference"] == pytest.approx(first.mean() - second.mean())
    assert found["p_value"] == pytest.approx(stats.ttest_rel(first, second).pvalue, abs=0.02)
    assert found["difference_low"] < found["difference"] < found["difference_high"]


def test_under_the_null_hypothesis_every_p_value_is_as_likely():
    rng = np.random.default_rng(0)
    found = []
    for seed in range(300):
        tallies = [mean_tally({"x": rng.random(60) < 0.6}, range(60)) for _ in range(2)]
        found.append(compared(*tallies, resamples=200, seed=seed)["x"]["p_value"])
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.09
    assert 0.4 <= np.mean(np.array(found) < 0.5) <= 0.6


def test_a_system_does_not_differ_from_itself():
    tally = classification_tally([0, 1, 1, 0], [0, 1, 0, 0], ["no", "yes"])
    found = compared(tally, tally)["accuracy"]
    assert (found["difference"], found["p_value"], found["mcnemar"]["p_value"]) == (0.0, 1.0, 1.0)


def test_other_examples_are_not_compared():
    first = classification_tally([0, 1, 1, 0], [0, 1, 0, 0], ["no", "yes"])
    second = classification_tally([0, 1, 0, 0], [0, 1, 0, 0], ["no", "yes"])
    with pytest.raises(ValueError, match="same examples: number 3 is 'yes' for one and 'no' for the other"):
        compared(first, second)
    with pytest.raises(ValueError, match="not of 4 and 2"):
        compared(first, classification_tally([0, 1], [0, 1], ["no", "yes"]))
