"""A step that waits long for its batch: the log says so once, and in which stage the batch is."""

import threading
import time

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.data.pipeline import Dataset, Ragged
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

    threading.Timer(SLEEP, queue.enqueue_many, [[tf.range(99)]]).start()
    watched(dataset(noise=noise))
    assert "inside of TensorFlow: gathering its rows, or their noise" in caplog.text and "File" not in caplog.text


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
