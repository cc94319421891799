"""A step that waits long for its batch: the log says so once, and in which stage the batch is."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.prepare import prepare
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.data.shards import open_shards
from aillm_tf.training import watchdog
from aillm_tf.training.optimizer import adamw
from aillm_tf.training.watchdog import Watch


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(watchdog, "SECONDS", 0.2)


SLEEP = 0.5


def dataset(kind=Dataset, **options):
    rows = Ragged(np.arange(64, dtype="int32"), np.arange(0, 65, 4))
    return kind({"token_ids": rows}, batch_size=4, max_length=4, **options)


def watched(data, step=next):
    """What `step(iterator)` gives in a loop that is watched."""
    with Watch(data) as watch:
        iterator = iter(data.distribute(tf.distribute.get_strategy(), 0, 2))
        return watch.call(step, iterator, first_step=0, last_step=1)


def test_rows_that_do_not_come_are_told_once_with_the_line(caplog):
    class Slow(Dataset):
        def _planned(self, step):
            time.sleep(SLEEP * (step == 0))
            return super()._planned(step)

    assert watched(dataset(Slow))["token_ids"].shape == (4, 4)
    said, ended = (record.getMessage() for record in caplog.records)
    assert said.startswith("step 1 waits for data for 0 s, since 2")
    assert "Stage: choosing the rows of a batch" in said and "time.sleep(SLEEP * (step == 0))" in said
    assert ended == "step 1 goes on: it took 1 s" or ended == "step 1 goes on: it took 0 s"


def test_slow_python_in_the_noise_is_shown(caplog):
    def slow(ids):
        time.sleep(SLEEP / 4)
        return ids

    def noise(example, seed, length):
        return {**example, "token_ids": tf.ensure_shape(tf.numpy_function(slow, [example["token_ids"]], tf.int32), [4])}

    watched(dataset(noise=noise))
    assert "Python code of the noise or of the data set" in caplog.text and "in slow" in caplog.text


def test_slow_operations_are_told_from_python(caplog):
    queue = tf.queue.FIFOQueue(99, [tf.int32], [()])

    def noise(example, seed, length):
        return {**example, "drawn": queue.dequeue()}

    def step(iterator):
        threading.Timer(SLEEP, queue.enqueue_many, [[tf.range(99)]]).start()
        return next(iterator)

    watched(dataset(noise=noise), step)
    assert "inside of TensorFlow: gathering its rows, or their noise" in caplog.text and "File" not in caplog.text


@pytest.fixture
def prepared(tokenizer, reviews, tmp_path):
    """A corpus on the disk."""
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "texts.txt").write_text("\n".join(text for text, _ in reviews), encoding="utf-8")
    options = {"documents": "line", "quality": "none", "min_words": 1, "similarity": 0, "validation": 0}
    options |= {"tokenizer": str(tmp_path / "tokenizer"), "length": 16}
    prepare(tmp_path / "shards", PrepareOptions((str(tmp_path / "texts.txt"),), **options), processes=1, progress=False)
    return tmp_path / "shards"


@pytest.fixture
def hang(monkeypatch):
    """Lets the kernel block whoever opens a file, until the descriptor that `hang(file)` gives is closed."""
    fcntl = pytest.importorskip("fcntl")
    if not hasattr(fcntl, "F_SETLEASE"):
        pytest.skip("only Linux has leases on files")
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # tells the holder that somebody waits

    def held(file):
        handle = os.open(file, os.O_RDWR)
        try:
            fcntl.fcntl(handle, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError as error:
            os.close(handle)
            pytest.skip(f"the file system of {file} has no leases: {error}")
        return handle

    yield held
    signal.signal(signal.SIGIO, before)


def test_a_shard_on_a_disk_that_hangs_is_told_as_reading(prepared, hang, caplog):
    data = open_shards(prepared, batch_size=4)
    handle = hang(next(prepared.glob("train-*.tfrecord")))

    def step(iterator):
        threading.Timer(SLEEP, os.close, [handle]).start()
        return next(iterator)

    assert watched(data, step)["token_ids"].shape == (4, 16)
    assert "step 1 waits for data" in caplog.text
    assert "Stage: reading rows from the shards on disk" in caplog.text and "in _fill" in caplog.text


def test_a_long_step_is_told_from_missing_data(caplog):
    watched(dataset(), lambda iterator: (next(iterator), time.sleep(SLEEP)))
    assert "step 1 has not ended for 0 s" in caplog.text and "waits for data" not in caplog.text


def test_a_loop_that_gets_its_batches_says_nothing(caplog):
    data = dataset()
    with Watch(data) as watch:
        iterator = iter(data.distribute(tf.distribute.get_strategy(), 4, 8))
        for step in range(4, 8):
            watch.call(next, iterator, first_step=step, last_step=step + 1)
            assert data.arrived[0] == step + 1
            time.sleep(SLEEP / 4)  # what is done between steps does not count
    assert not caplog.records


def test_training_goes_on_once_the_data_come(make_classifier, rows, caplog, monkeypatch):
    def losses():
        model = make_classifier()
        model.compile(adamw(5e-3))
        history = model.fit(model.dataset(rows, batch_size=10, fixed_length=True), epochs=1, verbose=0).history
        return history["loss"]

    expected, planned = losses(), Dataset._planned
    monkeypatch.setattr(
        Dataset, "_planned", lambda self, step: (time.sleep(SLEEP * (step == 1)), planned(self, step))[1]
    )
    assert losses() == expected
    assert "waits for data" in caplog.text
