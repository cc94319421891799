"""The plan of an epoch: every row in exactly one batch, of a shape that does not depend on the shuffle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aillm_tf.data.bucketing import LENGTHS, bucket_lengths, plan_epoch

SIZES = st.sampled_from([{"batch_size": 4}, {"batch_size": 7}, {"tokens_per_batch": 64}, {"tokens_per_batch": 5}])
ROWS = st.lists(st.integers(1, 50), min_size=1, max_size=60).map(lambda lengths: np.array(lengths))
EDGES = bucket_lengths(50)


def shuffled(lengths, seed, **sizes):
    return plan_epoch(lengths, EDGES, rng=np.random.default_rng(seed), **sizes)


def test_edges_end_at_the_longest_row():
    assert bucket_lengths(50) == (8, 16, 24, 32, 40, 48, 50)
    assert bucket_lengths(48) == (8, 16, 24, 32, 40, 48)
    assert bucket_lengths(3) == (3,)
    assert bucket_lengths(50, fixed=True) == (50,)
    assert list(LENGTHS) == sorted(set(LENGTHS))


@given(ROWS, SIZES, st.integers(0, 5))
def test_every_row_is_in_exactly_one_batch(lengths, sizes, seed):
    for plan in (plan_epoch(lengths, EDGES, **sizes), shuffled(lengths, seed, **sizes)):
        assert sorted(np.concatenate([rows for rows, _, _ in plan])) == list(range(len(lengths)))


@given(ROWS, SIZES, st.integers(0, 5))
def test_every_row_fits_into_its_batch(lengths, sizes, seed):
    for rows, length, full in shuffled(lengths, seed, **sizes):
        assert lengths[rows].max() <= length
        assert length in EDGES
        assert 1 <= len(rows) <= full
        if "tokens_per_batch" in sizes:
            assert full == 1 or full * length <= sizes["tokens_per_batch"]
        else:
            assert full == sizes["batch_size"]


@given(ROWS, SIZES)
def test_the_shapes_of_an_epoch_do_not_depend_on_the_shuffle(lengths, sizes):
    plans = [plan_epoch(lengths, EDGES, **sizes), *(shuffled(lengths, seed, **sizes) for seed in (0, 1))]
    assert len({tuple(sorted((length, full, len(rows)) for rows, length, full in plan)) for plan in plans}) == 1


@given(ROWS, SIZES)
def test_at_most_one_batch_of_an_epoch_is_short(lengths, sizes):
    if "batch_size" in sizes:
        assert sum(len(rows) < full for rows, _, full in shuffled(lengths, 0, **sizes)) <= 1


def test_rows_keep_their_order_within_a_length_where_nothing_is_shuffled():
    plan = plan_epoch(np.array([20, 3, 20, 4, 20, 5]), EDGES, batch_size=3)
    assert [rows.tolist() for rows, _, _ in plan] == [[0, 2, 4], [1, 3, 5]]
    assert [length for _, length, _ in plan] == [24, 8]


def test_the_same_seed_gives_the_same_plan_and_another_one_another():
    lengths = np.arange(1, 51)
    plans = [[rows.tolist() for rows, _, _ in shuffled(lengths, seed, batch_size=8)] for seed in (3, 3, 4)]
    assert plans[0] == plans[1] != plans[2]


def test_a_row_longer_than_the_longest_bucket_is_named():
    with pytest.raises(ValueError, match="row 1 has 51 tokens, more than the longest bucket 50"):
        plan_epoch(np.array([3, 51]), EDGES, batch_size=2)


@pytest.mark.parametrize("sizes", [{}, {"batch_size": 2, "tokens_per_batch": 8}])
def test_exactly_one_size_must_be_given(sizes):
    with pytest.raises(ValueError, match="either batch_size or tokens_per_batch"):
        plan_epoch(np.array([3]), EDGES, **sizes)
