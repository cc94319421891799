"""The table of names against the variables that the layer stack really makes."""

from __future__ import annotations

import pytest

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.backbones import backbone_variables, new_backbone
from aillm_tf.weights.families import MODULES, family
from aillm_tf.weights.family import Family
from aillm_tf.weights.names import has, is_turned, names, widths
from aillm_tf.weights.sources import open_source

TINY = TransformerConfig(vocab_size=11, hidden_size=8, layers=2, heads=2, ffn_size=12, max_length=6, segments=2)
FORMULAS = {
    "BERT": {},
    "pre-LN": {"norm_placement": "pre", "embedding_norm": False, "segments": 0},
    "factorised": {"embedding_size": 4, "shared_layers": True},
    "decoder": {"causal": True, "tie_embeddings": False, "logit_bias": True},
    "llama": {
        "causal": True,
        "position": "rotary",
        "norm": "rms",
        "norm_placement": "pre",
        "bias": False,
        "gated": True,
    },
    "qwen": {"position": "rotary", "qk_norm": True, "bias": False, "qkv_bias": True, "kv_heads": 1, "head_size": 6},
    "gemma": {"norm": "rms", "norm_offset": 1.0, "norm_placement": "sandwich", "bias": False, "embedding_norm": False},
    "relative": {"position": "relative", "decoder_layers": 1, "norm": "rms", "norm_placement": "pre", "bias": False},
    "two vocabularies": {"decoder_layers": 3, "decoder_vocab_size": 7, "position": "sinusoidal", "logit_bias": True},
    "untied encoder-decoder": {"decoder_layers": 1, "tie_embeddings": False},
}


def every_name(config: TransformerConfig) -> set[str]:
    """All that any family may have, for layers of this number."""
    found = set()
    for model_type in MODULES:
        table = family(model_type)
        found |= set(table.tensors) | set(table.heads.get("lm", {})) | set(table.zeros)
        for layer, count in ((table.layer, config.layers), (table.decoder_layer, config.decoder_layers)):
            found |= {name.format(i=i) for name in layer for i in range(1 if config.shared_layers else count)}
    return found


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_variables_of_a_formula_are_those_that_the_table_says(formula):
    config = TINY.replace(**formula)
    expected = {name for name in every_name(config) if has(config, name)}
    if not config.decoder_layers:
        expected = {name for name in expected if "/decoder" not in name}
        if not config.causal:
            expected = {name for name in expected if "/head/" not in name}
    assert set(backbone_variables(new_backbone(config))) <= expected


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_what_the_table_rules_out_is_no_variable(formula):
    config = TINY.replace(**formula)
    variables = backbone_variables(new_backbone(config))
    assert [name for name in every_name(config) if not has(config, name) and name in variables] == []


def test_joined_kernel_of_grouped_queries_has_three_widths():
    assert widths("backbone/encoder/layer_0/attention/qkv/kernel", TINY.replace(kv_heads=1), 3) == [8, 4, 4]


def test_only_kernels_are_turned_and_only_where_the_family_says():
    table = Family("x", {}, {}, {}, turned=("backbone/encoder/layer_{i}/ffn/up/kernel",))
    turned = [
        is_turned(table, f"backbone/encoder/layer_3/ffn/{name}") for name in ("up/kernel", "down/kernel", "up/bias")
    ]
    assert turned == [False, True, False]


@pytest.mark.parametrize(
    "folder", ["bert_classifier", "albert/model", "qwen3", "gemma2", "t5_v1_1", "bart", "marian_separate"]
)
def test_checkpoint_has_all_that_the_table_names_and_nothing_else(folder):
    pretrained = open_source(f"tests/golden/{folder}")
    table = family(pretrained.config.model_type)
    expected = names(table, pretrained.config, table.architectures[pretrained.architecture])
    assert (set(pretrained.names), pretrained.unused) == (set(expected), ())
