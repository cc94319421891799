"""Adapters against the formula, and merged ones against themselves."""

import numpy as np
import pytest

from aillm_tf.layers.lora import PROJECTIONS, adaptable, adapted, add_lora, merged
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.decoder import new_decoder

SHAPE = {"vocab_size": 11, "hidden_size": 16, "layers": 2, "heads": 4, "ffn_size": 24, "dropout": 0.0}
SHAPE |= {"attention_dropout": 0.0, "initializer_range": 0.3, "max_length": 16}
# grouped queries, a gated feed-forward network: every kind of column
LLAMA = SHAPE | {"kv_heads": 2, "gated": True, "norm": "rms", "position": "rotary", "causal": True, "bias": False}
LLAMA |= {"norm_placement": "pre", "embedding_norm": False, "activation": "silu"}
FEATURES = {"token_ids": np.array([[3, 1, 4, 1, 5], [9, 2, 6, 0, 0]], "int32")}
FEATURES["valid"] = (FEATURES["token_ids"] > 0).astype("int32")


def backbone_with(projections, rank=2, alpha=6.0):
    """A decoder and its outputs without adapters, and one whose B are not zero any more."""
    backbone = new_decoder(TransformerConfig(**LLAMA), dtype="float32")
    backbone.build()
    plain = np.array(backbone(FEATURES))
    add_lora(backbone, rank, alpha, projections, seed=0)
    return backbone, plain


def learn(backbone):
    """Give every B some values."""
    rng = np.random.default_rng(1)
    for name, variable in variables_by_name(backbone).items():
        if name.endswith("_b"):
            variable.assign(rng.normal(size=variable.shape) * 0.3)


def test_new_adapters_change_nothing():
    backbone, plain = backbone_with(PROJECTIONS)
    assert len(adapted(backbone)) == 8
    np.testing.assert_array_equal(backbone(FEATURES), plain)


@pytest.mark.parametrize("projections", [("query", "value"), ("key",)], ids="+".join)
def test_an_adapted_layer_computes_the_formula(projections):
    backbone, _ = backbone_with(projections)
    learn(backbone)
    layer = backbone.encoder.blocks[1].attention.qkv
    kernel = layer.kernel.numpy().copy()
    for name in projections:
        first, last = adaptable(backbone.config)["attention/qkv"][name]
        a, b = (getattr(layer.lora, f"{name}_{part}").numpy() for part in "ab")
        assert a.shape == (16, 2) and b.shape == (2, last - first)
        kernel[:, first:last] += 6.0 / 2 * a @ b
    x = np.random.default_rng(2).normal(size=(2, 3, 16)).astype("float32")
    np.testing.assert_allclose(layer(x), x @ kernel, atol=1e-5)
    np.testing.assert_allclose(layer(x, columns=slice(16, None)), x @ kernel[:, 16:], atol=1e-5)


def test_merged_kernels_compute_the_same_and_are_put_back():
    backbone, plain = backbone_with(PROJECTIONS)
    learn(backbone)
    expected, kernels = np.array(backbone(FEATURES)), [dense.kernel.numpy() for dense in adapted(backbone)]
    assert np.abs(expected - plain).max() > 0.1
    with merged(backbone):
        assert not adapted(backbone)
        np.testing.assert_allclose(backbone(FEATURES), expected, atol=1e-5)
    for dense, kernel in zip(adapted(backbone), kernels, strict=True):
        np.testing.assert_array_equal(dense.kernel.numpy(), kernel)
    np.testing.assert_array_equal(backbone(FEATURES), expected)


def test_adapters_are_named_after_their_layer():
    backbone, _ = backbone_with(("down",))
    names = [name for name in variables_by_name(backbone) if "lora" in name]
    assert names == [f"encoder/layer_{i}/ffn/down/lora/down_{part}" for i in range(2) for part in "ab"]


def test_unknown_projections_and_second_adapters_are_refused():
    backbone, _ = backbone_with(("query",))
    with pytest.raises(ValueError, match="has LoRA adapters already"):
        add_lora(backbone, 2, 1.0, ("query",), seed=0)
    with pytest.raises(ValueError, match="no projection 'queries': query, key, value, out, gate, up, down"):
        add_lora(backbone, 2, 1.0, ("queries",), seed=0)
    with pytest.raises(ValueError, match="rank 0 on"):
        add_lora(backbone, 0, 1.0, ("query",), seed=0)
