"""Marian (the OPUS-MT translation models) as Hugging Face writes it: BART with sinusoids and no norm of embeddings.

Source and target have one vocabulary, or each its own (share_encoder_decoder_embeddings).

References: Junczys-Dowmunt et al., 2018, Marian: Fast Neural Machine Translation in C++,
https://arxiv.org/abs/1804.00344; Tiedemann & Thottingal, 2020, OPUS-MT
"""

from __future__ import annotations

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights import bart
from aillm_tf.weights.family import Family


def _read_more(values: dict) -> dict:
    shared = values["share_encoder_decoder_embeddings"]
    own = None if shared else values.get("decoder_vocab_size", values["vocab_size"])
    return {**bart.read_more(values), "decoder_vocab_size": own}


def _write_more(config: TransformerConfig) -> dict:
    return {
        **bart.write_more(config),
        "share_encoder_decoder_embeddings": config.decoder_vocab_size is None,
        "decoder_vocab_size": config.decoder_vocab_size or config.vocab_size,
    }


FAMILY = Family(
    model_type="marian",
    title="Marian",
    sizes=bart.SIZES,
    usual=bart.USUAL | {"share_encoder_decoder_embeddings": True},
    only={
        "is_decoder": False,
        "is_encoder_decoder": True,
        "normalize_before": False,
        "add_final_layer_norm": False,
        "normalize_embedding": False,
        "static_position_embeddings": True,
    },
    fixed={"position": "sinusoidal", "norm_epsilon": 1e-5, "embedding_norm": False, "logit_bias": True},
    activation="activation_function",
    activations={"gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"},
    read_more=_read_more,
    write_more=_write_more,
    prefix="model.",
    roots=bart.ROOTS,
    tensors={
        "backbone/embeddings/token": ("model.shared.weight",),
        "backbone/decoder_embeddings/token": ("model.decoder.embed_tokens.weight",),
    },
    layer=bart.LAYER,
    decoder_layer=bart.DECODER_LAYER,
    instead=(
        (
            lambda config: config.decoder_vocab_size is not None,
            {"backbone/embeddings/token": ("model.encoder.embed_tokens.weight",)},
        ),
    ),
    heads={"lm": bart.LM},
    architectures={None: ("lm",), "MarianModel": (), "MarianMTModel": ("lm",)},
    saved_as={None: "MarianModel", "seq2seq_lm": "MarianMTModel"},
    # In this order: where the target has a vocabulary of its own, the head is tied to that.
    tied={
        "lm_head.weight": "model.decoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "model.encoder.embed_tokens.weight": "model.shared.weight",
    },
    # The sinusoids, which are computed.
    buffers=("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight"),
    rows=("final_logits_bias",),
    zeros=("backbone/head/bias",),
)
