"""Checkpoints in the background: training goes on meanwhile, and nothing that goes wrong there is missed."""

import errno
import threading

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.training import checkpoint
from aillm_tf.training.background import Background
from aillm_tf.training.checkpoint import Checkpoints
from aillm_tf.training.optimizer import adamw


def fails():
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_error_is_raised_once_by_whoever_looks_next():
    background = Background()
    background.start(fails)
    background._thread.join()
    with pytest.raises(OSError, match="No space"):
        background.check()
    background.check()
    background.wait()


def test_check_does_not_wait():
    background, may_end = Background(), threading.Event()
    background.start(may_end.wait)
    background.check()
    assert background._thread.is_alive()
    may_end.set()
    background.wait()


def test_a_second_job_begins_after_the_first():
    background, order = Background(), []
    for number in range(20):
        background.start(order.append, number)
    background.wait()
    assert order == list(range(20))


def test_what_is_saved_is_what_was_given_when_saving_began(tmp_path, monkeypatch):
    may_write = threading.Event()
    write = checkpoint.write_tensors
    monkeypatch.setattr(checkpoint, "write_tensors", lambda *given: (may_write.wait(), write(*given))[1])
    checkpoints, state = Checkpoints(tmp_path, every_steps=5), {"totals": [1.0]}
    checkpoints.save_in_background(5, {"model": {"w": np.ones(3)}}, state)
    state["totals"].append(2.0)
    assert not checkpoints.due(6) and checkpoints.due(10)
    may_write.set()
    checkpoints.wait()
    assert checkpoints.latest().state == {"totals": [1.0]}


def test_what_cannot_be_stored_is_refused_at_once(tmp_path):
    with pytest.raises(TypeError, match="state"):
        Checkpoints(tmp_path).save_in_background(1, {}, {"rows": np.zeros(3)})


class Steps(tf.keras.callbacks.Callback):
    def __init__(self, at=None, action=None):
        super().__init__()
        self.at, self.action, self.done = at, action, []

    def on_train_batch_end(self, batch, logs=None):
        self.done.append(self.model.step)
        if self.model.step == self.at:
            self.action()


def fit(make, rows, folder, callback, every=2, steps=6):
    model = make()
    model.compile(adamw(5e-3))
    data = model.dataset(rows, batch_size=6, fixed_length=True)
    model.fit(data, steps=steps, callbacks=[callback], checkpoints=Checkpoints(folder, every_steps=every), verbose=0)
    return model


def test_steps_go_on_while_a_checkpoint_is_written(make_classifier, rows, tmp_path, monkeypatch):
    """On a disk as slow as the test wants, the checkpoint of step 2 is written after step 3, and is that of step 2."""
    may_write, write = threading.Event(), checkpoint.write_tensors
    monkeypatch.setattr(checkpoint, "write_tensors", lambda *given: (may_write.wait(), write(*given))[1])
    steps = Steps(3, lambda: (steps.seen.append(sorted(tmp_path.glob("step_*"))), may_write.set()))
    steps.seen = []
    model = fit(make_classifier, rows, tmp_path, steps, every=2, steps=3)
    assert steps.done == [1, 2, 3] and steps.seen == [[]]
    before, after = (checkpoint._open(step, tmp_path / f"step_{step:08d}").group("model") for step in (2, 3))
    assert any((before[name] != after[name]).any() for name in after)
    for variable in model.trainable_variables:
        np.testing.assert_array_equal(after[variable.path.partition("/")[2]], variable.numpy())


def test_a_full_disk_ends_the_run_at_the_next_step_and_keeps_the_last_one(make_classifier, rows, tmp_path, monkeypatch):
    write, steps = checkpoint.write_tensors, Steps()

    def full_from_step_4(path, tensors):
        if "step_00000004" in str(path):
            fails()
        return write(path, tensors)

    monkeypatch.setattr(checkpoint, "write_tensors", full_from_step_4)
    # the writing thread has failed by the time that step 5 is done
    steps.at, steps.action = 5, lambda: [t.join() for t in threading.enumerate() if t.name.startswith("background")]
    with pytest.raises(OSError, match=r"the checkpoint of step 4 was not saved: No space left.*steps \[2\]"):
        fit(make_classifier, rows, tmp_path, steps)
    assert steps.done == [1, 2, 3, 4, 5]
    assert Checkpoints(tmp_path).latest().step == 2


def test_a_failing_run_still_finishes_the_checkpoint_it_began(make_classifier, rows, tmp_path):
    with pytest.raises(OSError, match="No space"):
        fit(make_classifier, rows, tmp_path, Steps(3, fails))
    assert Checkpoints(tmp_path).latest().step == 2
