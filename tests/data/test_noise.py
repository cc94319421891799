"""Masking: how many, which, what they become, and that the same seed gives the same noise everywhere."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.stats import chisquare

from aillm_tf.data.noise import _choose_spans, few_masks, mask_tokens, predictions_per_row

VOCAB, MASK, SPECIAL = 50, 4, 5
IS_SPECIAL = np.arange(VOCAB) < SPECIAL
CONTINUES = np.arange(VOCAB) % 2 == 1
CONTINUES[:SPECIAL] = False


def noised(ids, seed=0, real=None, **options):
    ids = np.asarray(ids, np.int32)
    real = np.ones(len(ids), bool) if real is None else real
    options = {"mask_id": MASK, "vocab_size": VOCAB, "special": tf.constant(IS_SPECIAL)} | options
    return [part.numpy() for part in mask_tokens(ids, real, tf.constant([seed, 7]), **options)]


def rows(count, length, seed=0):
    return np.random.default_rng(seed).integers(SPECIAL, VOCAB, (count, length)).astype(np.int32)


def mapped(ids, **options):
    """All rows through one tf.data map."""
    options = {"mask_id": MASK, "vocab_size": VOCAB, "special": tf.constant(IS_SPECIAL)} | options
    data = tf.data.Dataset.from_tensor_slices((ids, np.arange(len(ids), dtype=np.int32)))
    data = data.map(lambda row, number: mask_tokens(row, tf.ones_like(row), tf.stack([number, 0]), **options))
    return [part.numpy() for part in next(iter(data.batch(len(ids))))]


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 10, 30, 64, 127, 128])
@pytest.mark.parametrize("rate", [0.15, 0.3, 1.0])
def test_the_number_of_predictions_is_exact(tokens, rate):
    ids = np.zeros(128, np.int32)
    ids[:tokens] = rows(1, tokens)[0]
    weights = noised(ids, real=np.arange(128) < tokens, rate=rate)[3]
    assert weights.sum() == max(1, round(rate * tokens))
    assert len(weights) == predictions_per_row(128, rate)


def test_padding_and_special_tokens_are_never_chosen():
    ids = rows(1, 64)[0]
    ids[[0, 20, 40]] = 2, 3, 3
    real = np.arange(64) < 41
    for seed in range(30):
        noisy, positions, _, weights = noised(ids, seed, real, rate=0.9)
        chosen = positions[weights > 0]
        assert real[chosen].all() and not IS_SPECIAL[ids[chosen]].any()
        np.testing.assert_array_equal(np.delete(noisy, chosen), np.delete(ids, chosen))


def test_a_row_without_ordinary_tokens_has_no_predictions():
    noisy, positions, targets, weights = noised([2, 3, 0, 0], real=np.array([1, 1, 0, 0]))
    assert noisy.tolist() == [2, 3, 0, 0]
    assert positions.tolist() == targets.tolist() == weights.tolist() == [0]


def test_targets_are_the_tokens_that_stood_at_the_positions():
    ids = rows(1, 100)[0]
    _, positions, targets, weights = noised(ids)
    np.testing.assert_array_equal(targets, ids[positions])
    assert weights.all() and (np.diff(positions) > 0).all()


def test_unused_predictions_are_zero_of_weight_zero():
    ids = np.zeros(100, np.int32)
    ids[:20] = rows(1, 20)[0]
    _, positions, targets, weights = noised(ids, real=np.arange(100) < 20)
    assert weights.tolist() == [1.0] * 3 + [0.0] * 12
    assert not positions[3:].any() and not targets[3:].any()


def test_fates_are_80_10_10():
    ids = rows(4000, 40)
    noisy, positions, targets, weights = mapped(ids, rate=0.25)
    assert weights.all()
    now = np.take_along_axis(noisy, positions, axis=1)
    masked, same = (now == MASK).sum(), (now == targets).sum()
    ordinary = VOCAB - SPECIAL  # a random token is by chance the old one once in so many
    expected = now.size * np.array([0.8, 0.1 + 0.1 / ordinary, 0.1 - 0.1 / ordinary])
    assert chisquare([masked, same, now.size - masked - same], expected).pvalue > 1e-3


def test_random_tokens_are_uniform_over_ordinary_ids():
    ids = np.full((4000, 40), VOCAB - 1, np.int32)
    noisy = mapped(ids, rate=0.5)[0]
    drawn = noisy[(noisy != MASK) & (noisy != VOCAB - 1)]
    counts = np.bincount(drawn, minlength=VOCAB)
    assert not counts[:SPECIAL].any()
    assert chisquare(counts[SPECIAL : VOCAB - 1]).pvalue > 1e-3


def test_every_position_is_chosen_equally_often():
    positions = mapped(rows(4000, 20), rate=0.2)[1]
    assert chisquare(np.bincount(positions.ravel(), minlength=20)).pvalue > 1e-3


def test_whole_words_are_chosen_whole_and_within_the_budget():
    ids = rows(300, 60)
    _, positions, _, weights = mapped(ids, continuation=tf.constant(CONTINUES), rate=0.2)
    for row in range(len(ids)):
        chosen = np.zeros(60, bool)
        chosen[positions[row][weights[row] > 0]] = True
        word = np.cumsum(~CONTINUES[ids[row]] | (np.arange(60) == 0))
        for number in np.unique(word[chosen]):
            assert chosen[word == number].all()
        assert 1 <= chosen.sum() <= 12


def test_whole_words_fill_the_budget_on_average():
    weights = mapped(rows(1000, 60), continuation=tf.constant(CONTINUES), rate=0.2)[3]
    assert weights.sum(axis=1).mean() > 0.95 * 12


def test_the_shortest_word_is_taken_when_none_fits_the_budget():
    ids = [6, 7, 9, 8, 7, 9, 7]  # a word of three pieces, then one of four
    _, positions, _, weights = noised(ids, continuation=tf.constant(CONTINUES), max_predictions=5)
    assert positions[weights > 0].tolist() == [0, 1, 2]


def test_a_word_beyond_the_room_is_left_alone():
    noisy, _, _, weights = noised([6, 7, 9, 7], continuation=tf.constant(CONTINUES), max_predictions=2)
    assert noisy.tolist() == [6, 7, 9, 7] and not weights.any()


def test_the_same_seed_gives_the_same_noise():
    ids = rows(1, 80)[0]
    for first, second in zip(noised(ids, 3), noised(ids, 3), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(noised(ids, 3)[1], noised(ids, 4)[1])


@pytest.mark.parametrize("continuation", [None, CONTINUES])
def test_map_fn_with_dynamic_length_gives_the_same_as_map(continuation):
    ids = rows(8, 24)
    options = {"mask_id": MASK, "vocab_size": VOCAB, "continuation": continuation, "max_predictions": 4}

    @tf.function(
        input_signature=[tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([VOCAB], tf.bool)],
    )
    def dynamic(batch, special):
        seeds = tf.stack([tf.range(tf.shape(batch)[0]), tf.zeros(tf.shape(batch)[:1], tf.int32)], axis=1)
        types = (tf.int32, tf.int32, tf.int32, tf.float32)
        return tf.map_fn(
            lambda row: mask_tokens(row[0], tf.ones_like(row[0]), row[1], special=special, **options),
            (batch, seeds),
            fn_output_signature=types,
        )

    static = mapped(ids, continuation=continuation, max_predictions=4)
    for ours, expected in zip(dynamic(ids, tf.constant(IS_SPECIAL)), static, strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_static_shapes_are_known_in_a_graph():
    traced = tf.function(
        lambda ids: mask_tokens(ids, ids > 0, tf.constant([0, 0]), mask_id=4, vocab_size=VOCAB, special=IS_SPECIAL)
    )
    shapes = [
        part.shape.as_list() for part in traced.get_concrete_function(tf.TensorSpec([128], tf.int32)).structured_outputs
    ]
    assert shapes == [[128], [20], [20], [20]]


def test_a_table_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match="special has the shape"):
        noised([7, 8], special=tf.constant(IS_SPECIAL[:-1]))


@pytest.mark.parametrize("rate", [0, 1.5])
def test_a_rate_that_is_no_share_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        noised([7, 8], rate=rate)


# Spans, and words that the vocabulary does not tell


def runs(chosen):
    """(start, length) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], chosen.astype(int), [0]])))
    return [(start, end - start) for start, end in edges.reshape(-1, 2)]


@pytest.mark.parametrize("tokens", [1, 5, 40, 128])
def test_spans_hide_the_same_number_of_tokens(tokens):
    ids = np.zeros(128, np.int32)
    ids[:tokens] = rows(1, tokens)[0]
    for seed in range(5):
        _, positions, _, weights = noised(ids, seed, real=np.arange(128) < tokens, spans=True)
        assert weights.sum() == max(1, round(0.15 * tokens))
        assert positions[weights > 0].max() < tokens


def test_span_lengths_are_those_of_spanbert():
    lengths = []
    for seed in range(12):
        maskable, word = tf.ones(1500, tf.bool), tf.range(1, 1501)
        number = _choose_spans(maskable, word, tf.constant([seed, 0]), 1.0, 1500).numpy()
        assert (number > 0).all() and (np.diff(number) >= 0).all()
        lengths += np.bincount(number)[1:].tolist()
    shares = 0.2 * 0.8 ** np.arange(10)
    # one span of each row was cut to fit, one in four hundred
    assert chisquare(np.bincount(lengths)[1:], shares / shares.sum() * len(lengths)).pvalue > 1e-3


def test_spans_begin_anywhere():
    _, positions, _, weights = mapped(rows(2000, 30), spans=True, rate=0.1)
    hidden = np.bincount(positions[weights > 0], minlength=30)
    middle = hidden[3:-3]  # tokens at the ends are in fewer spans
    assert middle.std() < 0.1 * middle.mean()


def test_a_span_shares_its_fate():
    ids = rows(600, 60)
    noisy, positions, _, weights = mapped(ids, spans=True, rate=0.15)
    lone = 0
    for row in range(len(ids)):
        chosen = np.zeros(60, bool)
        chosen[positions[row][weights[row] > 0]] = True
        for start, length in runs(chosen):
            masked = noisy[row, start : start + length] == MASK
            lone += masked.any() and not masked.all()  # two spans side by side
    assert lone < 60


def test_spans_of_whole_words_cut_a_word_only_at_the_end_of_the_budget():
    ids = rows(300, 60)
    _, positions, _, weights = mapped(ids, continuation=tf.constant(CONTINUES), spans=True, rate=0.2)
    cut = 0
    for row in range(len(ids)):
        chosen = np.zeros(60, bool)
        chosen[positions[row][weights[row] > 0]] = True
        assert chosen.sum() == 12
        word = np.cumsum(~CONTINUES[ids[row]] | (np.arange(60) == 0))
        cut += sum(not chosen[word == number].all() for number in np.unique(word[chosen]))
    assert cut <= len(ids)


def test_words_may_be_given_by_token():
    ids = rows(1, 60)[0]
    by_token = noised(ids, continues=tf.constant(CONTINUES[ids]), rate=0.3)
    for one, other in zip(noised(ids, continuation=tf.constant(CONTINUES), rate=0.3), by_token, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="not both"):
        noised(ids, continuation=tf.constant(CONTINUES), continues=tf.constant(CONTINUES[ids]))


def test_fates_may_be_others():
    noisy, positions, _, weights = mapped(rows(500, 40), fates=(1.0, 0.0))
    assert (np.take_along_axis(noisy, positions, axis=1)[weights > 0] == MASK).all()


def test_a_row_has_a_few_masks_in_all():
    ids = rows(1, 80)[0]
    real = np.arange(80) < 60
    seeds = {tuple(few_masks(ids, real, tf.constant([0, n]), 3).numpy()) for n in range(60)}
    assert len(seeds) == 3
    padded = np.where(real, ids, 0)
    assert tuple(few_masks(padded, real, tf.constant([0, 1]), 1).numpy()) == tuple(
        few_masks(ids[:60], real[:60], tf.constant([9, 2]), 1).numpy()
    )
