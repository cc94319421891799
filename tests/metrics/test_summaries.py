"""ROUGE: rouge-score's numbers, the best of several references, Chinese by characters; sentences and the lead."""

import pytest
from rouge_score.rouge_scorer import RougeScorer

from aillm_tf.metrics.summaries import KINDS, lead, lead_scores, sentences, summary_scores

TEXT = "The quick brown fox, jumped over 2 dogs. It's good!"
OTHERS = ["The fox jumped over the lazy dogs.\nGood it is.", "A quick fox and two dogs. How good! It jumped."]


@pytest.mark.parametrize("references", [OTHERS[:1], OTHERS])
def test_scores_are_those_of_rouge_score(references):
    lines = ["\n".join(sentences(text)) for text in [TEXT, *references]]
    expected = RougeScorer(KINDS).score_multi(lines[1:], lines[0])
    found = summary_scores([TEXT], [references])
    assert found == pytest.approx({kind: 100 * score.fmeasure for kind, score in expected.items()})


def test_the_score_of_a_corpus_is_the_mean_over_rows():
    each = [summary_scores([text], [OTHERS]) for text in (TEXT, "dogs")]
    both = summary_scores([TEXT, "dogs"], [OTHERS, OTHERS])
    assert both == pytest.approx({kind: (each[0][kind] + each[1][kind]) / 2 for kind in KINDS})


def test_chinese_is_compared_by_characters():
    """3 of 4 characters written are in the 5 of the reference, 1 of 3 pairs in 4."""
    found = summary_scores(["今天下雪"], [["今天不下雨"]])
    assert found["rouge1"] == pytest.approx(100 * 2 * 3 / (4 + 5))
    assert found["rouge2"] == pytest.approx(100 * 2 * 1 / (3 + 4))


def test_words_among_chinese_stay_words():
    assert summary_scores(["用TensorFlow训练"], [["用tensorflow训练"]])["rouge2"] == pytest.approx(100)


def test_references_that_rouge_cannot_read_are_counted(caplog):
    assert summary_scores(["привет"], [["привет"]])["rouge1"] == 0
    assert "1 of 1 references hold no Latin letter" in caplog.text


def test_sentences_end_at_their_punctuation():
    assert sentences('He said "Go!" Then (at 5.30) she left. Why?\nNo idea') == [
        'He said "Go!"',
        "Then (at 5.30) she left.",
        "Why?",
        "No idea",
    ]
    assert sentences("今天下雨。“走吧！”他说；真的？！不") == ["今天下雨。", "“走吧！”", "他说；", "真的？！", "不"]
    assert sentences("今天下雨。“走吧!”他说。") == ["今天下雨。", "“走吧!”", "他说。"]  # half-width
    assert sentences("What?! No.") == ["What?!", "No."]
    assert sentences("  ") == []


@pytest.mark.parametrize(
    "text", ['"Go!", then he left.', "see http://x.org/?id=1 now", "a;b", "“走吧！”，他说。", "什么？！"]
)
def test_punctuation_within_a_sentence_does_not_end_it(text):
    assert sentences(text) == [text]


def test_the_lead_has_as_many_sentences_as_references_have_on_average():
    sources, references = ["One. Two. Three."] * 2, [["One. Two."], ["One. Two. Four."]]
    assert lead(sources[0], 2) == "One. Two."
    count, scores = lead_scores(sources, references)
    assert count == 2
    assert scores == summary_scores(["One. Two."] * 2, references)
    assert lead_scores(sources, references, 1)[0] == 1
