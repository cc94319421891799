"""What KerasHub's backbones are in our terms: one table each, by the name of the class.

Names are paths in model.weights.h5 as :mod:`aillm_tf.weights.keras_hub` spells them: the first layer of a class is
"embedding_0" too, attributes have no "_" before them, and "vars/0" is a layer's first variable.

Where KerasHub computes otherwise than the model's own code (the approximate gelu in ELECTRA), so does what is read
here: outputs equal those of the preset. Two settings are the exception, because KerasHub 0.32 keeps them and does not
use them: rope_position_scaling_factor of Llama, and query_head_dim_normalize=False of Gemma 2 27B.
"""

from __future__ import annotations

import dataclasses
import functools
import json

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.arrays import dense, norm
from aillm_tf.weights.family import Family, Table

_dense = functools.partial(dense, named=("vars/0", "vars/1"))
_norm = functools.partial(norm, named=("vars/0", "vars/1"))

_SIZES = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_dim",
    "layers": "num_layers",
    "heads": "num_heads",
    "ffn_size": "intermediate_dim",
    "max_length": "max_sequence_length",
    "dropout": "dropout",
    "attention_dropout": "dropout",
}
_DECODER_SIZES = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_dim",
    "layers": "num_layers",
    "heads": "num_query_heads",
    "kv_heads": "num_key_value_heads",
    "ffn_size": "intermediate_dim",
    "norm_epsilon": "layer_norm_epsilon",
    "dropout": "dropout",
}
_RMS = {
    "position": "rotary",
    "norm": "rms",
    "norm_placement": "pre",
    "embedding_norm": False,
    "gated": True,
    "bias": False,
    "causal": True,
    "activation": "silu",
    "attention_dropout": 0.0,
}
# what constructors have where a config does not say
_GEMMA_USUAL = {
    "use_post_attention_norm": False,
    "use_post_ffw_norm": False,
    "query_head_dim_normalize": True,
    "use_sliding_window_attention": False,
    "local_rope_scaling_factor": 1.0,
    "global_rope_scaling_factor": 1.0,
    "use_query_key_norm": True,
}
_PARTS = ("query_dense", "key_dense", "value_dense")


def _attention(ours: str, theirs: str, parts=_PARTS, out: str = "output_dense") -> Table:
    qkv = _dense(f"{ours}/qkv", *(f"{theirs}/{part}" for part in parts))
    return {**qkv, **_dense(f"{ours}/out", f"{theirs}/{out}")}


def _block(ours: str, theirs: str, cross: bool = False) -> Table:
    """keras_hub.layers.TransformerEncoder and TransformerDecoder."""
    return {
        **_attention(f"{ours}/attention", f"{theirs}/self_attention_layer"),
        **_norm(f"{ours}/attention_norm", f"{theirs}/self_attention_layer_norm"),
        **(_attention(f"{ours}/cross_attention", f"{theirs}/cross_attention_layer") if cross else {}),
        **(_norm(f"{ours}/cross_attention_norm", f"{theirs}/cross_attention_layer_norm") if cross else {}),
        **_dense(f"{ours}/ffn/up", f"{theirs}/feedforward_intermediate_dense"),
        **_dense(f"{ours}/ffn/down", f"{theirs}/feedforward_output_dense"),
        **_norm(f"{ours}/ffn_norm", f"{theirs}/feedforward_layer_norm"),
    }


_OUR_LAYER, _OUR_DECODER_LAYER = "backbone/encoder/layer_{i}", "backbone/decoder/layer_{i}"
_ENCODER = _block(_OUR_LAYER, "layers/transformer_encoder_{i}")
_EMBEDDINGS = {
    "backbone/embeddings/token": ("layers/reversible_embedding_0/vars/0",),
    "backbone/embeddings/position": ("layers/position_embedding_0/vars/0",),
    "backbone/embeddings/segment": ("layers/embedding_0/vars/0",),
    **_norm("backbone/embeddings/norm", "layers/layer_normalization_0"),
}
_TOGETHER = {
    "backbone/embeddings/token": ("layers/token_and_position_embedding_0/token_embedding/vars/0",),
    "backbone/embeddings/position": ("layers/token_and_position_embedding_0/position_embedding/vars/0",),
    # zeros, which Hugging Face's layout has as a table of one row
    "backbone/embeddings/segment": ("no segments",),
    **_norm("backbone/embeddings/norm", "layers/layer_normalization_0"),
}
_HEAD = {"lm": {"backbone/head/kernel": ("layers/reversible_embedding_0/vars/1",)}}

_BERT = Family(
    model_type="bert",
    sizes={**_SIZES, "segments": "num_segments"},
    fixed={"norm_epsilon": 1e-12, "activation": "gelu_tanh"},
    activation=None,
    tensors=_EMBEDDINGS,
    layer=_ENCODER,
    heads={"pooler": _dense("pooler", "layers/dense_0")},
    transposed=False,
)
_ALBERT = dataclasses.replace(
    _BERT,
    model_type="albert",
    sizes={**_BERT.sizes, "embedding_size": "embedding_dim"},
    fixed={**_BERT.fixed, "shared_layers": True},
    only={"num_groups": 1, "num_inner_repetitions": 1},
    tensors={**_EMBEDDINGS, **_dense("backbone/embeddings/projection", "layers/dense_0")},
    heads={"pooler": _dense("pooler", "layers/dense_1")},
)
_ELECTRA = dataclasses.replace(
    _BERT,
    model_type="electra",
    sizes={**_BERT.sizes, "vocab_size": "vocab_size", "embedding_size": "embedding_dim"},
    tensors={**_EMBEDDINGS, **_dense("backbone/embeddings/projection", "layers/dense_0")},
    heads={},  # its pooler has no counterpart in ELECTRA
)
# where embeddings are as wide as the stack the first dense layer is the pooler
ELECTRA_WIDE = dataclasses.replace(_ELECTRA, tensors=_EMBEDDINGS)
# Hugging Face's position tables begin with two rows that no token uses; KerasHub leaves them out.
_ROBERTA = dataclasses.replace(
    _BERT,
    model_type="roberta",
    sizes=_SIZES,
    fixed={"norm_epsilon": 1e-5, "activation": "gelu", "position_offset": 2, "segments": 1},
    tensors=_TOGETHER,
    heads={},
)
_DISTILBERT = dataclasses.replace(
    _ROBERTA,
    model_type="distilbert",
    fixed={"norm_epsilon": 1e-12, "activation": "gelu"},
    tensors=_TOGETHER,
)
_GPT2 = dataclasses.replace(
    _BERT,
    model_type="gpt2",
    sizes=_SIZES,
    fixed={
        "norm_epsilon": 1e-5,
        "activation": "gelu_tanh",
        "norm_placement": "pre",
        "embedding_norm": False,
        "causal": True,
    },
    tensors={
        "backbone/embeddings/token": _EMBEDDINGS["backbone/embeddings/token"],
        "backbone/embeddings/position": _EMBEDDINGS["backbone/embeddings/position"],
        **_norm("backbone/encoder/final_norm", "layers/layer_normalization_0"),
    },
    layer=_block(_OUR_LAYER, "layers/transformer_decoder_{i}"),
    heads={},
)
_BART = dataclasses.replace(
    _BERT,
    model_type="bart",
    sizes={**_SIZES, "decoder_layers": "num_layers"},
    fixed={"norm_epsilon": 1e-5, "activation": "gelu", "position_offset": 2, "logit_bias": True},
    tensors={
        **_EMBEDDINGS,
        "backbone/decoder_embeddings/position": ("layers/position_embedding_1/vars/0",),
        **_norm("backbone/decoder_embeddings/norm", "layers/layer_normalization_1"),
    },
    decoder_layer=_block(_OUR_DECODER_LAYER, "layers/transformer_decoder_{i}", cross=True),
    heads={"lm": {"backbone/head/bias": ("no bias",)}},  # zeros, as Hugging Face's final_logits_bias is
)


def _activation(value) -> str:
    """KerasHub writes the name of an activation, or the description of a function of its own."""
    text = json.dumps(value)
    known = {"gelu_approximate": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
    found = [ours for name, ours in known.items() if name in text]
    if not found:
        raise ValueError(f"activation is {value!r}, supported are {', '.join(known)}")
    return found[0]


def _read_t5(values: dict) -> dict:
    tied = values["tie_embedding_weights"]
    width = values.get("key_value_dim")
    return {
        "decoder_layers": values["num_layers"],
        "head_size": None if width in (None, values["hidden_dim"] / values["num_heads"]) else width,
        "gated": values["use_gated_activation"],
        "activation": _activation(values["activation"]),
        "activation_dropout": values["dropout"],
        "tie_embeddings": tied,
        "logit_scale": values["hidden_dim"] ** -0.5 if tied else 1.0,
    }


def _t5_block(ours: str, theirs: str, cross: bool) -> Table:
    parts, out = ("query_projector", "key_projector", "value_projector"), "output_projector"
    return {
        **_attention(f"{ours}/attention", f"{theirs}/self_attention", parts, out),
        f"{ours}/attention_norm/scale": (f"{theirs}/self_attention_layer_norm/vars/0",),
        **(_attention(f"{ours}/cross_attention", f"{theirs}/cross_attention", parts, out) if cross else {}),
        **({f"{ours}/cross_attention_norm/scale": (f"{theirs}/cross_attention_layer_norm/vars/0",)} if cross else {}),
        f"{ours}/ffn/up/kernel": (f"{theirs}/input_projector/vars/0",),
        f"{ours}/ffn/down/kernel": (f"{theirs}/output_projector/vars/0",),
        f"{ours}/ffn_norm/scale": (f"{theirs}/layer_norm/vars/0",),
    }


_T5 = Family(
    model_type="t5",
    sizes={
        **{ours: key for ours, key in _SIZES.items() if ours != "max_length"},
        "norm_epsilon": "layer_norm_epsilon",
    },
    fixed={
        "position": "relative",
        "norm": "rms",
        "norm_placement": "pre",
        "embedding_norm": False,
        "bias": False,
        "attention_scale": 1.0,
    },
    usual={"use_gated_activation": True, "tie_embedding_weights": True, "activation": "relu"},
    activation=None,
    read_more=_read_t5,
    tensors={
        "backbone/embeddings/token": _EMBEDDINGS["backbone/embeddings/token"],
        "backbone/encoder/relative": ("layers/t5_transformer_layer_0/self_attention/vars/0",),
        "backbone/encoder/final_norm/scale": ("layers/t5_layer_norm_0/vars/0",),
        "backbone/decoder/relative": ("layers/t5_decoder_layer_0/self_attention/vars/0",),
        "backbone/decoder/final_norm/scale": ("layers/t5_layer_norm_1/vars/0",),
    },
    layer=_t5_block(_OUR_LAYER, "layers/t5_transformer_layer_{i}", cross=False),
    decoder_layer=_t5_block(_OUR_DECODER_LAYER, "layers/t5_decoder_layer_{i}", cross=True),
    instead=(
        (
            lambda config: config.gated,
            {
                f"{ours}/ffn/up/kernel": (f"{theirs}/input_projector/vars/0", f"{theirs}/gate_projector/vars/0")
                for ours, theirs in (
                    (_OUR_LAYER, "layers/t5_transformer_layer_{i}"),
                    (_OUR_DECODER_LAYER, "layers/t5_decoder_layer_{i}"),
                )
            },
        ),
    ),
    heads=_HEAD,
    transposed=False,
)


def _read_rope(values: dict) -> dict:
    factor = values.get("rope_position_scaling_factor") or values.get("rope_scaling_factor") or 1.0
    scaling = {"rope_type": "linear", "factor": factor} if factor != 1.0 else None
    if values.get("rope_frequency_adjustment_factor"):
        if scaling:
            raise ValueError(
                f"positions are scaled by {factor} and frequencies adjusted: only one of them is supported"
            )
        scaling = {
            "rope_type": "llama3",
            "factor": values["rope_frequency_adjustment_factor"],
            "low_freq_factor": values["rope_low_freq_factor"],
            "high_freq_factor": values["rope_high_freq_factor"],
            "original_max_position_embeddings": values["rope_pretraining_sequence_length"],
        }
    return {"rope_theta": float(values["rope_max_wavelength"]), "rope_scaling": scaling}


def _read_llama(values: dict) -> dict:
    window = values.get("sliding_window") or values.get("sliding_window_size")
    if not values.get("use_sliding_window_attention", True):
        window = None
    width = values.get("head_dim")
    return {
        **_read_rope(values),
        "window": window,
        "head_size": None if width in (None, values["hidden_dim"] / values["num_query_heads"]) else width,
    }


def _llama(model_type: str, layer: str, norm: str, max_length: int, **fixed) -> Family:
    theirs = f"layers/{layer}_{{i}}"
    attention = f"{theirs}/self_attention_layer"
    return Family(
        model_type=model_type,
        sizes=_DECODER_SIZES,
        fixed={**_RMS, "max_length": max_length, **fixed},
        activation=None,
        read_more=_read_llama,
        tensors={
            "backbone/embeddings/token": _EMBEDDINGS["backbone/embeddings/token"],
            "backbone/encoder/final_norm/scale": (f"layers/{norm}_0/vars/0",),
        },
        layer={
            **_attention(f"{_OUR_LAYER}/attention", attention),
            f"{_OUR_LAYER}/attention/query_norm/scale": (f"{attention}/query_dense_layer_norm/vars/0",),
            f"{_OUR_LAYER}/attention/key_norm/scale": (f"{attention}/key_dense_layer_norm/vars/0",),
            f"{_OUR_LAYER}/attention_norm/scale": (f"{theirs}/self_attention_layernorm/vars/0",),
            f"{_OUR_LAYER}/ffn/up/kernel": (
                f"{theirs}/feedforward_gate_dense/vars/0",
                f"{theirs}/feedforward_intermediate_dense/vars/0",
            ),
            f"{_OUR_LAYER}/ffn/down/kernel": (f"{theirs}/feedforward_output_dense/vars/0",),
            f"{_OUR_LAYER}/ffn_norm/scale": (f"{theirs}/feedforward_layernorm/vars/0",),
        },
        heads=_HEAD,
        transposed=False,
    )


def _read_gemma(values: dict) -> dict:
    """GemmaBackbone is Gemma and, with norms after the sublayers, Gemma 2."""
    after = {bool(values["use_post_attention_norm"]), bool(values["use_post_ffw_norm"])}
    if len(after) == 2:
        raise ValueError("use_post_attention_norm and use_post_ffw_norm differ: only both or neither is supported")
    hidden, heads, width = values["hidden_dim"], values["num_query_heads"], values["head_dim"]
    windowed = values["use_sliding_window_attention"]
    return {
        "embedding_scale": hidden**0.5,
        "head_size": None if width == hidden / heads else width,
        "norm_placement": "sandwich" if after == {True} else "pre",
        # 27 billion parameters: the width that heads would have if they were as wide as the stack together
        "attention_scale": None if values["query_head_dim_normalize"] else (hidden // heads) ** -0.5,
        "attention_softcap": values.get("attention_logit_soft_cap"),
        "logit_softcap": values.get("final_logit_soft_cap"),
        "window": values["sliding_window_size"] if windowed else None,
        "global_layers": tuple(range(1, values["num_layers"], 2)) if windowed else (),
    }


def _read_gemma_2(values: dict) -> dict:
    # ffw_gating makes half of intermediate_dim, ffw_gating_2 the other
    return {**_read_gemma(values), "ffn_size": values["intermediate_dim"] // 2}


def _read_gemma_3(values: dict) -> dict:
    asked = [key for key in ("vision_encoder", "is_embedding_model", "use_bidirectional_attention") if values.get(key)]
    if asked:
        raise ValueError(f"{', '.join(asked)}: only the text half of Gemma 3 is supported; the *_text presets are that")
    if values["local_rope_scaling_factor"] != 1.0:
        raise ValueError(f"local_rope_scaling_factor is {values['local_rope_scaling_factor']}, only 1.0 is supported")
    windowed, factor = values["use_sliding_window_attention"], values["global_rope_scaling_factor"]
    return {
        **_read_gemma(values),
        "qk_norm": values["use_query_key_norm"],
        "global_layers": tuple(range(5, values["num_layers"], 6)) if windowed else (),
        "rope_theta": 1_000_000.0,
        "rope_theta_window": 10_000.0,
        "rope_scaling": {"rope_type": "linear", "factor": factor} if factor != 1.0 else None,
    }


def _gemma(model_type: str, block: str, read_more, **fixed) -> Family:
    theirs = f"layers/{block}_{{i}}"
    return Family(
        model_type=model_type,
        sizes=_DECODER_SIZES,
        usual=_GEMMA_USUAL,
        fixed={**_RMS, "activation": "gelu_tanh", "norm_offset": 1.0, **fixed},
        activation=None,
        read_more=read_more,
        tensors={
            "backbone/embeddings/token": _EMBEDDINGS["backbone/embeddings/token"],
            "backbone/encoder/final_norm/scale": ("layers/rms_normalization_0/vars/0",),
        },
        layer={
            **_attention(f"{_OUR_LAYER}/attention", f"{theirs}/attention"),
            f"{_OUR_LAYER}/attention/query_norm/scale": (f"{theirs}/attention/query_norm/vars/0",),
            f"{_OUR_LAYER}/attention/key_norm/scale": (f"{theirs}/attention/key_norm/vars/0",),
            f"{_OUR_LAYER}/attention_norm/scale": (f"{theirs}/pre_attention_norm/vars/0",),
            f"{_OUR_LAYER}/attention_post_norm/scale": (f"{theirs}/post_attention_norm/vars/0",),
            f"{_OUR_LAYER}/ffn/up/kernel": (f"{theirs}/gating_ffw/vars/0", f"{theirs}/gating_ffw_2/vars/0"),
            f"{_OUR_LAYER}/ffn/down/kernel": (f"{theirs}/ffw_linear/vars/0",),
            f"{_OUR_LAYER}/ffn_norm/scale": (f"{theirs}/pre_ffw_norm/vars/0",),
            f"{_OUR_LAYER}/ffn_post_norm/scale": (f"{theirs}/post_ffw_norm/vars/0",),
        },
        transposed=False,
    )


_LLAMA = _llama("llama", "llama_transformer_decoder", "llama_layer_norm", 4096)

# class_name in the preset's config.json
FAMILIES = {
    "BertBackbone": _BERT,
    "AlbertBackbone": _ALBERT,
    "ElectraBackbone": _ELECTRA,
    "RobertaBackbone": _ROBERTA,
    "XLMRobertaBackbone": dataclasses.replace(_ROBERTA, model_type="xlm-roberta"),
    "DistilBertBackbone": _DISTILBERT,
    "GPT2Backbone": _GPT2,
    "BartBackbone": _BART,
    "T5Backbone": _T5,
    "LlamaBackbone": _LLAMA,
    "Llama3Backbone": _LLAMA,
    "MistralBackbone": _llama("mistral", "mistral_transformer_decoder", "mistral_layer_normalization", 8192),
    "QwenBackbone": _llama("qwen2", "qwen_transformer_decoder", "qwen_layer_norm", 32_768, qkv_bias=True),
    "Qwen3Backbone": _llama("qwen3", "qwen3_transformer_decoder", "qwen3_layer_norm", 32_768, qk_norm=True),
    "GemmaBackbone": _gemma("gemma", "gemma_decoder_block", _read_gemma_2, max_length=8192),
    "Gemma3Backbone": _gemma("gemma3_text", "gemma3_decoder_block", _read_gemma_3, max_length=8192),
}
# classes whose queries, keys and values are stored (heads, hidden, width)
HEADS_FIRST = ("GemmaBackbone", "Gemma3Backbone")


def model_type(family: Family, config: TransformerConfig) -> str:
    """Hugging Face's name of the family whose formula a config is."""
    return "gemma2" if family.model_type == "gemma" and config.norm_placement == "sandwich" else family.model_type
