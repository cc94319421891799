"""Scores of translations: sacreBLEU's own, whatever the number of references, with the signature of how."""

import pytest
import sacrebleu

from aillm_tf.metrics.translation import translation_scores

WRITTEN = ["The dog bit the man.", "It was not surprising.", "The man bit him first."]
FIRST = ["The dog bit the man.", "It was not unexpected.", "The man bit him first."]
SECOND = ["The dog had bit the man.", "No one was surprised.", "The man had bitten the dog."]


def test_scores_are_those_of_sacrebleu():
    found = translation_scores(WRITTEN, list(zip(FIRST, SECOND, strict=True))).scores
    streams = [FIRST, SECOND]
    assert found["bleu"] == sacrebleu.corpus_bleu(WRITTEN, streams).score
    assert found["chrf"] == sacrebleu.corpus_chrf(WRITTEN, streams).score
    assert found["ter"] == sacrebleu.corpus_ter(WRITTEN, streams).score


def test_a_published_example():
    """Sentences and score of sacreBLEU's README."""
    written = ["The dog bit the man.", "It wasn't surprising.", "The man had just bitten him."]
    found = translation_scores(written, list(zip(FIRST, SECOND, strict=True)))
    assert round(found.scores["bleu"], 2) == 48.53
    assert found.signatures["bleu"].startswith("nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|version:")


def test_rows_may_have_different_numbers_of_references():
    found = translation_scores(WRITTEN, [[FIRST[0]], [FIRST[1], SECOND[1]], [FIRST[2]]])
    assert found.signatures["bleu"].startswith("nrefs:var")
    assert found.scores["bleu"] > translation_scores(WRITTEN, [[text] for text in SECOND]).scores["bleu"]


@pytest.mark.parametrize(("references", "tokenize"), [(["今天下雨了。"], "zh"), (["It rains in 北京."], "13a")])
def test_chinese_is_compared_by_characters(references, tokenize):
    assert f"tok:{tokenize}" in translation_scores(references, [references]).signatures["bleu"]


@pytest.mark.parametrize(
    ("references", "message"),
    [
        ([["a"]], "3 texts and 1 rows"),
        (["a", "b", "c"], "row 0: references"),
        ([["a"], [], ["c"]], "row 1: references"),
    ],
)
def test_references_that_do_not_belong_are_refused(references, message):
    with pytest.raises(ValueError, match=message):
        translation_scores(WRITTEN, references)
