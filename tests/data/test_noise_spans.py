"""Spans: their lengths follow the distributions they are named after, and every arrangement is equally likely."""

import itertools
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import chisquare, poisson

from aillm_tf.data.noise_spans import (
    geometric_lengths,
    place,
    poisson_lengths,
    random_partition,
    sorted_choice,
    span_numbers,
    up_to,
)


def many(function, count=4000):
    """The results of a function of a seed, for many seeds."""
    seeds = tf.stack([tf.range(count), tf.zeros(count, tf.int32)], 1)
    first = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), function(seeds[0]))
    run = tf.function(lambda: tf.map_fn(function, seeds, fn_output_signature=first))
    return tf.nest.map_structure(lambda x: x.numpy(), run())


def fits(counts, expected):
    """Whether counts are those of a distribution, by chi-square; expected is in shares."""
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    assert counts.sum() > 1000
    return chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-3


def test_geometric_lengths_are_those_of_spanbert():
    drawn = geometric_lengths(20000, tf.constant([1, 2])).numpy()
    shares = 0.2 * 0.8 ** np.arange(10)
    assert fits(np.bincount(drawn, minlength=11)[1:], shares)
    assert drawn.mean() == pytest.approx(3.8, abs=0.1)  # the paper's figure


def test_poisson_lengths_are_poisson():
    drawn = poisson_lengths(20000, 3.0, tf.constant([1, 2])).numpy()
    shares = poisson.pmf(np.arange(10), 3.0)
    assert fits(np.bincount(np.minimum(drawn, 10), minlength=11), [*shares, 1 - shares.sum()])


def test_lengths_are_taken_until_they_make_the_budget():
    assert up_to(tf.constant([3, 0, 4, 0, 5]), tf.constant(7)).numpy().tolist() == [3, 0, 4]
    assert up_to(tf.constant([3, 0, 4, 0, 5]), tf.constant(2)).numpy().tolist() == [2]


def test_every_partition_is_equally_likely():
    counts = Counter(map(tuple, many(lambda seed: tf.ensure_shape(random_partition(6, 3, seed), [3]))))
    assert set(counts) == {parts for parts in itertools.product(range(1, 5), repeat=3) if sum(parts) == 6}
    assert fits(list(counts.values()), np.ones(len(counts)))


def test_every_choice_is_equally_likely():
    counts = Counter(map(tuple, many(lambda seed: tf.ensure_shape(sorted_choice(5, 2, seed), [2]))))
    assert set(counts) == set(itertools.combinations(range(5), 2))
    assert fits(list(counts.values()), np.ones(10))


@pytest.mark.parametrize("apart", [False, True])
def test_every_arrangement_of_the_spans_is_equally_likely(apart):
    def arrangement(seed):
        starts, lengths = place(tf.constant([2, 1]), tf.constant(6), seed, apart=apart)
        return tf.ensure_shape(tf.concat([starts, lengths], 0), [4])

    counts = Counter(map(tuple, many(arrangement)))
    possible = {(i, j, a, b) for a, b in ((1, 2), (2, 1)) for i in range(6) for j in range(i + a + apart, 7 - b)}
    assert set(counts) == possible
    assert fits(list(counts.values()), np.ones(len(possible)))


def test_spans_are_numbered_from_left_to_right():
    numbers = span_numbers(tf.constant([1, 3, 3]), tf.constant([2, 0, 1]), tf.constant(5))
    assert numbers.numpy().tolist() == [0, 1, 1, 3, 0]
