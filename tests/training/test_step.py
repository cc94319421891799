"""One loss curve: the same for every number of replicas, micro-batches and steps an execution, through `fit`."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.training.optimizer import adamw
from aillm_tf.training.step import dropout_seed, make_train_function
from aillm_tf.training.strategy import strategy


class Losses(tf.keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.values = []

    def on_train_batch_end(self, batch, logs=None):
        self.values.extend(self.model.step_losses.tolist())


def curve(make, rows, scope=None, *, compile=(), data=(), steps=7, fused=False, **options):
    """The losses of some steps of `fit`; batches of 6 of 40 rows, so that the last of an epoch holds 4."""
    with (scope or strategy("one")).scope():
        model = make(**options)
    # made outside of the scope, on purpose
    optimizer = adamw(5e-3, steps=20, warmup=2, **dict(compile).pop("optimizer", {}))
    model.compile(optimizer, **{k: v for k, v in dict(compile).items() if k != "optimizer"})
    model.fuse_on_cpu = fused
    losses = Losses()
    data = model.dataset(rows, **{"batch_size": 6, "shuffle": True, "fixed_length": True, **dict(data)})
    model.fit(data, steps=steps, callbacks=[losses], verbose=0)
    return np.array(losses.values), model


def same_weights(one, other):
    for a, b in zip(one.variables, other.variables, strict=True):
        if not a.path.endswith("qkv/bias"):  # of the keys: its gradient is zero up to rounding, which Adam magnifies
            np.testing.assert_allclose(b.numpy(), a.numpy(), atol=1e-4, err_msg=a.path)


@pytest.fixture(scope="module")
def alone():
    """The curve of one device without any option, and the model, computed once."""
    made = {}

    def get(make, rows):
        if not made:
            made["curve"], made["model"] = curve(make, rows, layers=2)
        return made["curve"], made["model"]

    return get


VARIANTS = {
    "accumulate 2": {"compile": {"accumulate": 2}},
    "4 steps an execution": {"compile": {"steps_per_execution": 4}},
    "fused": {"fused": True},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_one_device_gives_the_same_curve(name, alone, make_classifier, rows):
    expected, _ = alone(make_classifier, rows)
    assert len(expected) == 7
    np.testing.assert_allclose(curve(make_classifier, rows, layers=2, **VARIANTS[name])[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["plain", "accumulate 2", "4 steps an execution", pytest.param("fused", marks=pytest.mark.slow)]
)
def test_two_replicas_give_the_same_curve(name, alone, make_classifier, rows, two_replicas):
    expected, model = alone(make_classifier, rows)
    found, mirrored = curve(make_classifier, rows, two_replicas, layers=2, **VARIANTS.get(name, {}))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    same_weights(model, mirrored)


def test_class_weights_count_over_the_global_batch(make_classifier, rows, two_replicas):
    options = {"class_weights": [0.2, 3.0]}
    one = curve(make_classifier, rows, **options)[0]
    two = curve(make_classifier, rows, two_replicas, compile={"accumulate": 2}, **options)[0]
    np.testing.assert_allclose(two, one, atol=1e-5)


def test_batches_by_tokens_and_buckets_give_the_same_curve(make_classifier, rows, two_replicas):
    data = {"batch_size": None, "tokens_per_batch": 64, "fixed_length": False}
    one = curve(make_classifier, rows, data=data)[0]
    np.testing.assert_allclose(curve(make_classifier, rows, two_replicas, data=data)[0], one, atol=1e-5)


def test_masked_lm_gives_the_same_curve(make_masked_lm, reviews, two_replicas):
    texts = [text for text, _ in reviews]
    one = curve(make_masked_lm, texts)[0]
    two = curve(make_masked_lm, texts, two_replicas, compile={"accumulate": 2})[0]
    np.testing.assert_allclose(two, one, atol=1e-5)


SEVERAL = """
import json, sys
import tensorflow as tf
given = json.loads(sys.stdin.read())
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * given["devices"])
import aillm_tf as ai
from aillm_tf.data.sources import Labelled
from aillm_tf.data.tables import Places
import numpy as np

tokenizer = ai.Tokenizer.from_folder(given["tokenizer"])
rows = Labelled(given["texts"], None, np.array(given["ids"], "int32"), ["bad", "good"], None, [], {})
curves = []
for accumulate, steps_per_execution, fused in given["variants"]:
    with ai.strategy("mirrored").scope():
        model = ai.TextClassifier(ai.TransformerConfig(**given["config"]), tokenizer, labels=["bad", "good"],
                                  max_length=16, dtype="float32")
    assert model.strategy.num_replicas_in_sync == given["devices"]
    optimizer = ai.adamw(5e-3, steps=20, warmup=2)
    model.compile(optimizer, accumulate=accumulate, steps_per_execution=steps_per_execution)
    model.fuse_on_cpu = fused
    losses = []
    class Losses(tf.keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            losses.extend(self.model.step_losses.tolist())
    data = model.dataset(rows, batch_size=6, shuffle=True, fixed_length=True)
    model.fit(data, steps=7, callbacks=[Losses()], verbose=0)
    curves.append(losses)
print(json.dumps(curves))
"""


@pytest.mark.parametrize(
    ("devices", "variants"),
    [
        (4, [(2, 4, False)]),
        pytest.param(4, [(1, 1, False), (1, 4, False), (2, 1, True)], marks=pytest.mark.slow),
        # of which two have no row of a batch of 6
        pytest.param(8, [(1, 1, False), (1, 4, True)], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_more_replicas_give_the_same_curve(
    devices, variants, alone, make_classifier, rows, config, tokenizer, tmp_path
):
    tokenizer.save(tmp_path)
    given = {
        "tokenizer": str(tmp_path),
        "texts": rows.texts,
        "ids": rows.label_ids.tolist(),
        "config": config.replace(layers=2).to_dict(),
        "devices": devices,
        "variants": variants,
    }
    # a process of its own: in one process TensorFlow allows mirroring over one number of devices only
    done = subprocess.run([sys.executable, "-c", SEVERAL], input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    expected, _ = alone(make_classifier, rows)
    for found in json.loads(done.stdout.splitlines()[-1]):
        np.testing.assert_allclose(found, expected, atol=1e-5)


# Dropout


def test_seeds_differ_between_steps_replicas_and_micro_batches():
    numbers = [(step, replica, micro) for step in range(4) for replica in range(4) for micro in range(3)]
    seeds = {tuple(dropout_seed(0, *n).numpy().tolist()) for n in numbers}
    seeds |= {tuple(dropout_seed(1, *n).numpy().tolist()) for n in numbers}
    assert len(seeds) == 2 * len(numbers)


def test_seeds_leave_room_for_the_sites_of_a_model():
    seeds = np.array([dropout_seed(0, step, 0, 0).numpy() for step in range(50)])
    assert seeds[:, 1].min() >= 0
    assert seeds[:, 1].max() < 2**30


@pytest.mark.parametrize("rate", [0.0, 0.5])
def test_replicas_draw_different_masks(rate, make_classifier, make_rows, two_replicas):
    texts = ["a fine story"] * 2
    options = {"dropout": rate, "attention_dropout": rate, "steps": 1}
    # with the same mask on both, the mean over two equal rows would be the loss of one
    one = curve(make_classifier, make_rows(texts[:1], [1], ["bad", "good"]), data={"batch_size": 1}, **options)[0]
    two = curve(
        make_classifier, make_rows(texts, [1, 1], ["bad", "good"]), two_replicas, data={"batch_size": 2}, **options
    )[0]
    assert (abs(one - two)[0] < 1e-6) == (rate == 0.0)


def test_steps_draw_different_masks_and_runs_the_same(make_classifier, make_rows):
    rows = make_rows(["a fine story"] * 2, [1, 1], ["bad", "good"])
    options = {"dropout": 0.5, "attention_dropout": 0.5, "data": {"batch_size": 2}, "steps": 4}
    still = {"optimizer": {"weight_decay": 0.0, "layer_decay": 1e-9}}  # only the head moves, and that little
    first, again = (curve(make_classifier, rows, compile=still, **options)[0] for _ in range(2))
    assert len(set(first)) == 4
    np.testing.assert_array_equal(first, again)


# The gradient


def test_the_gradient_of_the_global_batch_is_divided_then_clipped_then_applied(make_classifier, rows, two_replicas):
    """Two replicas against one tape over the whole batch and AdamW in numpy."""
    clip, weights = 0.05, {"class_weights": [0.3, 2.0]}
    with two_replicas.scope():
        model = make_classifier(**weights)
    model.compile(adamw(5e-3, weight_decay=0.0), clip_norm=clip)
    model.fuse_on_cpu = False
    data = model.dataset(rows, batch_size=7, fixed_length=True, shuffle=True)
    model.seed = 0
    train = make_train_function(model)
    found = train(iter(data.distribute(two_replicas, 0, 4)), tf.constant(4))

    reference = make_classifier(**weights)
    values = [v.numpy().astype("float64") for v in reference.trainable_variables]
    m, v = ([np.zeros_like(value) for value in values] for _ in range(2))
    for t, batch in enumerate(data.batches(0, 4), start=1):
        for variable, value in zip(reference.trainable_variables, values, strict=True):
            variable.assign(value)
        with tf.GradientTape() as tape:
            total, weight = reference.loss_terms(batch)
        variables = [variable.value for variable in reference.trainable_variables]
        gradients = tape.gradient(total, variables, unconnected_gradients="zero")
        gradients = [tf.convert_to_tensor(g).numpy().astype("float64") / float(weight) for g in gradients]
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        assert norm > 2 * clip
        assert float(found["gradient_norm"][t - 1]) == pytest.approx(norm, rel=1e-4)
        assert float(found["loss"][t - 1] / found["weight"][t - 1]) == pytest.approx(float(total / weight), abs=1e-5)
        for i, g in enumerate(gradients):
            g = g * clip / norm
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g * g
            values[i] -= 5e-3 * (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
    for variable, value in zip(reference.trainable_variables, values, strict=True):
        variable.assign(value)
    same_weights(reference, model)


def test_recomputing_blocks_gives_the_same_curve(make_classifier, rows):
    options = {"dropout": 0.1, "attention_dropout": 0.1, "position": "relative", "fused": True, "steps": 3, "layers": 2}
    (kept, one), (recomputed, other) = (curve(make_classifier, rows, remat=remat, **options) for remat in (False, True))
    np.testing.assert_allclose(recomputed, kept, atol=1e-6)
    same_weights(one, other)


def test_the_average_of_the_weights_is_the_result_and_does_not_change_training(alone, make_classifier, rows):
    expected, plain = alone(make_classifier, rows)
    losses, model = curve(make_classifier, rows, layers=2, compile={"optimizer": {"ema": 0.9}})
    np.testing.assert_allclose(losses, expected, atol=1e-6)
    for variable, average in zip(model.trainable_variables, model.optimizer.averages, strict=True):
        np.testing.assert_array_equal(variable.numpy(), average.numpy())
    assert np.abs(model.classifier.kernel.numpy() - plain.classifier.kernel.numpy()).max() > 1e-4


def test_the_average_of_the_weights_is_scored_and_training_goes_on_with_the_others(make_classifier, rows):
    model = make_classifier()
    model.compile(adamw(5e-3, ema=0.9))
    data = model.dataset(rows, batch_size=20)
    expected = model.evaluate(data, verbose=0)
    before = [v.numpy() for v in model.trainable_variables]
    for variable in model.trainable_variables:
        variable.assign(variable + 1.0)  # the averages stay where they began
    assert model.evaluate(data, verbose=0) == expected
    for variable, value in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_allclose(variable.numpy(), value + 1.0, atol=1e-6)
