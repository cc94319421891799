"""Texts to rows: what stands around them, where they are cut, which tokens end sentences and continue words."""

import itertools

import numpy as np
import pytest

from aillm_tf.data.next_tokens import read_texts
from aillm_tf.data.rows import around, is_chinese, sentence_ends, split_rows, texts_of
from aillm_tf.data.words import collocations, spaced_words
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.text.train import train_tokenizer

CORPUS = ["low lower lowest. new newer newest! what?"] * 2
CHINESE = "我爱北京天安门"


@pytest.fixture(scope="module")
def chinese():
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    return Tokenizer.from_vocabulary([*special, *sorted(set(CHINESE + "大学生来")), "play", "##ed", "."])


def test_a_path_is_a_source(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    assert texts_of(tmp_path / "a.txt") == texts_of(str(tmp_path / "a.txt")) == ["one", "two"]
    assert read_texts(tmp_path / "a.txt", whole=True) == ["one\n\ntwo\n"]


def test_keys_of_a_mapping_are_no_texts():
    with pytest.raises(TypeError, match="not a mapping with the keys 'spans', 'masks'"):
        texts_of({"spans": "a.txt", "masks": "b.txt"})


def test_what_the_tokenizer_puts_around_a_text():
    writer = train_tokenizer(CORPUS, kind="bpe", vocab_size=300, use="seq2seq")
    assert around(writer) == ([], [writer.eos_id])
    reader = train_tokenizer(CORPUS, vocab_size=60)
    assert around(reader) == ([reader.cls_id], [reader.sep_id])


def test_pieces_of_a_long_row_have_its_special_tokens_and_all_of_its_text():
    ids = np.array([2, 10, 11, 12, 13, 14, 3, 2, 20, 3])
    where, offsets = split_rows(np.array([0, 7, 10]), 4, 1, 1)
    pieces = [ids[where][a:b].tolist() for a, b in itertools.pairwise(offsets)]
    assert pieces == [[2, 10, 11, 3], [2, 12, 13, 3], [2, 14, 3], [2, 20, 3]]


def test_no_room_beside_special_tokens_is_refused():
    with pytest.raises(ValueError, match="max_length 2 leaves no room beside 2 special tokens"):
        split_rows(np.array([0, 7]), 2, 1, 1)


def test_tokens_that_end_sentences():
    tokenizer = train_tokenizer(CORPUS, vocab_size=60)
    ends = sentence_ends(tokenizer, 80)
    assert len(ends) == 80
    assert {tokenizer.vocabulary[i] for i in np.flatnonzero(ends)} == {".", "!", "?"}


def test_chinese_characters_are_ideographs():
    assert all(map(is_chinese, CHINESE))
    assert not any(map(is_chinese, "aé。1、ー"))


def words_of(ids, continues, tokenizer):
    words = []
    for index, follows in zip(ids, continues, strict=True):
        if index in tokenizer.special_ids:
            continue
        token = tokenizer.vocabulary[index].removeprefix("##")
        words = [*words[:-1], words[-1] + token] if follows else [*words, token]
    return words


def test_given_spaces_say_what_a_word_is_and_leave_the_tokens_alone(chinese):
    ids, offsets, continues = spaced_words(["我 爱 北京 天安门 played .", "大学生 来"], chinese)
    plain = chinese.encode(["我爱北京天安门 played .", "大学生来"])
    np.testing.assert_array_equal(ids, plain.ids)
    np.testing.assert_array_equal(offsets, plain.offsets)
    rows = [slice(a, b) for a, b in itertools.pairwise(offsets)]
    assert words_of(ids[rows[0]], continues[rows[0]], chinese) == ["我", "爱", "北京", "天安门", "played", "."]
    assert words_of(ids[rows[1]], continues[rows[1]], chinese) == ["大学生", "来"]


def test_characters_that_stand_together_more_often_than_chance_are_a_word():
    characters = [chr(0x4E00 + i) for i in range(60)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *"北京", "play", "##ed"]
    tokenizer = Tokenizer.from_vocabulary(vocabulary)
    rng = np.random.default_rng(0)
    units = [*characters, "北京", "played"]
    texts = ["".join(rng.choice(units, 20)) for _ in range(300)]
    encoded = tokenizer.encode(texts)
    continues = collocations(encoded.ids, encoded.offsets, tokenizer)
    assert set(words_of(encoded.ids, continues, tokenizer)) == {*characters, "北京", "played"}


def test_a_collocation_does_not_cross_rows():
    tokenizer = Tokenizer.from_vocabulary(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"北京安门"])
    ids, offsets = np.array([5, 6] * 20), np.arange(0, 41, 1)
    assert not collocations(ids, offsets, tokenizer).any()
