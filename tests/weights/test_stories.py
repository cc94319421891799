"""stories260k, a real Llama of 260,032 parameters, against transformers (tests/golden/make_stories.py)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aillm_tf.weights.backbones import load_backbone

FOLDER = Path(__file__).parents[3] / "shared" / "models" / "stories260k"
GOLDEN = Path(__file__).parents[1] / "golden"
STORY = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
BEGIN = 1  # <s>

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason=f"no folder {FOLDER.name}, see the README of shared data")


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "stories.npz"))


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(FOLDER)[0]


@pytest.fixture(scope="module")
def decoded(backbone, golden) -> list[int]:
    """The best token after every token, from the beginning, one by one through the cache."""
    length = golden["token_ids"].shape[1]
    token_ids, cache = [BEGIN], backbone.init_cache(1, length)
    while len(token_ids) < length:
        hidden, cache = backbone.step(np.array([token_ids[-1:]], "int32"), cache, len(token_ids) - 1)
        token_ids.append(int(np.argmax(backbone.logits(hidden))))
    return token_ids


def test_logits(backbone, golden):
    logits = backbone.logits(backbone({"token_ids": golden["token_ids"]}))
    np.testing.assert_allclose(logits, golden["logits"], rtol=0.0, atol=1e-4)


def test_greedy_decoding_finds_the_tokens_that_transformers_finds(decoded, golden):
    assert decoded == golden["token_ids"][0].tolist()


def test_greedy_decoding_tells_the_story(decoded):
    tokens = json.loads((FOLDER / "tokens.json").read_text(encoding="utf-8"))
    told = "".join(tokens[i] for i in decoded[1:])
    assert told.replace("\u2581", " ").strip().startswith(STORY)
