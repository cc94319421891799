"""T5, T5 1.1 (FLAN among them) and mT5 as Hugging Face writes them.

    T5: relu, one table for embeddings and head, scores scaled by hidden_size ** -0.5
    T5 1.1, mT5: a gated network, a head of its own, scores as they are

The first layer of each stack holds the relative positions that all its layers use. Whether the head is tied is read
from the tensors: transformers 5 writes tie_word_embeddings=true also where it is not.

References: Raffel et al., 2020, Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer,
https://arxiv.org/abs/1910.10683; Shazeer, 2020, https://arxiv.org/abs/2002.05202; Xue et al., 2021, mT5,
https://arxiv.org/abs/2010.11934
"""

from __future__ import annotations

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.family import Family, Table

# what follows "gated-" in feed_forward_proj, or all of it: TransformerConfig.activation
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "gelu_new": "gelu_tanh", "silu": "silu"}


def _attention(ours: str, theirs: str) -> Table:
    return {
        f"{ours}/qkv/kernel": tuple(f"{theirs}.{part}.weight" for part in "qkv"),
        f"{ours}/out/kernel": (f"{theirs}.o.weight",),
    }


def _ffn(ours: str, theirs: str) -> Table:
    return {
        f"{ours}/ffn/up/kernel": (f"{theirs}.DenseReluDense.wi.weight",),
        f"{ours}/ffn/down/kernel": (f"{theirs}.DenseReluDense.wo.weight",),
    }


def _gated(ours: str, theirs: str) -> Table:
    return {f"{ours}/ffn/up/kernel": tuple(f"{theirs}.DenseReluDense.wi_{part}.weight" for part in (0, 1))}


_ENCODER, _DECODER = "encoder.block.{i}.layer.", "decoder.block.{i}.layer."
_OUR_ENCODER, _OUR_DECODER = "backbone/encoder/layer_{i}", "backbone/decoder/layer_{i}"


def _read_more(values: dict) -> dict:
    name = values["feed_forward_proj"]
    gated, activation = name.startswith("gated-"), name.removeprefix("gated-")
    if name == "gated-gelu":
        activation = "gelu_new"
    # what transformers derives from feed_forward_proj, and believes where config.json has it
    gated, activation = values.get("is_gated_act", gated), values.get("dense_act_fn", activation)
    if activation not in _ACTIVATIONS:
        raise ValueError(f"feed_forward_proj is {name!r}: of its activations {', '.join(_ACTIVATIONS)} are supported")
    return {
        "decoder_layers": values.get("num_decoder_layers", values["num_layers"]),
        "max_length": values.get("n_positions", 512),
        "gated": gated,
        "activation": _ACTIVATIONS[activation],
        "attention_dropout": values["dropout_rate"],
        "activation_dropout": values["dropout_rate"],
        "tie_embeddings": values["tie_word_embeddings"],
    }


def _write_more(config: TransformerConfig) -> dict:
    activations = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    activation = activations[config.activation]
    return {
        "num_decoder_layers": config.decoder_layers,
        "n_positions": config.max_length,
        "feed_forward_proj": f"gated-{activation.removesuffix('_new')}" if config.gated else activation,
        "is_gated_act": config.gated,
        "dense_act_fn": activation,
        "is_encoder_decoder": True,
    }


def _read_t5(values: dict) -> dict:
    # versions before 5 scale where the head is tied and say no more than that
    scaled = values.get("scale_decoder_outputs", values["tie_word_embeddings"])
    return {**_read_more(values), "logit_scale": values["d_model"] ** -0.5 if scaled else 1.0}


def _write_t5(config: TransformerConfig) -> dict:
    return {**_write_more(config), "scale_decoder_outputs": config.logit_scale != 1.0}


def _family(model_type: str, title: str, usual: dict, read_more, write_more) -> Family:
    models = model_type.upper()
    return Family(
        model_type=model_type,
        title=title,
        sizes={
            "vocab_size": "vocab_size",
            "hidden_size": "d_model",
            "layers": "num_layers",
            "heads": "num_heads",
            "head_size": "d_kv",
            "ffn_size": "d_ff",
            "norm_epsilon": "layer_norm_epsilon",
            "relative_buckets": "relative_attention_num_buckets",
            "relative_max_distance": "relative_attention_max_distance",
            "dropout": "dropout_rate",
        },
        usual={
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "dropout_rate": 0.1,
            **usual,
        },
        only={"is_decoder": False, "is_encoder_decoder": True},
        fixed={
            "position": "relative",
            "norm": "rms",
            "norm_placement": "pre",
            "embedding_norm": False,
            "bias": False,
            "attention_scale": 1.0,
        },
        activation=None,
        read_more=read_more,
        write_more=write_more,
        roots=("shared.", "encoder.", "decoder.", "lm_head."),
        tensors={
            "backbone/embeddings/token": ("shared.weight",),
            "backbone/encoder/relative": ("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
            "backbone/encoder/final_norm/scale": ("encoder.final_layer_norm.weight",),
            "backbone/decoder/relative": ("decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
            "backbone/decoder/final_norm/scale": ("decoder.final_layer_norm.weight",),
        },
        layer={
            **_attention(f"{_OUR_ENCODER}/attention", _ENCODER + "0.SelfAttention"),
            f"{_OUR_ENCODER}/attention_norm/scale": (_ENCODER + "0.layer_norm.weight",),
            **_ffn(_OUR_ENCODER, _ENCODER + "1"),
            f"{_OUR_ENCODER}/ffn_norm/scale": (_ENCODER + "1.layer_norm.weight",),
        },
        decoder_layer={
            **_attention(f"{_OUR_DECODER}/attention", _DECODER + "0.SelfAttention"),
            f"{_OUR_DECODER}/attention_norm/scale": (_DECODER + "0.layer_norm.weight",),
            **_attention(f"{_OUR_DECODER}/cross_attention", _DECODER + "1.EncDecAttention"),
            f"{_OUR_DECODER}/cross_attention_norm/scale": (_DECODER + "1.layer_norm.weight",),
            **_ffn(_OUR_DECODER, _DECODER + "2"),
            f"{_OUR_DECODER}/ffn_norm/scale": (_DECODER + "2.layer_norm.weight",),
        },
        instead=(
            (
                lambda config: config.gated,
                {**_gated(_OUR_ENCODER, _ENCODER + "1"), **_gated(_OUR_DECODER, _DECODER + "2")},
            ),
        ),
        heads={"lm": {"backbone/head/kernel": ("lm_head.weight",)}},
        architectures={None: ("lm",), f"{models}Model": (), f"{models}ForConditionalGeneration": ("lm",)},
        saved_as={None: f"{models}Model", "seq2seq_lm": f"{models}ForConditionalGeneration"},
        tied={
            "encoder.embed_tokens.weight": "shared.weight",
            "decoder.embed_tokens.weight": "shared.weight",
            "lm_head.weight": "shared.weight",
        },
        tied_by_tensors=True,
        # The first checkpoints have it, nothing reads it: cross-attention knows no positions.
        buffers=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
    )


FAMILIES = (
    _family("t5", "T5", {"feed_forward_proj": "relu", "tie_word_embeddings": True}, _read_t5, _write_t5),
    _family("mt5", "mT5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, _read_more, _write_more),
)
