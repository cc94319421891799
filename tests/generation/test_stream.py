"""Text while it is written: whole characters, and nothing of a stop string."""

from __future__ import annotations

import pytest

from aillm_tf.generation.stream import stream_text, tokens_until_stop
from aillm_tf.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_vocabulary(["[UNK]", "[CLS]", "[SEP]", "play", "##ed", "now", "##er", "no"])


@pytest.fixture(scope="module")
def bytes_tokenizer():
    from aillm_tf.text.train import train_tokenizer

    return train_tokenizer(["ab ab"], vocab_size=262, kind="bpe")


def test_a_stream_is_the_whole_text(tokenizer):
    assert list(stream_text([3, 4, 5], tokenizer)) == ["play", "ed", " now"]


def test_no_half_character_is_given_out(bytes_tokenizer):
    ids = bytes_tokenizer.encode(["a😀é"]).ids.tolist()
    pieces = list(stream_text(ids, bytes_tokenizer))
    assert "".join(pieces).strip() == "a😀é" and "\ufffd" not in "".join(pieces)
    assert len(pieces) < len(ids)


def test_a_stream_ends_at_a_stop_id(tokenizer):
    assert "".join(stream_text([3, 5, 2, 5], tokenizer, stop_ids=[2])) == "play now"


def test_nothing_of_a_stop_string_is_given_out(tokenizer):
    assert "".join(stream_text([3, 4, 7, 3, 5], tokenizer, stop_strings=["no play"])) == "played "


def test_what_only_looked_like_a_stop_string_is_given_out_late(tokenizer):
    assert "".join(stream_text([3, 7, 4], tokenizer, stop_strings=["noise"])) == "play noed"


def test_the_fewest_tokens_with_a_stop_string_are_counted(tokenizer):
    assert tokens_until_stop([3, 4, 5, 3], tokenizer.decode, ["ed"]) == 2
    assert tokens_until_stop([3, 4, 5, 3], tokenizer.decode, ["er"]) is None
