"""Gemma 1, 2 and 3 (text only) as Hugging Face writes them.

Gemma multiplies its embeddings by sqrt(hidden_size) and adds 1 to the scales of its norms. Gemma 2 normalises before
and after each sublayer, bends scores with tanh, and sees a window in every other layer; Gemma 3 normalises queries and
keys instead, and its layers with a window have rotary positions of another base.

Not covered, and refused: Gemma 3 with images (model_type "gemma3"; its text half alone is "gemma3_text"), Gemma 3n and
4, PaliGemma, T5Gemma, RecurrentGemma, the bidirectional EmbeddingGemma, biases of attention.

In bfloat16 transformers rounds sqrt(hidden_size) to bfloat16; here it is float32, so that such outputs differ in their
last bits.

References: Gemma Team 2024 (arXiv:2403.08295, arXiv:2408.00118); Gemma Team 2025 (arXiv:2503.19786)
"""

from __future__ import annotations

import dataclasses

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.llama import (
    LLAMA,
    classes,
    read_global_rope,
    read_layers,
    read_rope,
    read_shared,
    write_layers,
    write_shared,
)
from aillm_tf.weights.values import positive, table

_NORM = "model.layers.{i}."
_BEFORE_AND_AFTER = {
    "backbone/encoder/layer_{i}/attention_post_norm/scale": (_NORM + "post_attention_layernorm.weight",),
    "backbone/encoder/layer_{i}/ffn_norm/scale": (_NORM + "pre_feedforward_layernorm.weight",),
    "backbone/encoder/layer_{i}/ffn_post_norm/scale": (_NORM + "post_feedforward_layernorm.weight",),
}


def _read_gemma(values: dict) -> dict:
    scale = values["hidden_size"] ** 0.5
    return {**read_shared(values), **read_global_rope(values), "embedding_scale": scale}


def _read_scale(values: dict) -> float | None:
    """The scale of attention scores; None where it is the usual one, of the width of a head."""
    scalar = positive(values, "query_pre_attn_scalar")
    return None if scalar == values["head_dim"] else scalar**-0.5


def _write_scale(config: TransformerConfig) -> int:
    return config.head_width if config.attention_scale is None else round(config.attention_scale**-2)


def _read_layers(values: dict, period: int) -> dict:
    return read_layers(values, positive(values, "sliding_window", int), lambda i: (i + 1) % period != 0)


def _read_gemma2(values: dict) -> dict:
    return {
        **_read_gemma(values),
        **_read_layers(values, period=2),
        "attention_scale": _read_scale(values),
        "attention_softcap": positive(values, "attn_logit_softcapping"),
        "logit_softcap": positive(values, "final_logit_softcapping"),
    }


def _write_gemma2(config: TransformerConfig) -> dict:
    return {
        **write_shared(config),
        **write_layers(config),
        "query_pre_attn_scalar": _write_scale(config),
        "attn_logit_softcapping": config.attention_softcap,
        "final_logit_softcapping": config.logit_softcap,
    }


def _read_gemma3(values: dict) -> dict:
    by_kind, length = table(values, "rope_parameters"), values["max_position_embeddings"]
    far = {**table(by_kind, "full_attention"), **table(values, "rope_scaling")}
    near = read_rope(table(by_kind, "sliding_attention"), values["rope_local_base_freq"], length)
    if near["rope_scaling"]:
        raise ValueError(f"rope_parameters of sliding_attention are scaled ({near['rope_scaling']}): not supported")
    return {
        **read_shared(values),
        **read_rope(far, values["rope_theta"], length),
        **_read_layers(values, period=positive(values, "sliding_window_pattern", int)),
        "rope_theta_window": near["rope_theta"],
        "embedding_scale": values["hidden_size"] ** 0.5,
        "attention_scale": _read_scale(values),
        "logit_softcap": positive(values, "final_logit_softcapping"),
    }


def _write_gemma3(config: TransformerConfig) -> dict:
    window_theta = config.rope_theta if config.rope_theta_window is None else config.rope_theta_window
    return {
        **write_shared(config),
        **write_layers(config),
        "rope_local_base_freq": window_theta,
        "query_pre_attn_scalar": _write_scale(config),
        "final_logit_softcapping": config.logit_softcap,
    }


GEMMA = dataclasses.replace(
    LLAMA,
    model_type="gemma",
    title="Gemma",
    usual=LLAMA.usual
    | {
        "max_position_embeddings": 8192,
        "head_dim": 256,
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
    },
    only=LLAMA.only | {"attention_bias": False, "use_bidirectional_attention": False},
    fixed=LLAMA.fixed | {"norm_offset": 1.0},
    # The first configurations say "gelu", and mean the approximation.
    activations={"gelu": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"},
    read_more=_read_gemma,
    write_more=write_shared,
    **classes("Gemma", "GemmaModel", "GemmaForSequenceClassification"),
)
GEMMA2 = dataclasses.replace(
    GEMMA,
    model_type="gemma2",
    title="Gemma 2",
    usual=GEMMA.usual
    | {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
    },
    nullable=("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"),
    fixed=GEMMA.fixed | {"norm_placement": "sandwich"},
    activation="hidden_activation",
    activations={"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"},
    read_more=_read_gemma2,
    write_more=_write_gemma2,
    layer=LLAMA.layer | _BEFORE_AND_AFTER,
    **classes("Gemma2", "Gemma2Model", "Gemma2ForSequenceClassification"),
)
GEMMA3 = dataclasses.replace(
    GEMMA2,
    model_type="gemma3_text",
    title="Gemma 3",
    usual=GEMMA2.usual
    | {
        "max_position_embeddings": 131_072,
        "rope_theta": 1_000_000.0,
        "rope_local_base_freq": 10_000.0,
        "sliding_window_pattern": 6,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    },
    only=GEMMA2.only | {"attn_logit_softcapping": None},
    fixed=GEMMA2.fixed | {"qk_norm": True},
    read_more=_read_gemma3,
    write_more=_write_gemma3,
    **classes("Gemma3", "Gemma3TextModel", "Gemma3TextForSequenceClassification"),
)
FAMILIES = (GEMMA, GEMMA2, GEMMA3)
