"""The loss-spike guard: what it judges, that a skipped step changes nothing, and that it is exact over replicas."""

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.training import guard
from aillm_tf.training.guard import DECAY, SpikeGuard
from aillm_tf.training.optimizer import adamw
from aillm_tf.training.strategy import strategy

STEPS, SPIKE = 7, 5  # the spike is in the batch of step 5


@pytest.fixture
def judged_early(monkeypatch):
    monkeypatch.setattr(guard, "LEARNED", 3)


def judge(norms, limit=3.0):
    spike_guard = SpikeGuard(limit)
    return [bool(spike_guard.accepts(tf.constant(n, tf.float32), tf.constant(True))) for n in norms], spike_guard


def test_a_norm_far_above_the_running_average_is_an_outlier():
    norms = np.random.default_rng(0).uniform(0.5, 2.0, 60)
    norms[[40, 50]] = 4.5, 3.0  # the average is about 1.25
    taken, spike_guard = judge(norms)
    assert np.flatnonzero(~np.array(taken)).tolist() == [40]
    assert int(spike_guard.skipped.numpy()) == 1


def test_the_average_is_that_of_adam_with_outliers_cut_to_the_limit(judged_early):
    _, spike_guard = judge([1.0, 2.0, 3.0, 100.0, 1.0])
    average = 0.0
    for count, norm in enumerate([1.0, 2.0, 3.0, 100.0, 1.0]):
        highest = 3.0 * average / (1 - DECAY**count) if count >= 3 else np.inf
        average = DECAY * average + (1 - DECAY) * min(norm, highest)
    assert float(spike_guard.total.numpy()) == pytest.approx(average, rel=1e-5)


def test_norms_that_stay_high_are_followed(judged_early):
    taken, _ = judge([1.0] * 30 + [10.0] * 100)
    assert not taken[30] and taken[-1]


def test_a_norm_that_is_not_to_be_used_leaves_the_average(judged_early):
    _, spike_guard = judge([1.0] * 10)
    before = spike_guard.state()
    assert bool(spike_guard.accepts(tf.constant(np.nan), tf.constant(False)))
    assert spike_guard.state() == before


def test_of_several_objectives_each_has_its_own_average(judged_early):
    spike_guard = SpikeGuard(3.0, objectives=2)
    steps = [(0, 1.0)] * 30 + [(1, 50.0)] * 5 + [(0, 5.0), (1, 60.0), (1, 200.0)]  # (objective, norm)
    usable = tf.constant(True)
    taken = [bool(spike_guard.accepts(tf.constant(norm), usable, tf.constant(turn))) for turn, norm in steps]
    assert [step for step, was in zip(steps, taken, strict=True) if not was] == [(0, 5.0), (1, 200.0)]
    assert spike_guard.seen.numpy().tolist() == [31, 7] and spike_guard.skipped.numpy().tolist() == [1, 1]


def test_a_limit_of_the_average_itself_is_refused():
    with pytest.raises(ValueError, match="spike_guard is 1"):
        SpikeGuard(1.0)


class Watch(tf.keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.losses, self.norms, self.skipped, self.states = [], [], [], []

    def on_train_batch_end(self, batch, logs=None):
        self.losses += self.model.step_losses.tolist()
        self.norms += self.model.step_norms.tolist()
        self.skipped += self.model.step_skipped.tolist()
        self.states.append([v.numpy() for v in self.model.optimizer.variables[2:] + self.model.trainable_variables])


def spiked(make, rows, scope=None, **options):
    """A run in which the rows of one batch have their losses multiplied."""
    with (scope or strategy("one")).scope():
        model = make()
    data = model.dataset(rows, batch_size=6, shuffle=True, fixed_length=True)
    of_spike = tf.constant(data.batch_rows(SPIKE - 1)[0])
    loss_terms = model.loss_terms

    def with_spike(batch, seed=None):
        total, weight = loss_terms(batch, seed)
        here = tf.reduce_any(batch["row"][:, None] == of_spike[None])
        return total * tf.where(here, 1000.0, 1.0), weight

    model.loss_terms = with_spike
    model.compile(adamw(5e-3, steps=20, ema=0.9), **options)
    model.fuse_on_cpu = False
    watch = Watch()
    model.fit(data, steps=STEPS, callbacks=[watch], verbose=0)
    return watch, model


@pytest.fixture(scope="module")
def guarded():
    """The run of one device, computed once."""
    made = {}

    def get(make, rows):
        if not made:
            made["run"] = spiked(make, rows, spike_guard=4.0)
        return made["run"]

    return get


def test_a_batch_with_a_spike_is_skipped_and_counted(judged_early, guarded, make_classifier, rows):
    watch, model = guarded(make_classifier, rows)
    assert watch.skipped == [step == SPIKE for step in range(1, STEPS + 1)]
    assert int(model.guard.skipped.numpy()) == 1
    assert int(model.optimizer.steps_done.numpy()) == STEPS


def test_a_skipped_step_changes_no_weight_moment_or_average(judged_early, guarded, make_classifier, rows):
    watch, _ = guarded(make_classifier, rows)
    for before, after in zip(watch.states[SPIKE - 2], watch.states[SPIKE - 1], strict=True):
        np.testing.assert_array_equal(after, before)
    assert any((a != b).any() for a, b in zip(watch.states[SPIKE - 1], watch.states[SPIKE], strict=True))


def test_two_replicas_skip_the_same_and_give_the_same_curve(judged_early, guarded, make_classifier, rows, two_replicas):
    expected, _ = guarded(make_classifier, rows)
    options = {"spike_guard": 4.0, "accumulate": 1, "steps_per_execution": 3}
    found, _ = spiked(make_classifier, rows, two_replicas, **options)
    assert found.skipped == expected.skipped
    # the spiked loss is a thousand times the others
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)


def test_its_numbers_are_a_part_of_the_state(judged_early, guarded, make_classifier, rows):
    _, model = guarded(make_classifier, rows)
    other = make_classifier()
    other.compile(adamw(5e-3, steps=20, ema=0.9), spike_guard=4.0)
    other.set_state(model.state())
    assert other.guard.state() == model.guard.state()
    assert int(other.guard.seen.numpy()) == STEPS
