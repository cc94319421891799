"""Tokenization as TensorFlow ops: the ids of the host, always."""

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aillm_tf.text.graph import graph_tokenizer, mismatches
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.text.train import train_tokenizer

DATA = Path(__file__).parents[3] / "shared" / "data"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [
    *SPECIAL,
    *("play", "##ed", "##ing", "a", "##a", "the", "game", "b", "é", "##é", "#", "[", "]", "mask", "sep", "x", "##x"),
    *(".", ",", "!", "中", "国", "م", "##م", "א", "😀", "が", "か", "i", "##i", "ss", "ß", "A", "##A", "ᄀ", "##ᅡ", "$"),
]
CHINESE = [
    "这本书写得很好，值得一看！",
    "房间有点小，但是服务员态度不错；wifi很快。",
    "２０２４年　全角ＡＢＣ　与half-width混排……",
    "𠀀𠮷野家的牛丼",
]
TWEETS = [
    "RT @united: I can't beli�ve it!!! http://t.co/AbC123 #fail 😡😡👨‍👩‍👧‍👦",
    "caf\u00e9 vs cafe\u0301 \u2014 na\u00efve\u2026 \u201cquoted\u201d \x92s",
    "self-driving cars\u00a0_\ufffd_.no\tthank\r\nyou &amp; <b>bye</b>",
    "  double  spaces   everywhere  ",
    "مرحبا بالعالم שלום עולם हिन्दी ไทย 한국어 ΟΔΟΣ İstanbul ﬁne ǅ ẞ",
]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_vocabulary(VOCABULARY)


@pytest.fixture(scope="module")
def tokenize(tokenizer):
    return tf.function(graph_tokenizer(tokenizer, 512), input_signature=[tf.TensorSpec([None], tf.string)])


def graph_ids(answer, pad=0):
    return [[index for index in row if index != pad] for row in answer["token_ids"].numpy().tolist()]


def host_ids(tokenizer, *texts, **options):
    encoded = tokenizer.encode(*texts, **options)
    return [part.tolist() for part in np.split(encoded.ids, encoded.offsets[1:-1])]


def published(name):
    if not DATA.is_dir():
        pytest.skip(f"needs {DATA}")
    return Tokenizer.from_folder(DATA / "tokenizers" / f"bert-base-{name}")


def sst2():
    files = [DATA / "sst2" / f"{split}.tsv" for split in ("train", "dev", "test")]
    if not files[0].is_file():
        pytest.skip(f"needs {files[0]}")
    return [line.split("\t")[0] for file in files for line in file.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", ["uncased", "cased"])
def test_all_of_sst2_has_the_ids_of_the_host(name):
    assert mismatches(published(name), sst2()) == []


@pytest.mark.parametrize("name", ["uncased", "cased", "chinese"])
def test_chinese_and_tweets_have_the_ids_of_the_host(name):
    assert mismatches(published(name), CHINESE + TWEETS) == []


def test_a_trained_vocabulary_has_the_ids_of_the_host():
    assert mismatches(train_tokenizer(CHINESE + TWEETS, vocab_size=200, min_frequency=1), CHINESE + TWEETS) == []


PIECES = st.one_of(
    st.text(max_size=8),
    st.characters(min_codepoint=0x20, max_codepoint=0x7E),
    st.characters(min_codepoint=0x300, max_codepoint=0x36F),
    st.sampled_from([*VOCABULARY, "PlAyEd", "[mask]", "[MA\x01SK]", "\x00", "\x01", "\x02", "\x11", "\u3000", "  "]),
    st.sampled_from(
        ["\ufeff", "\ufffd", "\u200d", "\u2028", "x" * 100, "x" * 101, "é" * 100, "中" * 101, "가", "e\u0301"]
    ),
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(PIECES, max_size=12).map("".join), min_size=1, max_size=20))
def test_odd_text_has_the_ids_of_the_host(tokenizer, tokenize, texts):
    answer = tokenize(tf.constant([text.encode() for text in texts]))
    assert graph_ids(answer) == [row[:512] for row in host_ids(tokenizer, texts, max_length=512)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uncased", "cased", "chinese"])
def test_every_character_of_unicode_has_the_ids_of_the_host(name):
    characters = [chr(codepoint) for codepoint in range(0x110000) if not 0xD800 <= codepoint < 0xE000]
    texts = ["".join(f"a{c}a {c} " for c in characters[start : start + 64]) for start in range(0, len(characters), 64)]
    assert mismatches(published(name), texts) == []


def test_marks_out_of_order_are_the_known_difference_and_are_found():
    vocabulary = [*SPECIAL, "a", "\U0001d16d", "##\U0001d16d", "##\U0001d165"]
    texts = ["a\U0001d165\U0001d16d", "a\U0001d16d\U0001d165"]
    assert mismatches(Tokenizer.from_vocabulary(vocabulary), texts) == texts[1:]


@pytest.mark.parametrize("length", [100, 101])
@pytest.mark.parametrize("letter", ["x", "é", "中"])
def test_words_are_unknown_beyond_a_hundred_characters(letter, length):
    cased = Tokenizer.from_vocabulary(VOCABULARY, lowercase=False, split_chinese=False)
    assert mismatches(cased, [letter * length, f"a {letter * length} b"]) == []


def test_literal_special_tokens_are_text_but_for_the_mask(tokenizer, tokenize):
    names = [tokenizer.vocabulary[index] for index in graph_ids(tokenize(tf.constant(["[SEP] [MASK]a"])))[0]]
    assert names == ["[CLS]", "[", "sep", "]", "[MASK]", "a", "[SEP]"]


def test_empty_string_is_the_special_tokens(tokenize):
    assert graph_ids(tokenize(tf.constant([""]))) == [[2, 3]]


def test_empty_batch_has_no_rows(tokenize):
    answer = tokenize(tf.constant([], tf.string))
    assert [part.shape[0] for part in answer.values()] == [0, 0]


def test_rows_are_padded_to_the_longest(tokenize):
    assert tokenize(tf.constant(["play", "playing"]))["token_ids"].numpy().tolist() == [[2, 5, 3, 0], [2, 5, 7, 3]]


def test_bytes_that_are_not_utf8_read_as_replacement_characters(tokenizer, tokenize):
    broken = [b"play\xff\xfeed \xe4\xb8 game", b"a\xed\xa0\x80b", b"\x80", b"the \xf0\x9f\x98"]
    decoded = [text.decode(errors="replace") for text in broken]
    assert graph_ids(tokenize(tf.constant(broken))) == host_ids(tokenizer, decoded)


@pytest.mark.parametrize("max_length", range(3, 13))
def test_pairs_are_cut_and_segmented_like_on_the_host(tokenizer, max_length):
    counts = [(first, second) for first in range(11) for second in range(11)]
    texts, pairs = (["the " * first for first, _ in counts], ["game " * second for _, second in counts])
    encoded = tokenizer.encode(texts, pairs, max_length=max_length)
    answer = graph_tokenizer(tokenizer, max_length)(tf.constant(texts), tf.constant(pairs))
    lengths = np.diff(encoded.offsets)
    for field, expected in (("token_ids", encoded.ids), ("segment_ids", encoded.segment_ids)):
        padded = np.zeros((len(counts), lengths.max()), np.int32)
        padded[np.arange(lengths.max()) < lengths[:, None]] = expected
        np.testing.assert_array_equal(answer[field].numpy(), padded)


def test_single_texts_are_cut_like_on_the_host(tokenizer):
    texts = ["the " * count for count in range(8)]
    answer = graph_tokenizer(tokenizer, 5)(tf.constant(texts))
    assert graph_ids(answer) == host_ids(tokenizer, texts, max_length=5)


def test_ids_are_int32(tokenize):
    assert {part.dtype for part in tokenize(tf.constant(["play"])).values()} == {tf.int32}


@functools.cache
def cached_graph(tokenizer):
    return graph_tokenizer(tokenizer, 512)


def spans(tokenizer, texts, pairs=None, **options):
    """Rows of [start, end] in the graph and on the host."""
    inputs = [tf.constant([text.encode() for text in side]) for side in (texts, pairs) if side is not None]
    module = cached_graph(tokenizer)
    module.max_length = options.get("max_length", 512)
    answer = module.with_offsets(*inputs)
    encoded = tokenizer.encode_spans(texts, pairs, **options)
    ends = np.diff(encoded.offsets)
    in_graph = np.stack([answer["starts"].numpy(), answer["ends"].numpy()], -1)
    return [row[:end].tolist() for row, end in zip(in_graph, ends, strict=True)], [
        row.tolist() for row in np.split(encoded.spans, encoded.offsets[1:-1])
    ]


@pytest.mark.parametrize("name", ["uncased", "cased", "chinese"])
def test_offsets_are_those_of_the_host(name):
    in_graph, on_host = spans(published(name), CHINESE + TWEETS + sst2()[:300])
    assert in_graph == on_host


def test_offsets_count_characters_of_the_text_as_it_is(tokenizer):
    texts = ["\x01[MASK] the\u200b  Pla\u0301y\u0301!", "中国 play" + "ed" * 60, "😀 playing", ""]
    in_graph, on_host = spans(tokenizer, texts)
    assert in_graph == on_host
    assert in_graph[0] == [[0, 0], [1, 7], [8, 11], [14, 20], [20, 21], [0, 0]]


@pytest.mark.parametrize("max_length", [3, 6, 9, 30])
def test_offsets_of_pairs_are_cut_with_their_tokens(tokenizer, max_length):
    in_graph, on_host = spans(tokenizer, ["the game", ""], ["a b the play playing", "x"], max_length=max_length)
    assert in_graph == on_host


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(PIECES, max_size=12).map("".join), min_size=1, max_size=20))
def test_odd_text_has_the_offsets_of_the_host(tokenizer, texts):
    in_graph, on_host = spans(tokenizer, texts)
    assert in_graph == on_host


def test_rows_can_be_padded_on_the_left(tokenizer):
    answer = graph_tokenizer(tokenizer, 16, padding_side="left")(tf.constant(["play", "playing"]))
    assert answer["token_ids"].numpy().tolist() == [[0, 2, 5, 3], [2, 5, 7, 3]]


def test_unknown_padding_side_is_refused(tokenizer):
    with pytest.raises(ValueError, match="padding_side='both' is not known; choose one of right, left"):
        graph_tokenizer(tokenizer, 16, padding_side="both")


def test_ids_become_the_text_of_the_host(tokenizer):
    tokens = [tokenizer.encode([text]).ids.tolist() for text in CHINESE + TWEETS]
    decoded = graph_tokenizer(tokenizer, 512).decode(tf.ragged.constant(tokens))
    assert [text.decode() for text in decoded.numpy()] == [tokenizer.decode(row) for row in tokens]


def test_vocabulary_with_a_token_twice_is_refused():
    twice = Tokenizer.from_vocabulary([*SPECIAL, "play", "game", "play"])
    with pytest.raises(ValueError, match=r"ids \[5\] have none"):
        graph_tokenizer(twice, 16)


def test_max_length_without_room_for_a_pair_is_refused(tokenizer):
    with pytest.raises(ValueError, match="max_length=2 has no room for the 3 special tokens"):
        graph_tokenizer(tokenizer, 2)(tf.constant(["a"]), tf.constant(["b"]))


def test_saved_module_answers_in_a_process_with_tensorflow_alone(tokenizer, tmp_path):
    module = tf.Module()
    module.tokenize = graph_tokenizer(tokenizer, 64)
    string = tf.TensorSpec([None], tf.string)
    single = tf.function(lambda text: module.tokenize(text), input_signature=[string])
    pairs = tf.function(lambda text, pair: module.tokenize(text, pair), input_signature=[string, string])
    signatures = {"single": single.get_concrete_function(), "pairs": pairs.get_concrete_function()}
    tf.saved_model.save(module, str(tmp_path), signatures=signatures)
    program = (
        "import sys, tensorflow as tf, tensorflow_text\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "text, pair = tf.constant(['Played [MASK] 中国', '']), tf.constant(['the game', 'a'])\n"
        "print(model.signatures['single'](text=text)['token_ids'].numpy().tolist())\n"
        "print(model.signatures['pairs'](text=text, pair=pair)['segment_ids'].numpy().tolist())\n"
        "print('aillm_tf' in sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path)
    expected = graph_tokenizer(tokenizer, 64)(tf.constant(["Played [MASK] 中国", ""]))["token_ids"].numpy().tolist()
    segments = [[0] * 7 + [1] * 3, [0] * 2 + [1] * 2 + [0] * 6]
    assert run.stdout.splitlines() == [str(expected), str(segments), "False"], run.stderr
