"""Dataset of two sides: source and target have lengths of their own, in a few pairs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aillm_tf.data.bucketing import bucket_pairs, plan_epoch
from aillm_tf.data.pipeline import Dataset, Ragged

ROWS = 40
RNG = np.random.default_rng(5)
LENGTHS = np.stack([RNG.integers(1, 31, ROWS), RNG.integers(1, 13, ROWS)], 1)
SIDES = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 90)), min_size=1, max_size=60).map(np.array)


def ragged(lengths, first=5):
    return Ragged(np.arange(first, first + lengths.sum(), dtype="int32"), np.concatenate([[0], np.cumsum(lengths)]))


COLUMNS = {
    "token_ids": ragged(LENGTHS[:, 0]),
    "target_ids": ragged(LENGTHS[:, 1], 1000),
    "targets": ragged(LENGTHS[:, 1], 2000),
    "target_language": np.arange(ROWS, dtype="int32"),
}


def dataset(**options):
    options = {"max_length": 40, "max_target_length": 20, "shuffle": True, "pad": {"target_ids": 3}, **options}
    return Dataset(COLUMNS, **({"tokens_per_batch": 128} if "batch_size" not in options else {}), **options)


def numpy(batches):
    return [{name: value.numpy() for name, value in batch.items()} for batch in batches]


@given(SIDES, st.integers(1, 12))
def test_pairs_ascend_on_both_sides_and_hold_the_longest_row(lengths, most):
    pairs = np.array(bucket_pairs(lengths, (64, 100), most=most))
    assert len(pairs) <= most
    assert (np.diff(pairs, axis=0) >= 0).all()
    assert (lengths.max(0) <= pairs[-1]).all()


@given(SIDES)
def test_more_pairs_never_pad_more(lengths):
    positions = []
    for most in (1, 2, 4, 8):
        plan = plan_epoch(lengths, bucket_pairs(lengths, (64, 100), most=most), batch_size=1)
        positions.append(sum(sum(pair) for _, pair, _ in plan))
    assert positions == sorted(positions, reverse=True)


def test_pairs_of_a_fixed_length_are_one():
    assert bucket_pairs(LENGTHS, (40, 20), fixed=True) == ((40, 20),)


@given(SIDES, st.integers(0, 3))
def test_every_row_fits_into_its_batch_on_both_sides(lengths, seed):
    pairs = bucket_pairs(lengths, (50, 90))
    plan = plan_epoch(lengths, pairs, tokens_per_batch=200, rng=np.random.default_rng(seed))
    assert sorted(np.concatenate([rows for rows, _, _ in plan])) == list(range(len(lengths)))
    for rows, pair, full in plan:
        assert (lengths[rows].max(0) <= pair).all()
        assert full == max(1, 200 // sum(pair))
        assert len(rows) <= full


def test_a_target_longer_than_the_longest_is_named():
    with pytest.raises(ValueError, match="row 1 has 9 target tokens, more than the longest bucket 8"):
        plan_epoch(np.array([[3, 4], [3, 9]]), ((8, 8),), batch_size=2)


def test_a_batch_holds_both_sides_padded_to_their_own_length():
    for batch in numpy(dataset().batches()):
        assert batch["token_ids"].shape[1] != batch["targets"].shape[1] or batch["token_ids"].shape[1] <= 20
        for name, pad in (("token_ids", 0), ("target_ids", 3), ("targets", 0)):
            values, offsets = COLUMNS[name]
            for i, row in enumerate(batch["row"]):
                tokens = values[offsets[row] : offsets[row + 1]] if row >= 0 else []
                expected = np.full(batch[name].shape[1], pad)
                expected[: len(tokens)] = tokens
                np.testing.assert_array_equal(batch[name][i], expected, err_msg=name)


def test_weights_of_targets_are_1_at_tokens_and_0_at_padding():
    for batch in numpy(dataset().batches()):
        expected = np.where(batch["row"] >= 0, LENGTHS[batch["row"], 1], 0)
        np.testing.assert_array_equal(batch["target_weights"].sum(1), expected)
        np.testing.assert_array_equal(batch["target_weights"] > 0, batch["targets"] > 0)


def test_a_dense_column_named_target_stays_a_vector():
    for batch in numpy(dataset().batches()):
        real = batch["row"] >= 0
        np.testing.assert_array_equal(batch["target_language"][real], batch["row"][real])


def test_padding_and_tokens_count_both_sides():
    data = dataset()
    batches = numpy(data.batches())
    tokens = sum(batch["valid"].sum() + batch["target_weights"].sum() for batch in batches)
    positions = sum(batch["token_ids"].size + batch["targets"].size for batch in batches)
    assert data.tokens(0, data.steps_per_epoch) == tokens == LENGTHS.sum()
    assert data.padding_fraction == pytest.approx(1 - tokens / positions)
    steps = [data.batch_rows(step) for step in range(data.steps_per_epoch)]
    assert sum(length * full for _, length, full in steps) == positions


def test_a_fixed_length_pads_each_side_to_its_own_maximum():
    spec = dataset(fixed_length=True, batch_size=8).batches().element_spec
    assert spec["token_ids"].shape == (8, 40)
    assert spec["targets"].shape == spec["target_weights"].shape == (8, 20)


@pytest.mark.parametrize("change", [{"seed": 1}, {"max_target_length": 400}, {"fixed_length": True}], ids=str)
def test_other_batches_have_another_fingerprint(change):
    assert (
        dataset(fixed_length="max_target_length" in change).fingerprint
        != dataset(**{"fixed_length": "max_target_length" in change, **change}).fingerprint
    )


def test_starting_at_a_step_equals_the_tail():
    whole = numpy(dataset().batches(0, 6))
    for a, b in zip(numpy(dataset().batches(2, 6)), whole[2:], strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_column_longer_than_its_side_is_refused():
    with pytest.raises(ValueError, match="of 'targets' is longer than of 'target_ids'"):
        Dataset({**COLUMNS, "targets": COLUMNS["token_ids"]}, max_length=40, max_target_length=40, batch_size=4)


def test_a_second_side_needs_a_column():
    with pytest.raises(ValueError, match="no ragged column is named target"):
        Dataset({"token_ids": COLUMNS["token_ids"]}, max_length=40, max_target_length=40, batch_size=4)
