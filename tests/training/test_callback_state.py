"""Keras callbacks go on from where they were, and a run may validate and stop by steps."""

import numpy as np
import pytest
import tensorflow as tf
from keras.callbacks import EarlyStopping

from aillm_tf.training.callback_state import get_states, set_states
from aillm_tf.training.checkpoint import Checkpoints
from aillm_tf.training.optimizer import adamw

EVERY = 2  # steps from one validation to the next


class Validations(tf.keras.callbacks.Callback):
    """Gives every validation a score of its own choosing, and fails after one of them."""

    def __init__(self, scores, fail_after=None):
        super().__init__()
        self.scores, self.fail_after, self.seen, self.remembered = scores, fail_after, [], []

    def on_epoch_end(self, epoch, logs=None):
        logs["val_score"] = self.scores[epoch]
        self.seen.append((epoch, self.model.step, "val_accuracy" in logs))

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.fail_after:
            raise InterruptedError

    def get_state(self):
        return {"seen": self.seen}

    def set_state(self, state):
        self.remembered = state["seen"]


def train(make, rows, folder, validations, stopping, steps=14):
    model = make()
    model.compile(adamw(5e-3, steps=14))
    history = model.fit(
        model.dataset(rows, batch_size=6, shuffle=True, fixed_length=True),
        validation_data=model.dataset(rows[:6] if isinstance(rows, list) else rows, batch_size=40, fixed_length=True),
        validation_every=EVERY,
        steps=steps,
        callbacks=[validations, stopping],
        checkpoints=Checkpoints(folder),
        verbose=0,
    )
    return model, history


SCORES = [3.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0]  # the second is the best; patience of 3 ends after the fifth


def stopping():
    return EarlyStopping("val_score", patience=3, mode="min", restore_best_weights=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    made = {}

    def get(make, rows):
        if not made:
            validations = Validations(SCORES)
            made["run"] = validations, *train(make, rows, tmp_path_factory.mktemp("whole"), validations, stopping())
        return made["run"]

    return get


def test_validation_every_some_steps_is_what_callbacks_call_an_epoch(make_classifier, rows, whole):
    validations, model, history = whole(make_classifier, rows)
    assert validations.seen == [(epoch, EVERY * (epoch + 1), True) for epoch in range(5)]
    assert history.epoch == list(range(5)) and model.step == 10


def test_patience_goes_on_counting_after_a_resume(make_classifier, rows, whole, tmp_path):
    _, expected, expected_history = whole(make_classifier, rows)
    with pytest.raises(InterruptedError):
        train(make_classifier, rows, tmp_path, Validations(SCORES, fail_after=4), stopping())
    again = Validations(SCORES)
    model, history = train(make_classifier, rows, tmp_path, again, callback := stopping())
    assert [epoch for epoch, *_ in again.seen] == [4]
    assert [epoch for epoch, *_ in again.remembered] == [0, 1, 2, 3]
    assert (model.step, callback.best, callback.best_epoch) == (10, 1.0, 1)
    assert history.history == expected_history.history
    for a, b in zip(model.trainable_variables, expected.trainable_variables, strict=True):  # the best, not the last
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=a.path)


def test_a_run_that_validated_at_other_steps_is_refused(make_classifier, rows, tmp_path):
    train(make_classifier, rows, tmp_path, Validations(SCORES), stopping(), steps=2)
    model = make_classifier()
    model.compile(adamw(5e-3, steps=14))
    data = model.dataset(rows, batch_size=6, shuffle=True, fixed_length=True)
    with pytest.raises(ValueError, match="validated every 2 steps, this one does every 7: give validation_every 2"):
        model.fit(data, steps=4, checkpoints=Checkpoints(tmp_path), verbose=0)


def test_the_state_of_a_callback_that_is_gone_is_named():
    states, arrays = get_states([EarlyStopping()])
    with pytest.warns(UserWarning, match="EarlyStopping"):
        set_states([], states, arrays)


def test_two_callbacks_of_one_kind_keep_their_own(recwarn):
    first, second = EarlyStopping(), EarlyStopping()
    first.best, second.best = 0.5, 0.25
    states, arrays = get_states([first, second])
    others = EarlyStopping(), EarlyStopping()
    set_states(others, states, arrays)
    assert [callback.best for callback in others] == [0.5, 0.25] and not recwarn.list
