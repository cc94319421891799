"""Rows for next-token prediction: every token but the first of a document is a target once."""

import itertools

import numpy as np
import pytest

from aillm_tf.data.next_tokens import documents, joined, packed, random_blocks, windows
from aillm_tf.text.train import train_tokenizer

LENGTHS = [6, 1, 13, 0, 5, 30]
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
IDS = np.arange(OFFSETS[-1], dtype="int32")


def rows_of(column):
    return [column.values[start:end].tolist() for start, end in itertools.pairwise(column.offsets)]


def scored(columns):
    """The targets that count."""
    weights = columns.get("target_weights")
    targets = columns["targets"].values
    return np.sort(targets if weights is None else targets[weights.values > 0])


@pytest.mark.parametrize(("length", "stride"), [(8, None), (8, 8), (8, 3), (8, 1), (64, None), (1, None)])
def test_every_token_but_a_documents_first_is_a_target_once(length, stride):
    columns, _ = windows(IDS, OFFSETS, length, stride)
    firsts = OFFSETS[:-1][np.array(LENGTHS) > 0]
    np.testing.assert_array_equal(scored(columns), np.setdiff1d(IDS, firsts))


def test_the_target_is_the_next_token_of_the_same_document():
    columns, of = windows(IDS, OFFSETS, 8, 3)
    for row, targets, document in zip(rows_of(columns["token_ids"]), rows_of(columns["targets"]), of, strict=True):
        assert targets == [token + 1 for token in row]
        assert OFFSETS[document] <= row[0]
        assert targets[-1] < OFFSETS[document + 1]


def test_with_a_stride_every_target_has_the_context_that_fits():
    columns, _ = windows(IDS, OFFSETS, 8, 3)
    weights = rows_of(columns["target_weights"])
    long = [w for row, w in zip(rows_of(columns["token_ids"]), weights, strict=True) if row[0] > OFFSETS[5]]
    assert long
    assert all(w[:5] == [0.0] * 5 and sum(w) <= 3 for w in long)


def test_rows_do_not_overlap_without_a_stride():
    columns, _ = windows(IDS, OFFSETS, 8)
    assert len(np.unique(columns["token_ids"].values)) == len(columns["token_ids"].values)


@pytest.mark.parametrize("stride", [0, 9])
def test_a_stride_beyond_the_row_is_refused(stride):
    with pytest.raises(ValueError, match=f"stride {stride}: give 1 to 8, the tokens of a row"):
        windows(IDS, OFFSETS, 8, stride)


def test_texts_of_a_token_each_are_refused():
    with pytest.raises(ValueError, match="no text has two tokens"):
        windows(np.arange(2), np.array([0, 1, 2]), 8)


def test_packed_rows_hold_the_same_rows_each_with_its_own_positions():
    columns, of = windows(IDS, OFFSETS, 8)
    columns["bytes"] = np.ones(len(of), "float32")
    made = packed(columns, 8)
    pieces = []
    for ids, targets, numbers, positions in zip(
        *(rows_of(made[name]) for name in ("token_ids", "targets", "packed_ids", "positions")), strict=True
    ):
        assert len(ids) <= 8
        assert sorted(set(numbers)) == list(range(1, max(numbers) + 1))
        for number in set(numbers):
            inside = [i for i, n in enumerate(numbers) if n == number]
            assert [positions[i] for i in inside] == list(range(len(inside)))
            pieces.append(([ids[i] for i in inside], [targets[i] for i in inside]))
    assert sorted(pieces) == sorted(zip(rows_of(columns["token_ids"]), rows_of(columns["targets"]), strict=True))
    assert made["bytes"].sum() == len(of)
    assert len(made["bytes"]) < len(of)


def test_random_blocks_are_pieces_of_the_stream_cut_elsewhere_every_time():
    import tensorflow as tf

    stream = np.arange(100, dtype="int32") * 2
    columns, noise = random_blocks(stream, 8)
    assert rows_of(columns["token_ids"])[3] == stream[24:32].tolist()
    begins = set()
    for row, seed in itertools.product((0, 5, 11), range(6)):
        example = {"token_ids": stream[:8], "begin": tf.constant(columns["begin"][row])}
        made = noise(example, tf.constant([1, seed]), 8)
        ids, targets = made["token_ids"].numpy(), made["targets"].numpy()
        np.testing.assert_array_equal(ids, np.arange(ids[0], ids[0] + 16, 2))
        np.testing.assert_array_equal(targets, ids + 2)
        assert abs(ids[0] // 2 - row * 8) <= 4
        begins.add((row, ids[0]))
    assert len(begins) > 6


def test_a_stream_shorter_than_a_row_is_refused():
    with pytest.raises(ValueError, match="8 tokens are less than a row of 8"):
        random_blocks(np.arange(8), 8)


TEXTS = ["ab ba", "b", "abba"] * 2


@pytest.mark.parametrize(("kind", "use"), [("bpe", "decoder"), ("bpe", "seq2seq"), ("wordpiece", "encoder")])
def test_documents_stand_between_a_first_and_a_last_token(kind, use):
    tokenizer = train_tokenizer(TEXTS, kind, 300 if kind == "bpe" else 20, use=use, min_frequency=1)
    ids, offsets, begun = documents(tokenizer, TEXTS)
    first, last = (tokenizer.cls_id, tokenizer.sep_id) if use == "encoder" else (tokenizer.bos_id, tokenizer.eos_id)
    assert begun
    assert set(ids[offsets[:-1]]) == {first}
    assert set(ids[offsets[1:] - 1]) == {last}
    assert (ids == first).sum() == (ids == last).sum() == len(TEXTS)
    assert [tokenizer.decode(ids[a:b]) for a, b in itertools.pairwise(offsets)] == TEXTS


def test_a_tokenizer_with_one_token_for_both_ends_puts_one_between_two_texts():
    tokenizer = train_tokenizer(TEXTS, "bpe", 300, use="decoder")
    tokenizer = tokenizer.with_special_tokens(bos="</s>")
    ids, offsets, begun = documents(tokenizer, ["a", "b"])
    end = tokenizer.eos_id
    stream = joined(ids, offsets)
    assert begun
    assert stream[-1] == end
    assert not ((stream[1:] == end) & (stream[:-1] == end)).any()
