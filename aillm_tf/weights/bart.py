"""BART and mBART as Hugging Face writes them; mBART is BART with the norms before, and one at the end of each stack.

References: Lewis et al., 2020, BART: Denoising Sequence-to-Sequence Pre-training, https://arxiv.org/abs/1910.13461;
Liu et al., 2020, Multilingual Denoising Pre-training for Neural Machine Translation, https://arxiv.org/abs/2001.08210
"""

from __future__ import annotations

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.family import Family, Table

# What encoder and decoder may have of different size in config.json, but not in a TransformerConfig.
_ALIKE = {"decoder_attention_heads": "encoder_attention_heads", "decoder_ffn_dim": "encoder_ffn_dim"}

SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "layers": "encoder_layers",
    "decoder_layers": "decoder_layers",
    "heads": "encoder_attention_heads",
    "ffn_size": "encoder_ffn_dim",
    "max_length": "max_position_embeddings",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "initializer_range": "init_std",
}
USUAL = {
    "max_position_embeddings": 1024,
    "activation_function": "gelu",
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "init_std": 0.02,
    "scale_embedding": False,
    "tie_word_embeddings": True,
}


def read_more(values: dict) -> dict:
    """What the configurations of BART, mBART and Marian say in other words than ours."""
    for decoder, encoder in _ALIKE.items():
        if values.get(decoder, values[encoder]) != values[encoder]:
            raise ValueError(
                f"{decoder} is {values[decoder]}, {encoder} is {values[encoder]}: only equal ones are supported"
            )
    return {
        "embedding_scale": values["d_model"] ** 0.5 if values["scale_embedding"] else 1.0,
        "tie_embeddings": values["tie_word_embeddings"],
    }


def write_more(config: TransformerConfig) -> dict:
    """The inverse of :func:`read_more`."""
    return {
        "decoder_attention_heads": config.heads,
        "decoder_ffn_dim": config.ffn_size,
        "scale_embedding": config.embedding_scale != 1.0,
        "is_encoder_decoder": True,
    }


def _norm(ours: str, theirs: str) -> Table:
    return {f"{ours}/scale": (f"{theirs}.weight",), f"{ours}/bias": (f"{theirs}.bias",)}


def _dense(ours: str, *theirs: str) -> Table:
    return {
        f"{ours}/kernel": tuple(f"{name}.weight" for name in theirs),
        f"{ours}/bias": tuple(f"{name}.bias" for name in theirs),
    }


def _attention(ours: str, theirs: str) -> Table:
    return {
        **_dense(f"{ours}/qkv", *(f"{theirs}.{part}_proj" for part in "qkv")),
        **_dense(f"{ours}/out", f"{theirs}.out_proj"),
        **_norm(f"{ours}_norm", f"{theirs}_layer_norm"),
    }


def _layer(side: str) -> Table:
    ours, theirs = f"backbone/{side}/layer_{{i}}", f"model.{side}.layers.{{i}}"
    return {
        **_attention(f"{ours}/attention", f"{theirs}.self_attn"),
        **(_attention(f"{ours}/cross_attention", f"{theirs}.encoder_attn") if side == "decoder" else {}),
        **_dense(f"{ours}/ffn/up", f"{theirs}.fc1"),
        **_dense(f"{ours}/ffn/down", f"{theirs}.fc2"),
        **_norm(f"{ours}/ffn_norm", f"{theirs}.final_layer_norm"),
    }


LAYER, DECODER_LAYER = _layer("encoder"), _layer("decoder")
LM = {"backbone/head/kernel": ("lm_head.weight",), "backbone/head/bias": ("final_logits_bias",)}
ROOTS = ("model.", "lm_head.", "final_logits_bias", "classification_head.", "qa_outputs.")


def _family(model_type: str, title: str, pre: bool) -> Family:
    return Family(
        model_type=model_type,
        title=title,
        sizes=SIZES,
        usual=USUAL,
        only={
            "is_decoder": False,
            "is_encoder_decoder": True,
            "normalize_before": pre,
            "add_final_layer_norm": pre,
            "normalize_embedding": True,
            "static_position_embeddings": False,
        },
        fixed={
            "position_offset": 2,
            "norm_epsilon": 1e-5,
            "norm_placement": "pre" if pre else "post",
            "logit_bias": True,
        },
        activation="activation_function",
        read_more=read_more,
        write_more=write_more,
        prefix="model.",
        roots=ROOTS,
        tensors={
            "backbone/embeddings/token": ("model.shared.weight",),
            "backbone/embeddings/position": ("model.encoder.embed_positions.weight",),
            **_norm("backbone/embeddings/norm", "model.encoder.layernorm_embedding"),
            **_norm("backbone/encoder/final_norm", "model.encoder.layer_norm"),
            "backbone/decoder_embeddings/position": ("model.decoder.embed_positions.weight",),
            **_norm("backbone/decoder_embeddings/norm", "model.decoder.layernorm_embedding"),
            **_norm("backbone/decoder/final_norm", "model.decoder.layer_norm"),
        },
        layer=LAYER,
        decoder_layer=DECODER_LAYER,
        heads={
            "lm": LM,
            # Both read the decoder, which is given the source once more, shifted: the classifier at the last </s> of
            # the source, the spans everywhere.
            "pooler": _dense("pooler", "classification_head.dense"),
            "classifier": _dense("classifier", "classification_head.out_proj"),
            "spans": _dense("spans", "qa_outputs"),
        },
        architectures={
            None: ("lm",),
            f"{title}Model": (),
            f"{title}ForConditionalGeneration": ("lm",),
            f"{title}ForSequenceClassification": ("pooler", "classifier"),
            f"{title}ForQuestionAnswering": ("spans",),
        },
        saved_as={
            None: f"{title}Model",
            "seq2seq_lm": f"{title}ForConditionalGeneration",
            "classification": f"{title}ForSequenceClassification",
            "question_answering": f"{title}ForQuestionAnswering",
        },
        tied={
            "lm_head.weight": "model.shared.weight",
            "model.encoder.embed_tokens.weight": "model.shared.weight",
            "model.decoder.embed_tokens.weight": "model.shared.weight",
        },
        # version numbers of fairseq
        buffers=("model.encoder.version", "model.decoder.version"),
        rows=("final_logits_bias",),
        zeros=("backbone/head/bias",),
    )


FAMILIES = (_family("bart", "Bart", pre=False), _family("mbart", "MBart", pre=True))
