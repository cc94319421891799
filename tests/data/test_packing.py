"""Best-fit packing: every token once, nothing cut that need not be, rows full."""

import numpy as np
import pytest

from aillm_tf.data.packing import pack


@pytest.fixture(scope="module")
def lengths():
    return np.random.default_rng(0).lognormal(5, 0.8, 5000).astype(int).clip(1, 2000)


@pytest.fixture(scope="module")
def pieces(lengths):
    return pack(lengths, 512, around=2)


def test_every_token_of_every_document_stands_in_one_row(lengths, pieces):
    assert np.array_equal(np.bincount(pieces.document, pieces.count), lengths)
    order = np.lexsort((pieces.start, pieces.document))
    ends = (pieces.start + pieces.count)[order]
    follows = pieces.document[order][1:] == pieces.document[order][:-1]
    assert np.array_equal(pieces.start[order][1:], np.where(follows, ends[:-1], 0))


def test_no_row_holds_more_than_it_has_room_for(pieces):
    assert np.bincount(pieces.row, pieces.count + 2).max() <= 512


def test_a_document_is_cut_only_if_it_is_longer_than_a_row(lengths, pieces):
    assert set(pieces.document[pieces.start > 0]) == set(np.flatnonzero(lengths > 510))


def test_rows_are_99_percent_full_with_documents_shorter_than_a_row(lengths):
    short = lengths[lengths <= 512]
    assert short.sum() / (pack(short, 512).row[-1] + 1) / 512 >= 0.99


def test_rows_and_the_documents_in_them_keep_the_order_of_the_documents(pieces):
    assert np.all(np.diff(pieces.row) >= 0)
    first = pieces.document[np.flatnonzero(np.diff(pieces.row, prepend=-1))]
    assert np.all(np.diff(first) >= 0)


def test_documents_in_more_than_one_window_are_all_packed(monkeypatch):
    monkeypatch.setattr("aillm_tf.data.packing._WINDOW", 7)
    pieces = pack(np.full(20, 5), 10)
    assert np.array_equal(pieces.row, np.repeat(np.arange(11), 2)[[*range(7), *range(8, 15), *range(16, 22)]])


def test_a_row_without_room_beside_the_special_tokens_is_refused():
    with pytest.raises(ValueError, match="no room beside the 2"):
        pack(np.array([3]), 2, around=2)
