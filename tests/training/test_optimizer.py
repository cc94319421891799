"""AdamW against the formula in numpy: decay masks, layer-wise rates, moving averages, schedules."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.training import optimizer as optimizer_module
from aillm_tf.training.optimizer import AdamW, adamw, layer_rates
from aillm_tf.training.step import distinct_rows

NAMES = ["kernel", "bias", "attention_norm_scale"]
RNG = np.random.default_rng(9)
START = [RNG.normal(size=(3, 4)), RNG.normal(size=4), RNG.normal(size=4)]
GRADIENTS = [[RNG.normal(size=value.shape) for value in START] for _ in range(5)]
FACTOR = 0.25


def trained(optimizer, steps=5, **options):
    """The values of three variables after some steps with GRADIENTS times FACTOR, and the optimizer."""
    variables = [keras.Variable(v.astype("float32"), name=n) for n, v in zip(NAMES, START, strict=True)]
    optimizer.build(variables)

    @tf.function
    def step(gradients):
        optimizer.update(gradients, tf.constant(FACTOR), **options)

    for gradients in GRADIENTS[:steps]:
        step([tf.constant(g, tf.float32) for g in gradients])
    return [variable.numpy() for variable in variables]


def torch_adamw(rates, decays, steps=5, epsilon=1e-8):
    """torch.optim.AdamW's update, as its documentation writes it, in float64."""
    values = [value.copy() for value in START]
    m, v = ([np.zeros_like(value) for value in START] for _ in range(2))
    history = []
    for t, gradients in enumerate(GRADIENTS[:steps], start=1):
        for i, gradient in enumerate(gradients):
            g = gradient * FACTOR
            values[i] = values[i] - rates[t - 1] * decays[i] * values[i]
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g * g
            corrected = np.sqrt(v[i]) / np.sqrt(1 - 0.999**t) + epsilon
            values[i] = values[i] - rates[t - 1] / (1 - 0.9**t) * m[i] / corrected
        history.append([value.copy() for value in values])
    return history


@pytest.mark.parametrize("epsilon", [1e-8, 1e-2])
def test_five_steps_equal_the_formula_of_torch(epsilon):
    expected = torch_adamw([0.01] * 5, [0.1, 0.0, 0.0], epsilon=epsilon)[-1]
    for found, value in zip(trained(AdamW(0.01, weight_decay=0.1, epsilon=epsilon)), expected, strict=True):
        np.testing.assert_allclose(found, value, atol=2e-6)


def test_one_pass_over_large_variables_is_the_same_update(monkeypatch):
    monkeypatch.setattr(optimizer_module, "LARGE", 12)  # the kernel
    options = {"weight_decay": 0.1, "ema": 0.9}
    apart, at_once = (AdamW(0.01, **options) for _ in range(2))
    for found, expected in zip(trained(at_once, one_pass=True), trained(apart), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-7)
    for kind, variables in at_once.slots().items():
        for found, expected in zip(variables, apart.slots()[kind], strict=True):
            np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-7)


def test_a_step_that_is_not_taken_changes_nothing_in_one_pass_either(monkeypatch):
    monkeypatch.setattr(optimizer_module, "LARGE", 12)
    kernel, optimizer = keras.Variable(START[0].astype("float32"), name="kernel"), AdamW(0.01)
    optimizer.build([kernel])

    @tf.function
    def step(gradient, taken):
        optimizer.update([gradient], tf.constant(FACTOR), taken, one_pass=True)

    step(tf.fill(kernel.shape, np.nan), tf.constant(False))
    np.testing.assert_array_equal(kernel.numpy(), START[0].astype("float32"))
    step(tf.constant(GRADIENTS[0][0], tf.float32), tf.constant(True))
    assert np.isfinite(kernel.numpy()).all()
    assert int(optimizer.steps_done) == 2


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_gradient_of_rows_updates_the_table_like_a_dense_one(ema):
    """Also the rows without a gradient, whose momentum goes on moving them."""
    start = RNG.normal(size=(7, 4)).astype("float32")
    steps = [([1, 5, 1], [1, 2, 3]), ([0, 5], [4, 5]), ([6, 6], [6, 7])]
    tables = []
    for dense in (True, False):
        optimizer, table = AdamW(0.01, weight_decay=0.1, ema=ema), keras.Variable(start, name="token")
        optimizer.build([table])

        @tf.function(reduce_retracing=True)
        def step(rows, values, optimizer=optimizer, dense=dense):
            gradient = tf.IndexedSlices(values, rows, tf.constant(start.shape))
            gradient = tf.convert_to_tensor(gradient) if dense else distinct_rows(gradient)
            optimizer.update([gradient], tf.constant(FACTOR))

        for rows, values in steps:
            step(tf.constant(rows), tf.constant(values, tf.float32)[:, None] * tf.ones((1, 4)))
        tables.append([v.numpy() for slot in optimizer.slots().values() for v in slot] + [table.numpy()])
    for dense, rows in zip(*tables, strict=True):
        np.testing.assert_allclose(rows, dense, rtol=1e-6, atol=1e-7)


def test_the_words_that_are_not_decayed_can_be_chosen():
    expected = torch_adamw([0.01] * 5, [0.0, 0.1, 0.1])[-1]
    for found, value in zip(trained(AdamW(0.01, weight_decay=0.1, no_decay=("kernel",))), expected, strict=True):
        np.testing.assert_allclose(found, value, atol=2e-6)


def test_the_schedule_is_read_at_every_step():
    optimizer = adamw(0.01, steps=5, warmup=2, weight_decay=0.1)
    rates = [float(optimizer._learning_rate(step)) for step in range(5)]
    assert len(set(rates)) > 2
    for found, value in zip(trained(optimizer), torch_adamw(rates, [0.1, 0.0, 0.0])[-1], strict=True):
        np.testing.assert_allclose(found, value, atol=2e-6)


def test_the_average_follows_the_weights():
    optimizer = AdamW(0.1, weight_decay=0.0, ema=0.8)
    trained(optimizer)
    average = START[0]
    for values in torch_adamw([0.1] * 5, [0.0] * 3):
        average = 0.8 * average + 0.2 * values[0]
    np.testing.assert_allclose(optimizer.averages[0].numpy(), average, atol=1e-5)


def test_slots_are_named_by_kind():
    optimizer = AdamW(0.1, ema=0.9)
    trained(optimizer, steps=1)
    assert set(optimizer.slots()) == {"momentum", "velocity", "average"}
    np.testing.assert_allclose(optimizer.slots()["momentum"][1].numpy(), 0.1 * FACTOR * GRADIENTS[0][1], rtol=1e-5)
    assert int(optimizer.steps_done) == 1


def test_norms_biases_and_positions_of_a_task_are_not_decayed(make_classifier):
    task, optimizer = make_classifier(), AdamW(0.1, weight_decay=0.3)
    optimizer.build(task.trainable_variables)
    decayed = {v.path.partition("/")[2]: d for v, d in zip(task.trainable_variables, optimizer.decays, strict=True)}
    assert {name for name, decay in decayed.items() if decay == 0.3} == {
        "backbone/embeddings/token",
        "pooler/kernel",
        "classifier/kernel",
        *(
            f"backbone/encoder/layer_0/{part}/kernel"
            for part in ("attention/qkv", "attention/out", "ffn/up", "ffn/down")
        ),
    }


def test_the_name_of_the_model_decides_nothing():
    variables = [keras.Variable(np.ones(2, "float32"), name="kernel")]
    variables[0]._path = "layer_normalizer/backbone/kernel"
    optimizer = AdamW(0.1, weight_decay=0.3)
    optimizer.build(variables)
    assert optimizer.decays == [0.3]


def test_rates_fall_from_the_head_to_the_embeddings():
    paths = ["m/backbone/embeddings/token", *(f"m/backbone/encoder/layer_{i}/ffn/up/kernel" for i in range(3))]
    paths += ["m/pooler/kernel", "m/classifier/bias"]
    assert layer_rates(paths, 0.5) == [0.0625, 0.125, 0.25, 0.5, 1.0, 1.0]
    assert layer_rates(paths, None) == [1.0] * 6


def test_layer_rates_scale_the_update():
    plain, slow = AdamW(0.01, weight_decay=0.1), AdamW(0.01, weight_decay=0.1)
    before = trained(plain, steps=1)
    variables = [keras.Variable(v.astype("float32"), name=n) for n, v in zip(NAMES, START, strict=True)]
    slow.build(variables)
    slow.rates = [0.5] * 3
    slow.update([tf.constant(g, tf.float32) for g in GRADIENTS[0]], tf.constant(FACTOR))
    for start, full, variable in zip(START, before, variables, strict=True):
        np.testing.assert_allclose(variable.numpy() - start, 0.5 * (full - start), atol=1e-6)
