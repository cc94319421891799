"""T5's and BART's noises: their rates and spans are as defined, and source and target together are the text."""

from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import chisquare, poisson

from aillm_tf.data import noise_denoising as noises

MASK, SENTINELS = 4, np.arange(900, 932)
ENDS = np.isin(np.arange(1000), [20, 21])


def texts(count=300, low=1, high=60, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(30, 800, rng.integers(low, high)).astype(np.int32) for _ in range(count)]


def run(function, rows):
    """A noise on every row, in one traced function, with a seed of its own each."""
    traced = tf.function(function, input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([2], tf.int32)])
    results = [traced(row, [number, 3]) for number, row in enumerate(rows)]
    return [tuple(part.numpy() for part in r) if isinstance(r, (tuple, list)) else r.numpy() for r in results]


def is_noise(likely, counts):
    counts, likely = np.asarray(counts, float), np.asarray(likely, float)
    assert counts.sum() > 1000
    return chisquare(counts, likely / likely.sum() * counts.sum()).pvalue > 1e-3


# T5


def corrupted(rows, rate=0.15, mean=3.0, sentinels=SENTINELS):
    sentinels = tf.constant(sentinels, tf.int32)
    return run(lambda t, s: noises.corrupt_spans(t, s, sentinels=sentinels, rate=rate, mean=mean), rows)


def reconstructed(source, target, sentinels=SENTINELS):
    """The text of which span corruption made this source and target: its inverse."""
    said, at = {}, None
    for token in target:
        if token in sentinels:
            at = said.setdefault(token, [])
        else:
            at.append(token)
    assert list(said) == list(sentinels[: len(said)]) and not said[max(said)]  # the last one only ends the target
    return [token for word in source for token in (said[word] if word in sentinels else [word])]


@pytest.mark.parametrize(("rate", "mean"), [(0.15, 3.0), (0.5, 3.0), (0.15, 1.0), (0.5, 8.0), (1.0, 3.0)])
def test_source_and_target_of_span_corruption_are_the_text(rate, mean):
    rows = texts()
    for row, (source, target) in zip(rows, corrupted(rows, rate, mean), strict=True):
        assert reconstructed(source, target) == row.tolist()


def test_span_corruption_takes_out_the_share_and_the_number_of_spans_of_its_definition():
    rows = texts(low=2)
    for row, (source, target) in zip(rows, corrupted(rows), strict=True):
        noise = max(1, round(0.15 * len(row)))
        spans = max(1, round(noise / 3))
        assert len(source) == len(row) - noise + spans
        assert len(target) == noise + spans + 1


def test_there_are_no_more_spans_than_sentinels_for_them():
    row = texts(1, 59, 60)[0]
    ((source, target),) = corrupted([row], rate=0.5, mean=1.0, sentinels=SENTINELS[:4])
    assert np.isin(source, SENTINELS).sum() == 3
    assert reconstructed(source, target) == row.tolist()


def test_span_lengths_are_those_of_a_random_partition():
    # 12 tokens in 4 spans: P(first = n) = C(11 - n, 2) / C(11, 3)
    lengths = [int(np.flatnonzero(target[1:] == SENTINELS[1])[0]) for _, target in corrupted(texts(2000, 80, 81))]
    likely = [(11 - n) * (10 - n) for n in range(1, 10)]
    assert is_noise(likely, np.bincount(lengths, minlength=10)[1:])


@pytest.mark.parametrize("length", [64, 37])
def test_widths_hold_every_shorter_row(length):
    source_width, target_width = noises.corruption_widths(length, 0.15, 3.0, around=2)
    for special in (0, 2):  # that a row has
        rows = [np.arange(30, 30 + n, dtype=np.int32) for n in range(1, length - special + 1)]
        made = corrupted(rows)
        assert source_width - 1 <= max(len(source) for source, _ in made) + special <= source_width
        assert target_width - 2 <= max(len(target) for _, target in made) + special <= target_width
    assert noises.corruption_widths(tf.constant(length), 0.15, 3.0, around=2)[1].numpy() == target_width


def test_a_prefix_and_what_follows_are_the_text_cut_anywhere():
    rows = texts(3000, 6, 7)
    cuts = []
    for row, (source, target) in zip(rows, run(noises.split_prefix, rows), strict=True):
        assert [*source, *target] == row.tolist()
        cuts.append(len(source))
    assert is_noise(np.ones(5), np.bincount(cuts, minlength=6)[1:])


# BART: the target is the text, so what is to show is that the source is the text with this noise


@pytest.mark.parametrize("rate", [0.15, 0.3])
def test_masking_replaces_its_share_and_keeps_the_rest(rate):
    rows = texts()
    for row, source in zip(rows, run(lambda t, s: noises.mask(t, s, mask_id=MASK, rate=rate), rows), strict=True):
        assert (source == MASK).sum() == min(max(1, round(rate * len(row))), len(row))
        assert (source[source != MASK] == row[source != MASK]).all()


def test_masking_is_equally_likely_everywhere():
    made = run(lambda t, s: noises.mask(t, s, mask_id=MASK, rate=0.3), texts(1000, 10, 11))
    assert is_noise(np.ones(10), (np.array(made) == MASK).sum(0))


def test_deletion_takes_out_its_share_and_keeps_the_order():
    rows = [np.random.default_rng(n).permutation(np.arange(30, 90)).astype(np.int32)[: n % 59 + 2] for n in range(200)]
    for row, source in zip(rows, run(lambda t, s: noises.delete(t, s, rate=0.3), rows), strict=True):
        assert len(source) == len(row) - max(1, round(0.3 * len(row)))
        assert row[np.isin(row, source)].tolist() == source.tolist()


def hidden_spans(row, source):
    """The lengths of the spans that stand behind the masks of a source, from left to right, and where they begin.

    The tokens of the row are all different, so that what was kept says where it stood.
    """
    at, spans, pending = 0, [], []
    place = {token: i for i, token in enumerate(row)}
    for token in [*source, None]:
        if token == MASK:
            pending.append(at)
            continue
        there = len(row) if token is None else place[token]
        if pending:
            spans.append((len(pending), there - at))
        elif token is not None:
            assert there == at
        pending, at = [], there + 1
    return spans


def infilled(rows, rate=0.3):
    return run(lambda t, s: noises.infill(t, s, mask_id=MASK, rate=rate), rows)


def test_infilling_hides_its_share_and_is_never_longer_than_the_text():
    rows = [np.random.default_rng(n).permutation(np.arange(30, 90)).astype(np.int32)[: n % 59 + 1] for n in range(400)]
    for row, source in zip(rows, infilled(rows), strict=True):
        assert len(source) <= len(row)
        hidden = sum(tokens for _, tokens in hidden_spans(row, source))
        assert hidden == len(row) - (source != MASK).sum() == min(max(1, round(0.3 * len(row))), len(row))


def test_infilled_spans_have_poisson_lengths():
    row = np.arange(30, 630, dtype=np.int32)
    singles = []
    for source in infilled([row] * 60):
        # masks side by side do not say which hid what; the last span drawn was cut, which is one of sixty
        singles += [tokens for masks, tokens in hidden_spans(row, source) if masks == 1]
    shares = poisson.pmf(np.arange(8), 3.0)
    counts = np.bincount(np.minimum(singles, 8), minlength=9)
    assert is_noise([*shares, 1 - shares.sum()], counts)


def test_sentences_are_permuted_whole():
    row = np.array([30, 31, 20, 40, 21, 20, 50, 51, 52, 20, 60], np.int32)
    sentences = [(30, 31, 20), (40, 21, 20), (50, 51, 52, 20), (60,)]
    orders = Counter()
    for source in run(lambda t, s: noises.permute_sentences(t, s, ends=tf.constant(ENDS)), [row] * 2400):
        rest, order = source.tolist(), []
        while rest:
            number = next(i for i, sentence in enumerate(sentences) if rest[0] == sentence[0])
            assert tuple(rest[: len(sentences[number])]) == sentences[number]
            rest = rest[len(sentences[number]) :]
            order.append(number)
        orders[tuple(order)] += 1
    assert len(orders) == 24
    assert is_noise(np.ones(24), list(orders.values()))


def test_rotation_begins_anywhere():
    row = np.arange(30, 40, dtype=np.int32)
    sources = run(noises.rotate, [row] * 2000)
    for source in sources[:50]:
        assert np.roll(source, source[0] - 30).tolist() == row.tolist()
    assert is_noise(np.ones(10), np.bincount([source[0] - 30 for source in sources], minlength=10))


def test_the_same_seed_gives_the_same_noise():
    row = texts(1, 50, 51)[0]
    first, again, other = (noises.infill(row, tf.constant([n, 0]), mask_id=MASK, rate=0.3).numpy() for n in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()
