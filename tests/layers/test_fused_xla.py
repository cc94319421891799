"""What steps that XLA compiles whole write down for the backward pass, against the plain twins."""

import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.layers import fast

RNG = np.random.default_rng(5)
SEED = [3, 4]
SHAPES = [(2, 3, 4, 6), (2, 3, 5, 6), (2, 3, 5, 6)]  # q, k, v
CASES = {
    "gelu": (fast.gelu, [(3, 7)]),
    "add_norm": (lambda *x: fast.add_norm(*x, 1e-12, 0.4, tf.constant(SEED)), [(2, 3, 8), (2, 3, 8), (8,), (8,)]),
    "add_norm without dropout": (lambda *x: fast.add_norm(*x, 1e-12), [(2, 3, 8), (2, 3, 8), (8,), (8,)]),
    "attention": (lambda q, k, v: fast.attention(q, k, v, None, 0.4), SHAPES),
    **{
        f"attention, bias {shape}": (
            lambda q, k, v, bias: fast.attention(q, k, v, bias, 0.4, 0.3, tf.constant(SEED)),
            [*SHAPES, shape],
        )
        for shape in ((2, 1, 1, 5), (1, 3, 4, 5), (2, 3, 4, 5))
    },
}


def value_and_gradients(function, inputs, xla):
    @tf.function(jit_compile=True, autograph=False)
    def run(*inputs):
        with fast.fused(False, xla=xla), tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
            # uneven weights, so that every element counts
            total = tf.reduce_sum(
                tf.cast(y, "float32") * tf.cos(tf.reshape(tf.range(y.shape.num_elements(), dtype="float32"), y.shape))
            )
        with fast.fused(False, xla=xla):
            return y, tape.gradient(total, inputs)

    return run(*inputs)


@pytest.mark.parametrize("name", CASES)
def test_it_equals_the_plain_twin(name):
    function, shapes = CASES[name]
    inputs = [tf.constant(RNG.normal(size=shape).astype("float32")) for shape in shapes]
    (y, gradients), (plain, plain_gradients) = (value_and_gradients(function, inputs, xla) for xla in (True, False))
    for one, other in zip([y, *gradients], [plain, *plain_gradients], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", ["gelu", "add_norm without dropout", "attention"])
def test_it_keeps_bfloat16(name):
    function, shapes = CASES[name]
    inputs = [tf.constant(RNG.normal(size=shape).astype("float32")) for shape in shapes]
    exact, exact_gradients = value_and_gradients(function, inputs, False)
    # scale and bias of a norm are float32
    inputs = [tf.cast(x, "bfloat16") if len(x.shape) > 1 else x for x in inputs]
    y, gradients = value_and_gradients(function, inputs, True)
    assert [t.dtype for t in (y, *gradients)] == ["bfloat16", *(x.dtype for x in inputs)]
    for one, other in zip([y, *gradients], [exact, *exact_gradients], strict=True):
        np.testing.assert_allclose(tf.cast(one, "float32"), other, atol=0.06, rtol=0.03)


def test_what_is_recomputed_has_the_same_gradients_and_is_computed_twice():
    """By the tensor and a variable; a seed has none. The barrier hides from XLA that it has computed this before."""
    scale, shift = tf.Variable(1.5), tf.constant([1, 2])

    def function(x, seed):
        return tf.sin(tf.sin(x) * scale + tf.cast(seed[0], "float32"))

    def step(make):
        @tf.function(jit_compile=True, autograph=False)
        def run(x):
            with fast.fused(False, xla=make is fast.recomputed), tf.GradientTape() as tape:
                tape.watch(x)
                y = tf.reduce_sum(tf.square(make(function)(x, shift)))
            with fast.fused(False, xla=make is fast.recomputed):
                return y, tape.gradient(y, [x, scale])

        return run

    x = tf.constant(RNG.normal(size=(300, 200)).astype("float32"))
    plain, recomputed = step(lambda f: f), step(fast.recomputed)
    (y, gradients), (expected, expected_gradients) = recomputed(x), plain(x)
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    for one, other in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    text = recomputed.experimental_get_compiler_ir(x)(stage="hlo")
    assert (text.count(" sine("), text.count("opt-barrier(")) == (4, 1)
