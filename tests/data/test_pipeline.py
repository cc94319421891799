"""Dataset: a pure function of (seed, step), whoever shares its batches and wherever it starts."""

import ctypes
import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.data.noise import mask_tokens
from aillm_tf.data.pipeline import Dataset, Ragged

ROWS = 23
RNG = np.random.default_rng(8)
LENGTHS = RNG.integers(1, 21, ROWS)
OFFSETS = np.concatenate([[0], np.cumsum(LENGTHS)])
VALUES = RNG.integers(5, 50, LENGTHS.sum()).astype("int32")
LABELS = RNG.integers(0, 3, ROWS).astype("int32")


def noise(example, seed, length):
    """Masks tokens; the shape of what it adds depends on the length."""
    special = tf.constant(np.arange(50) < 5)
    ids, at, targets, weights = mask_tokens(
        example["token_ids"], example["valid"], seed, mask_id=4, vocab_size=50, special=special, max_predictions=3
    )
    return {**example, "token_ids": ids, "target_positions": at, "targets": targets, "target_weights": weights}


def dataset(**options):
    columns = {"token_ids": Ragged(VALUES, OFFSETS), "label": LABELS}
    options = {"max_length": 20, "shuffle": True, "seed": 3, "pad": {"token_ids": 1}, **options}
    if "tokens_per_batch" not in options:
        options.setdefault("batch_size", 6)
    return Dataset(columns, **options)


def numpy(batches):
    return [{name: value.numpy() for name, value in batch.items()} for batch in batches]


def same(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


SIZES = pytest.mark.parametrize("size", [{"batch_size": 6}, {"tokens_per_batch": 64}], ids=str)


@SIZES
@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_has_every_row_once(size, shuffle):
    data = dataset(shuffle=shuffle, **size)
    for epoch in range(2):
        batches = numpy(data.batches(epoch * data.steps_per_epoch))
        assert len(batches) == data.steps_per_epoch
        rows, weights = (np.concatenate([batch[name] for batch in batches]) for name in ("row", "weight"))
        assert sorted(rows[weights > 0]) == list(range(ROWS))
        assert set(rows[weights == 0]) <= {-1}
        assert set(weights) <= {0.0, 1.0}


def test_a_batch_holds_its_rows_padded():
    for batch in numpy(dataset().batches()):
        for i, row in enumerate(batch["row"]):
            tokens = VALUES[OFFSETS[row] : OFFSETS[row + 1]] if row >= 0 else []
            expected = np.full(batch["token_ids"].shape[1], 1)
            expected[: len(tokens)] = tokens
            np.testing.assert_array_equal(batch["token_ids"][i], expected)
            np.testing.assert_array_equal(batch["valid"][i], np.arange(len(expected)) < len(tokens))
            if row >= 0:
                assert batch["label"][i] == LABELS[row]


def test_rows_of_many_labels_stay_vectors():
    labels = np.eye(3, dtype="float32")[LABELS]
    data = Dataset({"token_ids": Ragged(VALUES, OFFSETS), "label": labels}, max_length=20, batch_size=6)
    for batch in numpy(data.batches()):
        real = batch["row"] >= 0
        np.testing.assert_array_equal(batch["label"][real], labels[batch["row"][real]])


@SIZES
def test_starting_at_a_step_equals_the_tail_bit_for_bit(size):
    data = dataset(noise=noise, **size)
    last = 2 * data.steps_per_epoch + 1
    whole = numpy(data.batches(0, last))
    for first in (1, data.steps_per_epoch, data.steps_per_epoch + 2):
        same(numpy(dataset(noise=noise, **size).batches(first, last)), whole[first:])


def test_noise_is_fresh_every_epoch_and_equal_in_every_run():
    def by_row(epoch, seed=3):
        data = dataset(noise=noise, fixed_length=True, seed=seed)
        batches = numpy(data.batches(epoch * data.steps_per_epoch))
        return {r: ids.tolist() for b in batches for r, ids in zip(b["row"], b["token_ids"], strict=True) if r >= 0}

    first = by_row(0)
    assert first == by_row(0)
    for other in (by_row(1), by_row(0, seed=4)):
        assert np.mean([first[row] != other[row] for row in first]) > 0.5


def test_noise_of_a_row_does_not_depend_on_its_batch():
    def by_row(**size):
        batches = numpy(dataset(noise=noise, fixed_length=True, **size).batches())
        return {r: ids.tolist() for b in batches for r, ids in zip(b["row"], b["token_ids"], strict=True) if r >= 0}

    assert by_row(batch_size=6) == by_row(batch_size=4)


def test_rows_that_fill_a_batch_have_no_targets():
    filling = [b["target_weights"][b["row"] < 0] for b in numpy(dataset(noise=noise).batches())]
    assert sum(map(len, filling)) > 0
    assert sum(f.sum() for f in filling) == 0


@pytest.mark.parametrize(("total", "micro"), [(1, 2), (2, 1), (2, 2), (4, 1), (4, 2)])
def test_the_slices_of_all_replicas_make_the_same_global_batch(total, micro):
    data = dataset(noise=noise)
    whole = numpy(data.batches(2, 5))
    slices = [numpy(data.batches(2, 5, replicas=range(r, r + 1), total=total, micro=micro)) for r in range(total)]
    for batch, *parts in zip(whole, *slices, strict=True):
        assert len({part["row"].shape for part in parts}) == 1
        assert len(parts[0]["row"]) % micro == 0
        joined = {name: np.concatenate([part[name] for part in parts]) for name in batch}
        kept, real = joined["row"] >= 0, batch["row"] >= 0
        for name in batch:
            np.testing.assert_array_equal(joined[name][kept], batch[name][real], err_msg=name)


def test_a_worker_makes_the_slices_of_its_own_replicas_in_turn():
    data = dataset()
    both = numpy(data.batches(0, 3, replicas=range(2, 4), total=4))
    third, fourth = (numpy(data.batches(0, 3, replicas=range(r, r + 1), total=4)) for r in (2, 3))
    same(both, [batch for pair in zip(third, fourth, strict=True) for batch in pair])


def test_a_strategy_deals_the_slices_out(two_replicas):
    data = dataset()
    dealt = iter(data.distribute(two_replicas, 2, 5))
    for batch in numpy(data.batches(2, 5)):
        rows = [part.numpy() for part in two_replicas.experimental_local_results(next(dealt)["row"])]
        np.testing.assert_array_equal(np.concatenate(rows), batch["row"])


def test_every_epoch_has_as_many_steps():
    data = dataset(tokens_per_batch=64)
    for epoch in range(5):
        rows = [data.batch_rows(epoch * data.steps_per_epoch + i)[0] for i in range(data.steps_per_epoch)]
        assert sorted(np.concatenate(rows)) == list(range(ROWS))


def test_every_epoch_has_an_order_of_its_own():
    orders = {str(numpy(dataset().batches(epoch * dataset().steps_per_epoch))[0]["row"]) for epoch in range(3)}
    assert len(orders) == 3


def test_a_fixed_length_makes_every_shape_static():
    data = dataset(fixed_length=True, noise=noise)
    for total, micro in ((1, 1), (2, 2), (4, 1)):
        spec = data.batches(total=total, replicas=range(total), micro=micro).element_spec
        share = {1: 6, 2: 4, 4: 2}[total]
        assert spec["token_ids"].shape == (share, 20)
        assert spec["target_positions"].shape == (share, 3)
        assert all(s.shape.is_fully_defined() for s in spec.values())


def test_padding_fraction_counts_the_positions_without_a_token():
    data = dataset()
    valid = [batch["valid"] for batch in numpy(data.batches())]
    assert data.padding_fraction == pytest.approx(1 - sum(v.sum() for v in valid) / sum(v.size for v in valid))


def test_tokens_are_counted_over_epochs():
    data = dataset()
    assert data.tokens(0, 2 * data.steps_per_epoch) == 2 * LENGTHS.sum()
    assert data.tokens(1, 3) == sum(int(batch["valid"].sum()) for batch in numpy(data.batches(1, 3)))


def test_the_same_data_have_the_same_fingerprint():
    assert dataset().fingerprint == dataset().fingerprint


OTHER_TOKEN, OTHER_LABEL = VALUES.copy(), LABELS.copy()
OTHER_TOKEN[-1] += 1
OTHER_LABEL[0] += 1


@dataclasses.dataclass
class Changed:
    values: np.ndarray = dataclasses.field(default_factory=lambda: VALUES)
    labels: np.ndarray = dataclasses.field(default_factory=lambda: LABELS)
    options: dict = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    "changed",
    {
        "token": Changed(values=OTHER_TOKEN),
        "label": Changed(labels=OTHER_LABEL),
        "seed": Changed(options={"seed": 4}),
        "order": Changed(options={"shuffle": False}),
        "length": Changed(options={"max_length": 21}),
        "fixed length": Changed(options={"fixed_length": True}),
        "batch of as many steps": Changed(options={"batch_size": 7}),
    }.items(),
    ids=lambda item: item[0],
)
def test_other_batches_have_another_fingerprint(changed):
    changed = changed[1]
    options = {"max_length": 20, "batch_size": 6, "shuffle": True, "seed": 3, "pad": {"token_ids": 1}}
    other = Dataset(
        {"token_ids": Ragged(changed.values, OFFSETS), "label": changed.labels}, **{**options, **changed.options}
    )
    assert other.fingerprint != dataset().fingerprint


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        Dataset({"token_ids": Ragged(VALUES[:0], OFFSETS[:1])}, max_length=20, batch_size=2)


def test_a_row_longer_than_max_length_is_refused():
    with pytest.raises(ValueError, match="more than the longest bucket 10"):
        dataset(max_length=10)


# a block of a MiB is freed, so that malloc may keep the next; then, how many more blocks are the system's own
BLOCKS = """
import ctypes
import numpy as np
from aillm_tf.data.pipeline import Dataset, Ragged

class Counts(ctypes.Structure):
    _fields_ = [("of", ctypes.c_size_t * 10)]  # of[3] is hblks

columns = {"token_ids": Ragged(np.arange(40, dtype="int32"), np.arange(0, 41, 4))}
assert len(list(Dataset(columns, batch_size=2, max_length=4).batches())) == 5
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.mallinfo2.restype = [ctypes.c_void_p], Counts
libc.free(libc.malloc(2**20))
before = libc.mallinfo2().of[3]
libc.malloc(2**20)
print(libc.mallinfo2().of[3] - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33 or newer")
def test_malloc_keeps_large_blocks():
    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0"], "every large tensor from now on waits for new pages, see Dataset.batches"
