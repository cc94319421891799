"""What is frozen stays as it is and costs nothing; what is adapted trains on one curve and resumes."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.layers.naming import variables_by_name
from aillm_tf.training.checkpoint import Checkpoints
from aillm_tf.training.freezing import adapt, freeze, trained_share
from aillm_tf.training.optimizer import adamw
from aillm_tf.training.strategy import strategy

STEPS = 6


class Losses(tf.keras.callbacks.Callback):
    def __init__(self, until=None):
        super().__init__()
        self.values, self.until = [], until

    def on_train_batch_end(self, batch, logs=None):
        self.values.extend(self.model.step_losses.tolist())
        if len(self.values) == self.until:
            raise KeyboardInterrupt


def train(make, rows, prepare, scope=None, until=None, checkpoints=None, **options):
    """A model after some steps, its weights before them, and the losses."""
    with (scope or strategy("one")).scope():
        model = make(layers=2, **options.pop("shape", {}))
    prepare(model)
    before = {name: variable.numpy() for name, variable in variables_by_name(model).items()}
    model.compile(adamw(5e-3, steps=STEPS), **options)
    losses = Losses(until)
    data = model.dataset(rows, batch_size=10, shuffle=True, fixed_length=True)
    with contextlib.suppress(KeyboardInterrupt):
        model.fit(data, steps=STEPS, callbacks=[losses], checkpoints=checkpoints, verbose=0)
    return model, before, losses.values


def moved(model, before) -> set[str]:
    return {name for name, v in variables_by_name(model).items() if not np.array_equal(v.numpy(), before[name])}


def lora(model):
    adapt(model, 2, 4.0, ["query", "value"])


@pytest.fixture(scope="module")
def adapted_run():
    """A run with adapters, computed once."""
    made = {}

    def get(make, rows):
        if not made:
            made["run"] = train(make, rows, lora)
        return made["run"]

    return get


def test_frozen_parts_stay_and_have_no_optimizer_state(make_classifier, rows):
    model, before, _ = train(make_classifier, rows, lambda model: freeze(model, "embeddings, 0"))
    still = {name for name in before if name.startswith(("backbone/embeddings/", "backbone/encoder/layer_0/"))}
    assert moved(model, before) == set(before) - still
    assert len(model.optimizer.momentums) == len(before) - len(still)


def test_gradients_of_frozen_variables_are_not_computed(make_classifier, rows):
    model = make_classifier(layers=2)
    freeze(model, "embeddings,0-0")
    batch = next(iter(model.dataset(rows, batch_size=4).batches()))
    with tf.GradientTape() as tape:
        model.loss_terms(batch)
    watched = {v.ref() for v in tape.watched_variables()}
    assert watched == {v.value.ref() for v in model.trainable_variables}


@pytest.mark.parametrize("parts", ["embedings", "0-2", "3", "2-1", ""])
def test_a_part_that_is_not_there_is_named(parts, make_classifier):
    with pytest.raises(ValueError, match="training.freeze: the model has no part"):
        freeze(make_classifier(layers=2), parts)


def test_something_must_be_left_to_train(make_classifier):
    with pytest.raises(ValueError, match="nothing to train"):
        freeze(make_classifier(), "backbone,pooler,classifier")


def test_adapters_and_heads_alone_are_trained(adapted_run, make_classifier, rows):
    model, before, losses = adapted_run(make_classifier, rows)
    trained = {name for name in before if "/lora/" in name or not name.startswith("backbone/")}
    assert moved(model, before) == trained
    assert losses[-1] < losses[0]
    sizes = {name: v.numpy().size for name, v in variables_by_name(model).items()}
    assert trained_share(model) == pytest.approx(sum(sizes[name] for name in trained) / sum(sizes.values()))


def test_a_killed_run_with_adapters_goes_on_exactly(adapted_run, make_classifier, rows, tmp_path):
    expected, _, losses = adapted_run(make_classifier, rows)
    first = train(make_classifier, rows, lora, until=4, checkpoints=Checkpoints(tmp_path, every_steps=3))[2]
    model, _, rest = train(make_classifier, rows, lora, checkpoints=Checkpoints(tmp_path, every_steps=3))
    assert [*first[:3], *rest] == losses
    for one, other in zip(expected.variables, model.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"accumulate": 2}, {"shape": {"remat": True}}], ids=str)
def test_adapters_train_on_the_same_curve_on_two_replicas(options, adapted_run, make_classifier, rows, two_replicas):
    *_, losses = adapted_run(make_classifier, rows)
    found = train(make_classifier, rows, lora, two_replicas, **options)[2]
    np.testing.assert_allclose(found, losses, atol=1e-5)


@pytest.mark.slow
def test_frozen_parts_train_on_the_same_curve_on_two_replicas(make_classifier, rows, two_replicas):
    one, two = (
        train(make_classifier, rows, lambda model: freeze(model, "0,embeddings"), scope)[2]
        for scope in (None, two_replicas)
    )
    np.testing.assert_allclose(two, one, atol=1e-5)
