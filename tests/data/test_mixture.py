"""Mixture: whose batch a step has is a function of (seed, step), shares are exact, and no batch is lost or changed."""

import numpy as np
import pytest

from aillm_tf.data.mixture import BLOCK, Mixture, Schedule
from aillm_tf.data.pipeline import Dataset, Ragged


@pytest.mark.parametrize("shares", [[1, 1, 1], [3, 1], [0.5, 0.3, 0.2], [1, 0.001]])
def test_counts_are_those_of_the_choices_and_follow_the_shares(shares):
    schedule = Schedule(shares, seed=3)
    choices = schedule.choices(0, 1000)
    for step in (0, 1, 59, 60, 61, 999):
        np.testing.assert_array_equal(schedule.before(step), np.bincount(choices[:step], minlength=len(shares)))
    np.testing.assert_array_equal(schedule.choices(123, 456), choices[123:456])
    share = np.array(shares) / sum(shares)
    assert (abs(schedule.before(10 * BLOCK) - 10 * BLOCK * share) <= 10).all()


def test_equal_shares_are_exact_in_every_block():
    assert Schedule([1, 1, 1], seed=0).before(7 * BLOCK).tolist() == [140, 140, 140]


def test_a_share_below_a_step_a_block_is_right_on_average():
    assert Schedule([1, 0.002], seed=0).before(600 * BLOCK)[1] == pytest.approx(72, abs=25)


def test_another_step_first_gives_the_same_choices():
    late, early = Schedule([2, 1], seed=1), Schedule([2, 1], seed=1)
    late.before(5000)
    np.testing.assert_array_equal(late.choices(100, 200), early.choices(100, 200))
    assert (Schedule([2, 1], seed=2).choices(0, 200) != early.choices(0, 200)).any()


@pytest.mark.parametrize("shares", [[], [1, 0], [1, -1], [float("nan"), 1]])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(ValueError, match="positive"):
        Schedule(shares, seed=0)


def part(rows, first, length=6, **options):
    counts = np.full(rows, 4)
    ids = Ragged(np.arange(first, first + 4 * rows, dtype="int32"), np.concatenate([[0], np.cumsum(counts)]))
    return Dataset({"token_ids": ids}, max_length=length, **{"batch_size": 4, "shuffle": True, **options})


@pytest.fixture(scope="module")
def mixture():
    return Mixture({"a": part(10, 0), "b": part(20, 1000, 8, batch_size=2)}, weights={"a": 2, "b": 1}, seed=5)


def test_every_step_has_the_batch_of_its_part_and_nothing_else(mixture):
    own = {name: list(p.batches(0, 40)) for name, p in mixture.parts.items()}
    for step, batch in enumerate(mixture.batches(0, 30)):
        name = mixture.name_of(step)
        other = "b" if name == "a" else "a"
        expected = own[name][mixture.steps_of(name, 0, step)[1]]
        for feature, value in expected.items():
            np.testing.assert_array_equal(batch[f"{name}/{feature}"], value)
            assert not np.any(batch[f"{other}/{feature}"])
        assert batch[f"{name}/active"].numpy().all() and not batch[f"{other}/active"].numpy().any()


def test_any_step_can_be_the_first(mixture):
    late = list(mixture.batches(17, 25))
    for one, other in zip(late, list(mixture.batches(0, 25))[17:], strict=True):
        for feature in one:
            np.testing.assert_array_equal(one[feature], other[feature])


def test_slices_of_two_replicas_are_the_batch(mixture):
    whole = list(mixture.batches(0, 8))
    halves = list(mixture.batches(0, 8, replicas=range(2), total=2))
    for step, batch in enumerate(whole):
        name = f"{mixture.name_of(step)}/token_ids"
        joined = np.concatenate([halves[2 * step][name], halves[2 * step + 1][name]])
        np.testing.assert_array_equal(joined, batch[name])


def test_shapes_are_static_where_those_of_the_parts_are():
    parts = {"a": part(10, 0, fixed_length=True), "b": part(20, 1000, 8, batch_size=2, fixed_length=True)}
    spec = Mixture(parts).batches(0, 4).element_spec
    assert spec["a/token_ids"].shape == (4, 6)
    assert spec["b/token_ids"].shape == (2, 8)
    assert spec["a/active"].shape == (4,)


def test_tokens_are_counted_for_every_part(mixture):
    found = mixture.tokens_of(3, 33)
    assert sum(found.values()) == mixture.tokens(3, 33)
    names = [mixture.name_of(step) for step in range(3, 33)]
    assert sum(found.values()) == sum(mixture.tokens(step, step + 1) for step in range(3, 33))
    rows = {name: sum(len(mixture.batch_rows(s)[0]) for s in range(3, 33) if names[s - 3] == name) for name in "ab"}
    assert found == {name: 4 * count for name, count in rows.items()}


def test_a_temperature_evens_out_the_rows():
    parts = {"a": part(16, 0), "b": part(4, 1000)}
    for temperature, share in ((1.0, 0.8), (2.0, 2 / 3), (1e9, 0.5)):
        assert Mixture(parts, temperature=temperature).schedule.shares[0] == pytest.approx(share)


def test_the_fingerprint_tells_other_data_weights_and_seeds(mixture):
    parts = mixture.parts
    others = [Mixture(parts, seed=5), Mixture(parts, weights={"a": 2, "b": 1}), Mixture({"a": parts["a"]}, seed=5)]
    assert len({mixture.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert Mixture(parts, weights={"a": 4, "b": 2}, seed=5).fingerprint == mixture.fingerprint


def test_weights_of_other_parts_are_refused(mixture):
    with pytest.raises(ValueError, match="weights for a, c; the parts are a, b"):
        Mixture(mixture.parts, weights={"a": 1, "c": 1})
