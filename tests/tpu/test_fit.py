"""The search for the largest batch, on formulas."""

import pytest

from aillm_tf.tpu.fit import largest


@pytest.mark.parametrize("start", [8, 32, 1024])
@pytest.mark.parametrize(("fixed", "per_row"), [(1000, 10), (0, 7), (4900, 1)])
def test_a_straight_line_needs_four_compilations(start, fixed, per_row):
    asked = []

    def used(rows):
        asked.append(rows)
        return fixed + per_row * rows

    found = largest(used, 5000, start)
    assert used(found) <= 5000 < used(found + 8)
    assert len(asked) <= 6  # two of them here


def test_memory_that_grows_faster_is_found_too():
    found = largest(lambda rows: rows**2, 10_000, start=8)
    assert found**2 <= 10_000 < (found + 8) ** 2


def test_nothing_fits():
    assert largest(lambda rows: 6000 + rows, 5000, start=64) == 0
