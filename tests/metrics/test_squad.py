"""Exact match and F1: those of the official scripts on 1,000 sets, and by hand where no script is at hand."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from aillm_tf.metrics.squad import best_threshold, exact_match, f1, normalize, score, score_predictions

GOLDEN = Path(__file__).parents[1] / "golden"
V2 = (
    *("exact", "f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1"),
    *("best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"),
)


@pytest.fixture(scope="module")
def sets():
    spec = importlib.util.spec_from_file_location("squad_sets", GOLDEN / "squad_sets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.prediction_sets()


def test_v2_scores_are_those_of_the_official_script_on_1000_sets(sets):
    expected = np.load(GOLDEN / "squad.npz")["v2"]
    found = [score(one["answers"], one["golds"], "v2.0", one["no_answer"]).summary for one in sets]
    found = np.array([[summary.get(name, np.nan) for name in V2] for summary in found])
    np.testing.assert_array_equal(found, expected)


def test_v1_scores_are_those_of_the_official_script_on_all_sets_with_answers(sets):
    expected = np.load(GOLDEN / "squad.npz")["v1"]
    answered = [i for i, one in enumerate(sets) if all(one["golds"])]
    assert len(answered) > 500
    found = [score(sets[i]["answers"], sets[i]["golds"], "v1.1").summary for i in answered]
    found = np.array([[summary["exact"], summary["f1"]] for summary in found])
    np.testing.assert_array_equal(found, expected[answered])


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The  Eiffel-Tower, a landmark!", "eiffeltower landmark"),
        ("a.b", "ab"),  # punctuation goes before articles are looked for
        ("The. A! an", ""),
        ("theatre", "theatre"),
        ("the—end", "—end"),  # a dash outside of ASCII stays, and ends a word
        ("“The” end", "“ ” end"),
        ("the\u3000end\u00a0x", "end x"),
        ("İzmir", "i̇zmir"),
    ],
)
def test_normalization(text, normalized):
    assert normalize(text) == normalized


def test_two_texts_without_words_share_no_word_in_v1_and_agree_in_v2():
    assert (exact_match("the", "a", "v1.1"), f1("the", "a", "v1.1")) == (1.0, 0.0)
    assert (exact_match("the", "a", "v2.0"), f1("the", "a", "v2.0")) == (1.0, 1.0)


def test_words_are_counted_as_often_as_they_occur():
    # 2 of 3 found, 2 of 4 wanted
    assert f1("rollo rollo norse", "rollo the rollo was duke") == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))


def test_the_best_of_several_gold_answers_counts():
    scored = score(["10th century"], [["the first half of the 10th century", "10th century"]])
    assert (scored.summary["exact"], scored.summary["f1"]) == (100.0, 100.0)


def test_questions_with_and_without_answers_are_scored_apart():
    summary = score(["Rollo", "", "x", ""], [["Rollo"], ["Rollo"], [], []]).summary
    assert summary["exact"] == summary["HasAns_exact"] == summary["NoAns_exact"] == 50.0
    assert (summary["total"], summary["HasAns_total"], summary["NoAns_total"]) == (4, 2, 2)


def test_the_best_threshold_keeps_the_answers_that_gain():
    best = best_threshold(
        np.array([1.0, 1.0, 0.0, 0.0]),
        np.array([0.1, 0.4, 0.3, 0.9]),
        np.array([True, True, False, False]),
        np.array([True] * 4),
    )
    assert best == (75.0, 0.1)  # then 0.3 loses one and 0.4 only wins it back


def test_v1_refuses_a_question_without_a_gold_answer():
    with pytest.raises(ValueError, match="question 1 has no gold answer"):
        score(["x", "y"], [["x"], []], "v1.1")


def test_a_missing_prediction_scores_nothing_in_v1():
    found = score_predictions({"a": "Rollo"}, {"a": ["Rollo"], "b": ["France"]}, "v1.1")
    assert found == {"exact": 50.0, "f1": 50.0, "total": 2}


def test_a_missing_prediction_is_named_in_v2():
    with pytest.raises(ValueError, match="1 of 2 questions have no prediction, such as b"):
        score_predictions({"a": "Rollo"}, {"a": ["Rollo"], "b": ["France"]})


# CMRC 2018, worked out by hand: every Chinese character is a token, F1 is of the longest shared stretch


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "expected"),
    [
        ("罗洛公爵", "罗洛公爵", 1.0, 1.0),
        ("《罗洛》公爵。", "罗洛公爵", 1.0, 1.0),  # punctuation is left out
        ("罗洛公爵", "公爵罗洛", 0.0, 0.5),  # 2 of 4, in one stretch
        ("诺曼底的罗洛", "罗洛", 0.0, 2 * (2 / 6) / (2 / 6 + 1)),
        ("1912年", "1912 年", 0.0, 1.0),  # space is no token, yet keeps texts from being the same
        ("iPhone 6s手机", "iphone 6S", 0.0, 2 * (2 / 4) / (2 / 4 + 1)),  # iphone, 6s, 手, 机
        ("巴黎", "伦敦", 0.0, 0.0),
        ("。", "！", 1.0, 0.0),
        ("3,000人…", "3000人", 0.0, 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),  # 3,000 人 …; ASCII commas stay
    ],
)
def test_cmrc_scores(answer, gold, exact, expected):
    assert exact_match(answer, gold, "cmrc") == exact
    assert f1(answer, gold, "cmrc") == pytest.approx(expected)


def test_cmrc_cuts_other_scripts_as_the_penn_treebank_does():
    assert f1("don't pay $5, please.", "do n't pay $ 5 , please .", "cmrc") == 1.0


def test_cmrc_takes_questions_without_an_answer_as_squad_v2_does():
    summary = score(["", "巴黎", "罗洛"], [[], [], ["罗洛"]], "cmrc").summary
    assert (summary["exact"], summary["NoAns_f1"], summary["HasAns_f1"]) == (pytest.approx(200 / 3), 50.0, 100.0)
