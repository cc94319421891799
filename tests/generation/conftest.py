"""Tiny random backbones, whose weights are large enough that no two tokens are equally likely."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path += [str(HERE), str(HERE.parent / "golden")]  # numpy_decoding and generation_cases


@pytest.fixture(scope="session")
def config():
    from aillm_tf.models.config import TransformerConfig

    return TransformerConfig(
        vocab_size=30,
        hidden_size=16,
        layers=1,
        heads=4,
        kv_heads=2,
        ffn_size=24,
        max_length=64,
        position="rotary",
        norm_placement="pre",
        dropout=0.0,
        attention_dropout=0.0,
    )


@pytest.fixture(scope="session")
def make_backbone(config):
    """Builds a backbone with fields of the config by name, and `scale` of its weights."""
    from aillm_tf.weights.backbones import new_backbone

    def make(scale: float = 0.4, seed: int = 0, dtype: str = "float32", **changes):
        backbone = new_backbone(config.replace(causal=True, **changes), dtype=dtype)
        random = np.random.default_rng(seed)
        for variable in backbone.variables:
            norm = variable.path.endswith("scale")
            variable.assign(random.normal(1.0 if norm else 0.0, scale, variable.shape))
        return backbone

    return make


@pytest.fixture(scope="session")
def decoder(make_backbone):
    return make_backbone()


@pytest.fixture(scope="session")
def generator(decoder):
    from aillm_tf.generation.generator import Generator

    return Generator(decoder, compiler="graph")
