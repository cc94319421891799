"""Places of tokens in texts, and rows of long texts."""

import json
from pathlib import Path

import numpy as np
import pytest

from aillm_tf.text.tokenizer import Tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
FAMILIES = sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir())
TEXTS, PAIRS, _ = json.loads((GOLDEN / "texts.json").read_text("utf-8")).values()
WORDS = Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"])


@pytest.fixture(params=FAMILIES)
def tokenizer(request):
    return Tokenizer.from_folder(GOLDEN / request.param)


def words(tokenizer, text):
    encoded = tokenizer.encode_spans([text])
    return [
        text[start:end] for (start, end), source in zip(encoded.spans, encoded.text_ids, strict=True) if source == 0
    ]


def test_ids_are_those_of_encode(tokenizer):
    plain, located = tokenizer.encode(TEXTS), tokenizer.encode_spans(TEXTS)
    for field in plain._fields:
        assert getattr(plain, field).tolist() == getattr(located, field).tolist()


def test_spans_lie_in_the_text_in_order(tokenizer):
    for text in TEXTS:
        encoded = tokenizer.encode_spans([text])
        spans = encoded.spans[encoded.text_ids == 0]
        assert (spans[:, 0] <= spans[:, 1]).all() and (spans <= len(text)).all()
        assert (np.diff(spans[:, 0]) >= 0).all()


def test_spans_do_not_begin_or_end_with_white_space(tokenizer):
    for text in TEXTS:
        assert all(word == word.strip() for word in words(tokenizer, text)), text


def test_every_letter_belongs_to_a_token(tokenizer):
    for text in [
        "Café  déjà vu",
        "Cafe\u0301  de\u0301ja\u0300",
        "你好，世界！",
        "👍🏽 thumbs ☃",
        "Zwei Hunde",
        "\u1100\u1161\u11a8 x",
    ]:
        encoded = tokenizer.encode_spans([text])
        covered = np.zeros(len(text), bool)
        for start, end in encoded.spans[encoded.text_ids == 0]:
            covered[start:end] = True
        assert [c for c, inside in zip(text, covered, strict=True) if not inside and not c.isspace()] == []


@pytest.mark.parametrize("name", ["bert_cased", "gpt2", "roberta", "t5", "llama2", "gemma", "xlm_roberta"])
def test_tokens_of_plain_words_are_their_characters(name):
    tokenizer = Tokenizer.from_folder(GOLDEN / name)
    text = "Two  little dogs, in the snow."
    assert "".join(words(tokenizer, text)) == text.replace(" ", "")


def test_special_tokens_have_no_place(tokenizer):
    encoded = tokenizer.encode_spans(*zip(*PAIRS, strict=True))
    assert not encoded.spans[encoded.text_ids < 0].any()


def test_tokens_of_a_pair_name_their_text():
    tokenizer = Tokenizer.from_folder(GOLDEN / "roberta")
    encoded = tokenizer.encode_spans(["snow"], ["dogs"])
    texts = ("snow", "dogs")
    found = [texts[t][a:b] for t, (a, b) in zip(encoded.text_ids, encoded.spans, strict=True) if t >= 0]
    assert ("".join(found), encoded.text_ids[0], encoded.text_ids[-1]) == ("snowdogs", -1, -1)


def test_long_second_text_gives_rows_that_overlap():
    encoded = WORDS.encode_spans(["a"], ["b c d e f g"], max_length=7, truncate="second", stride=1)
    texts = [WORDS.decode(row) for row in np.split(encoded.ids, encoded.offsets[1:-1])]
    assert texts == ["a b c d", "a d e f", "a f g"]
    assert encoded.rows.tolist() == [0, 0, 0]


def test_places_in_later_rows_are_places_in_the_whole_text():
    encoded = WORDS.encode_spans(["a"], ["b c d e f g"], max_length=7, truncate="second", stride=1)
    last = slice(encoded.offsets[-2], encoded.offsets[-1])
    assert encoded.spans[last][encoded.text_ids[last] == 1].tolist() == [[8, 9], [10, 11]]


def test_rows_name_their_text_among_others():
    encoded = WORDS.encode_spans(["a", "b", "a"], ["b c d e", "c", "d e f"], max_length=6, truncate="second")
    assert encoded.rows.tolist() == [0, 0, 1, 2, 2]


def test_only_the_first_text_is_cut():
    encoded = WORDS.encode_spans(["a b c d"], ["e f"], max_length=7, truncate="first")
    assert [WORDS.decode(row) for row in np.split(encoded.ids, encoded.offsets[1:-1])] == ["a b e f", "c d e f"]


def test_longest_text_is_cut_without_further_rows():
    encoded = WORDS.encode_spans(["a b c d"], ["e f"], max_length=7)
    assert (WORDS.decode(encoded.ids), encoded.rows.tolist()) == ("a b e f", [0])


def test_text_that_leaves_no_room_is_named():
    with pytest.raises(ValueError, match="row 1"):
        WORDS.encode_spans(["a", "a b c d e"], ["b", "c"], max_length=6, truncate="second")


def test_no_rows_give_no_tokens():
    assert [part.shape for part in WORDS.encode_spans([])] == [(0,), (0,), (1,), (0, 2), (0,), (0,)]


def test_lone_surrogate_is_named():
    with pytest.raises(ValueError, match="row 1 holds a lone surrogate"):
        WORDS.encode_spans(["a", "\ud83d"])
