"""Texts of every strategy equal those of transformers, token for token (tests/golden/make_generation.py)."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from generation_cases import CASES, PROMPTS, RAGGED, SOURCE_LENGTHS, SOURCES, START

from aillm_tf.generation import GenerationOptions
from aillm_tf.generation.generator import Generator
from aillm_tf.weights.backbones import load_backbone

GOLDEN = Path(__file__).parents[1] / "golden"
STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260k"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "generation.npz"))


@functools.cache
def generator(folder: Path) -> Generator:
    return Generator(load_backbone(folder)[0], compiler="graph")


# every one makes graphs of its own, which takes a second or two
FAST = ("llama/beam_2.0", "llama/ragged_repetition", "bart/beam_forced")
EVERY = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@functools.cache
def decoded(name: str):
    kind, settings = CASES[name]
    options = GenerationOptions.from_settings({**settings, "decoder_start_token_id": START.get(kind)})
    if kind in START:
        valid = (np.arange(SOURCES.shape[1]) < np.array(SOURCE_LENGTHS)[:, None]).astype("int32")
        return generator(GOLDEN / kind).generate(None, options, source={"token_ids": SOURCES, "valid": valid})
    return generator(GOLDEN / kind).generate(RAGGED if "ragged" in name else PROMPTS, options)


@pytest.mark.parametrize("name", EVERY)
def test_tokens_are_those_of_transformers(name, golden):
    expected = [row[row >= 0].tolist() for row in golden[f"{name}/tokens"]]
    assert [row.tolist() for row in decoded(name).tokens] == expected


@pytest.mark.parametrize("name", [name for name in FAST if "beam" in name])
def test_scores_of_beams_are_those_of_transformers(name, golden):
    np.testing.assert_allclose(decoded(name).scores, golden[f"{name}/scores"], atol=1e-4)


@pytest.mark.skipif(not STORIES.exists(), reason=f"no folder {STORIES.name}, see the README of shared data")
def test_256_tokens_of_a_real_llama_are_those_of_transformers(golden):
    found = generator(STORIES).generate([[1]], GenerationOptions(max_new_tokens=256))
    assert found.tokens[0].tolist() == golden["stories"].tolist()
