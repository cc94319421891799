"""Quality rules and languages on documents that are plainly one or the other."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from aillm_tf.text.languages import languages
from aillm_tf.text.quality import QualityRules, judge, measure
from aillm_tf.text.units import ngrams, split_units

MULTI30K = Path(__file__).parents[3] / "shared" / "data" / "multi30k"
PROSE = (
    "The harbour lay quiet under a pale sky, and the boats that had come in at dawn were drying their nets. An old "
    "man sat on the wall and mended a sail with a needle as long as his hand, while two children asked him about the "
    "storm that sank the lighthouse ship. He said that it had been a winter like no other, that the sea had come up "
    "to the church door, and that his father had rowed through the market square to fetch the doctor."
)


def why(text, **rules):
    return judge([text], split_units([text]), QualityRules(**rules))[0][0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PROSE, None),
        ("Short text.", "too few words"),
        (" ".join(f"{chr(97 + i % 26) * 14}{chr(97 + i // 26)}" for i in range(60)), "words are too short or too long"),
        (" ".join(f"{word} #" if i % 4 == 0 else word for i, word in enumerate(PROSE.split())), "many # or ..."),
        (" ".join(f"{w} {i}0" if i % 2 else w for i, w in enumerate(PROSE.split())), "few words have letters"),
        ("\n".join(f"- {PROSE[i * 40 : i * 40 + 40]}" for i in range(10)), "most lines are bullets"),
        ("\n".join(PROSE[i * 40 : i * 40 + 40] + "..." * (i < 4) for i in range(10)), "many lines end in ..."),
        (PROSE + "\nRead more about the harbour here" * 5, "repeats lines"),
        (PROSE[:150] + " buy cheap tickets" * 12, "one phrase over and over"),
        (f"{PROSE} {PROSE[:200]}", "repeats passages"),
        (f"{PROSE} Lorem ipsum dolor sit amet.", "placeholder text"),
    ],
)  # fmt: skip
def test_each_rule_finds_its_document(text, reason):
    assert why(text) == reason


def test_chinese_is_counted_by_characters():
    text = "港口在灰白的天空下安静地躺着，黎明时分归来的渔船正在晾晒渔网。一位老人坐在墙上缝补船帆，"
    text += "两个孩子向他打听那场风暴。"
    assert why(text) is None
    assert why(text, min_words=60) == "too few words"


def test_only_length_counts_when_the_rules_are_off():
    assert why("spam " * 60, rules=False) is None


def test_a_document_in_another_language_falls_away():
    assert why(PROSE, languages=("de", "zh")) == "another language"
    assert why(PROSE, languages=("en",)) is None


def test_shares_of_repetition_match_a_count_by_hand():
    text = "a b c d e f a b c d e x"  # the 5-gram "a b c d e" stands there twice: 5 of 12 characters are a copy
    measures = measure([text, "q r s"], split_units([text, "q r s"]))
    assert measures["repeated_5_grams"].tolist() == [5 / 12, 0]
    assert measures["top_2_grams"].tolist() == [4 / 12, 0]


def test_documents_are_judged_alike_alone_and_in_company():
    texts = [PROSE, "spam " * 60, PROSE[:300], f"{PROSE} {PROSE}"]
    together, _ = judge(texts, split_units(texts))
    assert together == [why(text) for text in texts]


def test_runs_of_words_stay_within_a_document():
    ((_, at, _),) = ngrams(split_units(["a b c", "d", "e f"]), 2)
    assert at.tolist() == [0, 1, 4]


def test_punctuation_case_and_width_do_not_change_a_word():
    units = split_units(["Hello, WORLD!", "ｈｅｌｌｏ world"])
    assert np.array_equal(units.hashes[:2], units.hashes[2:])


def test_scripts_and_small_words_name_the_language():
    texts = {
        "zh": "港口在灰白的天空下", "ja": "これは日本語の文章です", "ko": "항구는 조용했다", "ru": "Гавань была тиха",
        "fr": "Le port était calme sous le ciel et les bateaux rentraient avec la marée", "und": "4711 0815 ###",
        "es": "El puerto estaba en calma y los barcos que volvían con la marea", "ar": "كان الميناء هادئا",
    }  # fmt: skip
    assert languages(split_units(list(texts.values()))).tolist() == list(texts)


@pytest.mark.skipif(not MULTI30K.exists(), reason="no multi30k beside the repository")
def test_english_and_german_captions_are_told_apart():
    for code in ("en", "de"):
        lines = gzip.decompress((MULTI30K / f"val.{code}.gz").read_bytes()).decode().split("\n")
        texts = [" ".join(lines[i : i + 5]) for i in range(0, 1000, 5)]  # documents of five captions
        assert np.mean(languages(split_units(texts)) == code) > 0.99
