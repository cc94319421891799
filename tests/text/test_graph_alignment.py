"""Words of texts, and the tokens that begin them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aillm_tf.data.tagged_rows import pieces_of
from aillm_tf.text.graph_alignment import word_alignment, words_of
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.text.words import join_tokens

GOLDEN = Path(__file__).parents[1] / "golden" / "tokenizers"
TEXTS = json.loads((GOLDEN / "texts.json").read_text("utf-8"))["texts"]
FAMILIES = ["bert_uncased", "roberta", "llama2", "t5", "albert"]


def words(text):
    return [text[start:end] for start, end in words_of([text])[0]]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("It's techno-based.", ["It", "'", "s", "techno", "-", "based", "."]),
        ("@user  #tag\t\u3000x", ["@", "user", "#", "tag", "x"]),
        ("我爱NBA。", ["我", "爱", "NBA", "。"]),
        ("e\u0301t\u00e9 \u0301a", ["e\u0301t\u00e9", "\u0301a"]),
        ("Rome😀❤\ufe0fParis", ["Rome", "😀", "❤\ufe0f", "Paris"]),
        ("€3.50", ["€", "3", ".", "50"]),
        ("", []),
        (" \n ", []),
    ],
)
def test_words_are_as_small_as_can_be_told(text, expected):
    assert words(text) == expected


ODD = st.lists(
    st.one_of(
        st.text(max_size=6), st.sampled_from([" ", "  ", "'s", "東京", "\u0301", "\u200b", "👩\u200d👧", "A", "."])
    ),
    max_size=8,
).map("".join)
FUZZ = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck)}


@settings(max_examples=60, **FUZZ)
@given(st.lists(ODD, min_size=1, max_size=20))
def test_words_cover_what_is_not_blank_once(texts):
    for text, found in zip(texts, words_of(texts), strict=True):
        inside = np.zeros(len(text), int)
        for start, end in found:
            inside[start:end] += 1
        blank = np.array([character.isspace() for character in text], bool)
        assert (inside[~blank] == 1).all() and (inside <= 1).all()
        assert all(text[start:end].strip() == text[start:end] for start, end in found)


@settings(max_examples=60, **FUZZ)
@given(st.lists(st.lists(ODD.filter(bool), max_size=6), min_size=1, max_size=10))
def test_tokens_are_joined_in_the_graph_as_on_the_host(rows):
    text, starts, ends = word_alignment().join(tf.ragged.constant(rows, tf.string, 1))
    expected = [join_tokens(row) for row in rows]
    assert [value.decode() for value in text.numpy()] == [joined for joined, _ in expected]
    spans = np.concatenate([np.zeros((0, 2), int), *(places for _, places in expected)])
    np.testing.assert_array_equal(np.stack([starts, ends], 1), spans)


def aligned(name, texts):
    pieces = pieces_of(Tokenizer.from_folder(GOLDEN / name), texts)
    found = word_alignment()(tf.constant(texts), *map(tf.constant, pieces[1:]))
    return pieces, found


@pytest.mark.parametrize("name", FAMILIES)
def test_every_word_is_said_by_one_token(name):
    pieces, found = aligned(name, TEXTS)
    firsts, ends, splits = (part.numpy() for part in (found.firsts, found.ends, found.splits))
    for number, text in enumerate(TEXTS):
        own = slice(splits[number], splits[number + 1])
        assert (np.diff(firsts[own]) > 0).all() and (ends[own] > firsts[own]).all()
        starts = words_of([text])[0][:, 0]
        assert set(firsts[own]) <= set(starts)
        covered = np.zeros(len(text) + 1, bool)
        for token in range(pieces.splits[number], pieces.splits[number + 1]):
            covered[pieces.starts[token] : pieces.ends[token]] = True
        # What no token begins is either beside all tokens or within a token that begins an earlier word.
        for start in set(starts) - set(firsts[own]):
            at = np.searchsorted(firsts[own], start) - 1
            assert not covered[start] or ends[own][at] > start, (text, start)


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_of_plain_words_begin_them(name):
    text = "Two little dogs, in the snow."
    _, found = aligned(name, [text])
    assert [text[a:b] for a, b in zip(found.starts.numpy(), found.ends.numpy(), strict=True)] == words(text)
