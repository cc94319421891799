"""The fused programs of the CPU against their `keras.ops` twins: values, gradients, and dropout."""

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.layers import fast
from aillm_tf.layers.dropout import dropout, fold

RNG = np.random.default_rng(3)


def normal(*shape):
    return tf.constant(RNG.normal(size=shape).astype("float32"))


def value_and_gradients(function, inputs, fused):
    """The value of a function and its gradients, weighted unevenly so that every element counts."""
    with fast.fused(fused), tf.GradientTape() as tape:
        tape.watch(inputs)
        y = function(*inputs)
        weighted = tf.reduce_sum(y * tf.cos(tf.reshape(tf.range(tf.size(y), dtype=y.dtype), y.shape)))
    with fast.fused(fused):
        return y, tape.gradient(weighted, inputs)


BIAS = {"no bias": (), "mask": (2, 1, 1, 5), "all alike": (1, 1, 4, 5)}
BIAS |= {"every head": (1, 3, 4, 5), "every row": (2, 3, 4, 5)}
SHAPES = [(2, 3, 4, 6), (2, 3, 5, 6), (2, 3, 5, 6)]  # q, k, v
CASES = {
    "gelu": (fast.gelu, lambda: [normal(3, 7) * 2]),
    "dense": (fast.dense, lambda: [normal(5, 4), normal(4, 6), normal(6)]),
    "dense without bias": (lambda x, kernel: fast.dense(x, kernel, None), lambda: [normal(5, 4), normal(4, 6)]),
    "matmul_rows": (fast.matmul_rows, lambda: [normal(5, 4), normal(6, 4)]),
    "add_norm": (
        lambda x, residual, scale, bias: fast.add_norm(x, residual, scale, bias, 1e-12),
        lambda: [normal(2, 3, 8), normal(2, 3, 8), normal(8), normal(8)],
    ),
    "add_norm without residual": (
        lambda x, scale, bias: fast.add_norm(x, None, scale, bias, 1e-12),
        lambda: [normal(2, 3, 8), normal(8), normal(8)],
    ),
    "add_norm of rows": (  # in another rank than the case above
        lambda x, scale, bias: fast.add_norm(x, None, scale, bias, 1e-12),
        lambda: [normal(7, 8), normal(8), normal(8)],
    ),
    **{
        f"attention, {name}": (
            lambda q, k, v, bias=None: fast.attention(q, k, v, bias, 0.4),
            lambda shape=shape: [normal(*s) for s in (*SHAPES, *([shape] if shape else []))],
        )
        for name, shape in BIAS.items()
    },
}


@pytest.mark.parametrize("name", CASES)
def test_the_fused_twin_equals_the_plain_one(name):
    function, make = CASES[name]
    inputs = make()
    (fused, fused_gradients), (plain, gradients) = (value_and_gradients(function, inputs, on) for on in (True, False))
    np.testing.assert_allclose(fused, plain, atol=1e-5)
    for one, other in zip(fused_gradients, gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["gelu", "dense", "add_norm", "attention, mask", "attention, no bias", "attention, all alike"]
)
def test_the_fused_twin_keeps_bfloat16(name):
    function, make = CASES[name]
    kept = 2 if name == "add_norm" else 3  # scale, bias and mask stay float32
    inputs = [tf.cast(x, "bfloat16") if i < kept else x for i, x in enumerate(make())]
    (fused, fused_gradients), (plain, gradients) = (value_and_gradients(function, inputs, on) for on in (True, False))
    assert fused.dtype == plain.dtype == "bfloat16"
    assert [g.dtype for g in fused_gradients] == [g.dtype for g in gradients] == [x.dtype for x in inputs]
    for one, other in zip((fused, *fused_gradients), (plain, *gradients), strict=True):
        np.testing.assert_allclose(tf.cast(one, "float32"), tf.cast(other, "float32"), atol=0.06, rtol=0.03)


FUSED = pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])


def dropped(fused, x, rate=0.1, seed=(7, 8)):
    with fast.fused(fused):
        return dropout(x, rate, tf.constant(seed)).numpy()


@FUSED
def test_dropout_zeroes_its_share(fused):
    assert (dropped(fused, tf.ones([500, 400])) == 0).mean() == pytest.approx(0.1, abs=0.004)


@FUSED
def test_dropout_keeps_the_mean(fused):
    y = dropped(fused, tf.ones([500, 400]))
    kept = np.unique(y[y != 0])
    assert len(kept) == 1
    assert kept[0] == pytest.approx(1 / 0.9, abs=0.004)
    assert y.mean() == pytest.approx(1.0, abs=0.004)


@FUSED
def test_the_same_seed_draws_the_same_mask(fused):
    x = tf.ones([50, 40])
    np.testing.assert_array_equal(dropped(fused, x), dropped(fused, x))


@FUSED
@pytest.mark.parametrize("seed", [(7, 9), (8, 8), (8, 7)])
def test_another_seed_draws_an_unrelated_mask(fused, seed):
    one, other = (dropped(fused, tf.ones([500, 400]), 0.5, s) == 0 for s in ((7, 8), seed))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] == pytest.approx(0.0, abs=0.01)


@FUSED
def test_dropout_drops_the_same_in_the_gradient(fused):
    x = tf.ones([30, 40])
    y, (gradient,) = value_and_gradients(lambda x: dropout(x, 0.3, tf.constant([1, 2])), [x], fused)
    cosines = np.cos(np.arange(1200, dtype="float32")).reshape(30, 40)
    np.testing.assert_allclose(gradient, y * cosines, atol=1e-6)


@FUSED
@pytest.mark.parametrize("name", ["add_norm", "attention"])
def test_gradients_with_dropout_are_those_of_the_same_mask(name, fused):
    seed = tf.constant([3, 4])
    if name == "attention":
        inputs = [normal(*shape) for shape in (*SHAPES, (1, 3, 4, 5))]

        def function(q, k, v, bias):
            return fast.attention(q, k, v, bias, 0.4, 0.4, seed)

    else:
        inputs = [normal(2, 3, 8), normal(2, 3, 8), normal(8), normal(8)]

        def function(x, residual, scale, bias):
            return fast.add_norm(x, residual, scale, bias, 1e-12, 0.4, seed)

    y, gradients = value_and_gradients(function, inputs, fused)
    weights = np.cos(np.arange(tf.size(y), dtype="float32")).reshape(y.shape)
    step = 1e-2
    for i, gradient in enumerate(gradients):
        direction = normal(*inputs[i].shape)

        def moved(by, i=i, direction=direction):
            at = [x + by * direction if i == j else x for j, x in enumerate(inputs)]
            with fast.fused(fused):
                return float(tf.reduce_sum(function(*at) * weights))

        slope = (moved(step) - moved(-step)) / (2 * step)
        assert float(tf.reduce_sum(gradient * direction)) == pytest.approx(slope, rel=0.02, abs=0.02)


@FUSED
def test_no_seed_or_no_rate_means_no_dropout(fused):
    x = tf.ones([20, 20])
    with fast.fused(fused):
        assert dropout(x, 0.5, None) is x
        assert dropout(x, 0.0, tf.constant([1, 2])) is x


def test_every_site_has_a_seed_of_its_own():
    assert fold(None, 3) is None
    assert fold(tf.constant([5, 10]), 3).numpy().tolist() == [5, 13]


def test_without_xla_for_the_cpu_the_twins_run(monkeypatch):
    monkeypatch.setattr(fast, "xla_on_cpu", lambda: False)
    monkeypatch.setattr(fast, "_programs", lambda: pytest.fail("a fused program was asked for"))
    with fast.fused():
        fast.gelu(normal(3, 7))
