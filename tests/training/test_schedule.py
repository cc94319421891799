"""Learning-rate schedules: exact values where it matters, the same numbers on the host and in a graph."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from aillm_tf.training.schedule import DECAYS, schedule

PEAK, END = 3e-4, 1e-5  # neither is a float32, so that rounding shows
FALLING = ["linear", "cosine", "wsd"]


def rate(made, step) -> float:
    return float(made(step))


def close(value: float):
    return pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("kind", DECAYS)
def test_first_update_of_a_warmup_is_zero(kind):
    assert rate(schedule(PEAK, 100, warmup=10, kind=kind, end=END), 0) == 0.0


@pytest.mark.parametrize("kind", DECAYS)
def test_warmup_is_a_straight_line_from_step_zero(kind):
    made = schedule(PEAK, 100, warmup=10, kind=kind, end=END)
    assert [rate(made, step) for step in (1, 5, 9)] == [close(PEAK * step / 10) for step in (1, 5, 9)]


@pytest.mark.parametrize("kind", DECAYS)
def test_the_end_of_the_warmup_is_exactly_the_peak(kind):
    assert rate(schedule(PEAK, 100, warmup=10, kind=kind, end=END), 10) == np.float32(PEAK)


@pytest.mark.parametrize("kind", DECAYS)
def test_without_warmup_the_first_update_is_exactly_the_peak(kind):
    assert rate(schedule(PEAK, 100, kind=kind, end=END), 0) == np.float32(PEAK)


@pytest.mark.parametrize("kind", FALLING)
@pytest.mark.parametrize("step", [100, 101, 10**6])
def test_at_and_beyond_the_last_step_it_is_exactly_the_end(kind, step):
    assert rate(schedule(PEAK, 100, warmup=10, kind=kind, end=END), step) == np.float32(END)


@pytest.mark.parametrize(
    ("kind", "step", "expected"),
    [
        ("linear", 55, (PEAK + END) / 2),
        ("linear", 99, PEAK / 90 + END * 89 / 90),
        ("cosine", 55, (PEAK + END) / 2),
        ("cosine", 40, END + (PEAK - END) * 0.75),
        ("wsd", 80, PEAK),
        ("wsd", 90, (PEAK + END) / 2),
        ("wsd", 99, PEAK / 20 + END * 19 / 20),
        ("constant", 55, PEAK),
        ("constant", 10**6, PEAK),
    ],
)
def test_values_on_the_way(kind, step, expected):
    made = schedule(PEAK, 100, warmup=10, kind=kind, end=END, decay_fraction=0.2)
    assert rate(made, step) == close(expected)


def test_inverse_sqrt_is_the_formula_and_stays_after_the_last_step():
    made = schedule(PEAK, 100, warmup=10, kind="inverse_sqrt")
    for step in (10, 40, 90, 100):
        assert rate(made, step) == close(PEAK * (10 / step) ** 0.5)
    assert rate(made, 10**6) == rate(made, 100)


@pytest.mark.parametrize(("kind", "later"), [("constant", PEAK), ("inverse_sqrt", PEAK / 100)])
def test_a_run_without_an_end_has_a_warmup_in_steps(kind, later):
    made = schedule(PEAK, None, warmup=10, kind=kind)
    assert rate(made, 5) == close(PEAK / 2)
    assert rate(made, 100_000) == close(later)


def test_warmup_below_one_is_a_part_of_the_steps():
    assert schedule(PEAK, 200, warmup=0.1).warmup_steps == schedule(PEAK, 200, warmup=20).warmup_steps == 20


@pytest.mark.parametrize("kind", DECAYS)
def test_a_run_that_is_all_warmup_ends_finite(kind):
    made = schedule(PEAK, 10, warmup=10, kind=kind, end=END)
    assert rate(made, 9) == close(PEAK * 0.9)
    assert np.isfinite(rate(made, 10))


@pytest.mark.parametrize("kind", DECAYS)
def test_graph_and_host_agree_for_every_step(kind):
    made = schedule(PEAK, 100, warmup=0.1, kind=kind, end=END)
    host = [rate(made, step) for step in range(110)]
    in_graph = tf.function(made, input_signature=[tf.TensorSpec((), tf.int64)])
    rounding = 2 * PEAK * np.finfo(np.float32).eps  # the graph may fold constants in another order
    np.testing.assert_allclose([float(in_graph(step)) for step in range(110)], host, rtol=0, atol=rounding)
    np.testing.assert_allclose(made(np.arange(110)), host, rtol=0, atol=rounding)
    assert made(tf.constant(3)).dtype == tf.float32


@pytest.mark.parametrize("kind", DECAYS)
def test_it_comes_back_from_its_config(kind):
    made = schedule(PEAK, 100, warmup=0.1, kind=kind, end=END, decay_fraction=0.3)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(made))
    assert again.get_config() == made.get_config()
    assert rate(again, 95) == rate(made, 95)


def test_an_optimizer_starts_at_step_zero():
    optimizer = keras.optimizers.SGD(schedule(1.0, 10, warmup=2, kind="constant"))
    weight = keras.Variable([0.0])
    values = []
    for _ in range(4):
        optimizer.apply([keras.ops.ones(1)], [weight])
        values.append(float(weight[0]))
    assert values == [0.0, -0.5, -1.5, -2.5]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"kind": "cosin"}, "did you mean 'cosine'"),
        ({"steps": 0}, "at least 1 step"),
        ({"steps": None}, "'linear' schedule .* needs the number of steps"),
        ({"steps": None, "kind": "constant", "warmup": 0.1}, "warm-up of 0.1 needs the number of steps"),
        ({"warmup": 11}, "warm-up of 11 does not fit into 10 steps"),
        ({"warmup": -0.5}, "warm-up of -0.5"),
        ({"end": 2.0}, "0 <= end <= peak"),
        ({"decay_fraction": 1.5}, "decay_fraction"),
    ],
)
def test_numbers_that_make_no_schedule_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        schedule(**{"peak": 1.0, "steps": 10, **arguments})
