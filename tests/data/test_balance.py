"""Balanced epochs: as many rows of every class, a pure function of (seed, step)."""

import numpy as np
import pytest

from aillm_tf.data.balance import balanced_rows
from aillm_tf.data.pipeline import Dataset, Ragged

CLASSES = np.array([0] * 23 + [1] * 5 + [2] * 3)
LENGTHS = np.random.default_rng(0).integers(1, 17, len(CLASSES))


def made(balance="label", seed=0, **options):
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)])
    columns = {"token_ids": Ragged(np.arange(offsets[-1], dtype="int32"), offsets), "label": CLASSES}
    options = {"max_length": 16, "batch_size": 4, "shuffle": True, **options}
    return Dataset(columns, balance=balance, seed=seed, **options)


def epoch_rows(data, epoch=0):
    steps = range(epoch * data.steps_per_epoch, (epoch + 1) * data.steps_per_epoch)
    return np.concatenate([data.batch_rows(step)[0] for step in steps])


def test_every_class_has_the_same_share():
    rows = balanced_rows(CLASSES, np.random.default_rng(0))
    assert np.bincount(CLASSES[rows]).tolist() == [11, 10, 10]
    counts = np.bincount(rows, minlength=len(CLASSES))
    assert counts[:23].max() == 1  # of a large class none twice
    assert set(counts[23:28]) == {2} and set(counts[28:]) == {3, 4}  # of small ones all, equally often but for one


def test_epochs_are_balanced_equally_long_and_different():
    data = made()
    epochs = [epoch_rows(data, epoch) for epoch in range(3)]
    for rows in epochs:
        assert np.bincount(CLASSES[rows]).tolist() == [11, 10, 10]
    assert len({tuple(sorted(rows)) for rows in epochs}) == 3


def test_a_step_depends_on_seed_and_step_only():
    data, again = made(), made()
    last = 2 * data.steps_per_epoch - 1
    np.testing.assert_array_equal(data.batch_rows(last)[0], again.batch_rows(last)[0])  # the other steps not asked for
    batch = next(iter(again.batches(last, last + 1)))
    np.testing.assert_array_equal(batch["label"], CLASSES[data.batch_rows(last)[0]])
    assert not np.array_equal(epoch_rows(made(seed=1)), epoch_rows(data))


def test_checkpoints_tell_balanced_data_apart():
    assert made().fingerprint == made().fingerprint != made(balance=None).fingerprint


def test_padding_is_that_of_the_rows_drawn():
    data = made()
    padded = [(row, length) for step in range(data.steps_per_epoch) for row, length in batch_positions(data, step)]
    tokens, positions = sum(LENGTHS[row] for row, _ in padded if row >= 0), sum(length for _, length in padded)
    assert data.padding_fraction == pytest.approx(1 - tokens / positions)


def batch_positions(data, step):
    rows, length, full = data.batch_rows(step)
    return [(row, length) for row in [*rows, *[-1] * (full - len(rows))]]


def test_balance_needs_shuffled_batches_of_rows():
    for options in ({"shuffle": False}, {"batch_size": None, "tokens_per_batch": 64}):
        with pytest.raises(ValueError, match="balance draws rows: give shuffle=True, and batch_size"):
            made(**options)


def test_several_labels_cannot_be_balanced(make_classifier, make_rows):
    rows = make_rows(["a", "b"], [[1, 0], [1, 1]], ["bad", "good"])
    with pytest.raises(ValueError, match="one label each"):
        make_classifier(multi_label=True).dataset(rows, balance=True)
