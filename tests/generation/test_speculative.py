"""Speculative decoding: the same tokens when greedy, the same distribution when drawn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy_decoding import next_log_probs
from scipy import stats

from aillm_tf.generation import GenerationOptions
from aillm_tf.generation.generator import Generator

PROMPTS = [[4, 5, 6], [7], [8, 9, 1, 2, 3, 4]]


@pytest.fixture(scope="module")
def draft(make_backbone, decoder):
    """The large model with noise: it guesses right often, and not always."""
    backbone, random = make_backbone(), np.random.default_rng(1)
    for variable, large in zip(backbone.variables, decoder.variables, strict=True):
        variable.assign(large + random.normal(0, 0.03, large.shape))
    return backbone


@pytest.fixture(scope="module")
def guessed(decoder, draft):
    """A generator, its options and the state at the end of its texts."""
    options = GenerationOptions(max_new_tokens=20, repetition_penalty=1.2, stop_ids=(29,))
    generator = Generator(decoder, draft=draft, guesses=3)
    return generator, options, generator.advance(generator.start(PROMPTS, options)[0], options, 20)


def test_greedy_tokens_are_the_large_models(guessed, generator):
    drafted, options, state = guessed
    found, alone = drafted.read(state, 3, options), generator.generate(PROMPTS, options)
    assert [row.tolist() for row in found.tokens] == [row.tolist() for row in alone.tokens]
    np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)


def test_good_guesses_save_steps_of_the_large_model(guessed):
    _, _, state = guessed
    assert (state.more["rounds"].numpy() < 0.7 * state.history.count.numpy()).any()


def test_a_stream_has_every_token_that_was_kept(guessed):
    drafted, options, state = guessed
    steps = np.stack(list(drafted.stream(PROMPTS, options)), axis=1)
    expected = [row.tolist() for row in drafted.read(state, 3, options).tokens]
    assert [row[row >= 0].tolist() for row in steps] == expected


@pytest.mark.slow
def test_drawn_tokens_are_distributed_as_the_large_models(decoder, draft):
    """Chi-square of the first two tokens after the one that no guess precedes."""
    options = GenerationOptions(max_new_tokens=3, temperature=1.0, top_k=4)
    guessed = Generator(decoder, draft=draft, guesses=2)
    drawn = [
        row.tolist()
        for seed in range(4)
        for row in guessed.generate([PROMPTS[0]], options.replace(seed=seed, num_return_sequences=1024)).tokens
    ]
    counts = {}
    for row in drawn:
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    expected = {}
    for a, p in top(decoder, PROMPTS[0]):
        for b, q in top(decoder, [*PROMPTS[0], a]):
            for c, r in top(decoder, [*PROMPTS[0], a, b]):
                expected[a, b, c] = p * q * r * len(drawn)
    assert set(counts) <= set(expected)
    likely = [key for key, value in expected.items() if value >= 5]
    rare = len(drawn) - sum(expected[key] for key in likely)
    observed = [counts.get(key, 0) for key in likely]
    assert len(likely) > 10
    frequencies = np.array([*(expected[key] for key in likely), rare])
    test = stats.chisquare([*observed, len(drawn) - sum(observed)], frequencies * len(drawn) / frequencies.sum())
    assert test.pvalue > 1e-3


def top(backbone, ids, k: int = 4) -> list[tuple[int, float]]:
    log_p = next_log_probs(backbone, ids)
    kept = np.argsort(-log_p)[:k]
    p = np.exp(log_p[kept].astype(np.float64))
    return [(int(i), x) for i, x in zip(kept, p / p.sum(), strict=True)]


def test_beams_are_not_guessed(decoder, draft):
    with pytest.raises(ValueError, match="not beam search"):
        Generator(decoder, draft=draft).generate(PROMPTS, GenerationOptions(num_beams=2))


@pytest.mark.parametrize(
    ("changes", "guesses", "message"),
    [
        ({"vocab_size": 31}, 4, "the draft scores 31 tokens, the model 30"),
        ({}, 0, "guesses is 0: give 1 to 21"),
        ({}, 22, "guesses is 22: give 1 to 21"),
    ],
)
def test_a_draft_that_cannot_guess_is_refused(changes, guesses, message, decoder, make_backbone):
    with pytest.raises(ValueError, match=message):
        Generator(decoder, draft=make_backbone(**changes), guesses=guesses)
