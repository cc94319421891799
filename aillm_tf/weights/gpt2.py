"""GPT-2 as Hugging Face writes it; its kernels lie (inputs, outputs), as ours do.

Positions are a table: an input longer than `n_positions` is an error. Not covered: the variants that scale attention
by the number of the layer or not at all, and cross-attention (`scale_attn_by_inverse_layer_idx`,
`scale_attn_weights`, `add_cross_attention`).

Reference: Radford et al., 2019, Language Models are Unsupervised Multitask Learners
"""

from __future__ import annotations

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.family import Family
from aillm_tf.weights.values import positive

_LAYER = "transformer.h.{i}."


def _read_more(values: dict) -> dict:
    return {
        "ffn_size": positive(values, "n_inner", int) or 4 * values["n_embd"],
        "tie_embeddings": values["tie_word_embeddings"],
    }


def _write_more(config: TransformerConfig) -> dict:
    return {"n_inner": config.ffn_size, "embd_pdrop": config.dropout}


FAMILY = Family(
    model_type="gpt2",
    title="GPT-2",
    sizes={
        "vocab_size": "vocab_size",
        "hidden_size": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "max_length": "n_positions",
        "norm_epsilon": "layer_norm_epsilon",
        "dropout": "resid_pdrop",
        "attention_dropout": "attn_pdrop",
        "initializer_range": "initializer_range",
    },
    usual={
        "vocab_size": 50257,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "initializer_range": 0.02,
        "activation_function": "gelu_new",
        "tie_word_embeddings": True,
    },
    only={"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
    fixed={"norm_placement": "pre", "embedding_norm": False, "causal": True},
    activation="activation_function",
    read_more=_read_more,
    write_more=_write_more,
    transposed=False,
    turned=("backbone/head/kernel", "classifier/kernel"),
    # The first checkpoints have no "transformer." in front of their names.
    prefix="transformer.",
    roots=("transformer.", "lm_head.", "score."),
    tensors={
        "backbone/embeddings/token": ("transformer.wte.weight",),
        "backbone/embeddings/position": ("transformer.wpe.weight",),
        "backbone/encoder/final_norm/scale": ("transformer.ln_f.weight",),
        "backbone/encoder/final_norm/bias": ("transformer.ln_f.bias",),
    },
    layer={
        "backbone/encoder/layer_{i}/attention/qkv/kernel": (_LAYER + "attn.c_attn.weight",),
        "backbone/encoder/layer_{i}/attention/qkv/bias": (_LAYER + "attn.c_attn.bias",),
        "backbone/encoder/layer_{i}/attention/out/kernel": (_LAYER + "attn.c_proj.weight",),
        "backbone/encoder/layer_{i}/attention/out/bias": (_LAYER + "attn.c_proj.bias",),
        "backbone/encoder/layer_{i}/attention_norm/scale": (_LAYER + "ln_1.weight",),
        "backbone/encoder/layer_{i}/attention_norm/bias": (_LAYER + "ln_1.bias",),
        "backbone/encoder/layer_{i}/ffn/up/kernel": (_LAYER + "mlp.c_fc.weight",),
        "backbone/encoder/layer_{i}/ffn/up/bias": (_LAYER + "mlp.c_fc.bias",),
        "backbone/encoder/layer_{i}/ffn/down/kernel": (_LAYER + "mlp.c_proj.weight",),
        "backbone/encoder/layer_{i}/ffn/down/bias": (_LAYER + "mlp.c_proj.bias",),
        "backbone/encoder/layer_{i}/ffn_norm/scale": (_LAYER + "ln_2.weight",),
        "backbone/encoder/layer_{i}/ffn_norm/bias": (_LAYER + "ln_2.bias",),
    },
    heads={
        "lm": {"backbone/head/kernel": ("lm_head.weight",)},
        # It reads the last token of a row, and has no bias.
        "classifier": {"classifier/kernel": ("score.weight",)},
    },
    architectures={
        None: ("lm",),
        "GPT2Model": (),
        "GPT2LMHeadModel": ("lm",),
        "GPT2ForSequenceClassification": ("classifier",),
    },
    saved_as={
        None: "GPT2Model",
        "causal_lm": "GPT2LMHeadModel",
        "classification": "GPT2ForSequenceClassification",
    },
    tied={"lm_head.weight": "transformer.wte.weight"},
    # The causal mask and its number, which older versions wrote.
    buffers=(_LAYER + "attn.bias", _LAYER + "attn.masked_bias"),
)
