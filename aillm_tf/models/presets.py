"""Presets: shapes of published models, and small ones to train from scratch on a laptop."""

from __future__ import annotations

from aillm_tf.models.config import TransformerConfig

_BERT = {"segments": 2, "max_length": 512}
_ROBERTA = {"segments": 1, "max_length": 512, "position_offset": 2, "norm_epsilon": 1e-5}
_PRE = {"norm_placement": "pre", "embedding_norm": False}
_GPT2 = _PRE | {"norm_epsilon": 1e-5, "activation": "gelu_tanh", "causal": True, "max_length": 1024}
_LLAMA = _PRE | {"norm": "rms", "norm_epsilon": 1e-5, "bias": False, "activation": "silu", "gated": True}
_LLAMA |= {"position": "rotary", "causal": True, "max_length": 2048, "dropout": 0.0, "attention_dropout": 0.0}
_LSTM = {"cell": "lstm", "position": "none", "embedding_norm": False, "causal": True, "max_length": 1024}
# without T5's logit_scale, which goes with embeddings that begin with a deviation of 1: these begin small
_T5 = _PRE | {"norm": "rms", "norm_epsilon": 1e-6, "bias": False, "activation": "relu", "activation_dropout": 0.1}
_T5 |= {"position": "relative", "attention_scale": 1.0}
# Vaswani et al. 2017 with the norms before, which need no long warm-up
_VASWANI = _PRE | {"norm_epsilon": 1e-6, "activation": "relu", "position": "sinusoidal", "attention_dropout": 0.0}
_BART = {"norm_epsilon": 1e-5, "max_length": 1024, "position_offset": 2, "activation_dropout": 0.1, "logit_bias": True}

PRESETS: dict[str, dict] = {
    "tiny": {"hidden_size": 128, "layers": 2, "heads": 2, "ffn_size": 512, **_BERT},
    "small": {"hidden_size": 192, "layers": 3, "heads": 3, "ffn_size": 768, **_BERT},
    "minilm": {"hidden_size": 384, "layers": 6, "heads": 12, "ffn_size": 1536, **_BERT},
    "bert-base": {"hidden_size": 768, "layers": 12, "heads": 12, "ffn_size": 3072, **_BERT},
    "bert-large": {"hidden_size": 1024, "layers": 24, "heads": 16, "ffn_size": 4096, **_BERT},
    "roberta-base": {"hidden_size": 768, "layers": 12, "heads": 12, "ffn_size": 3072, **_ROBERTA},
    "electra-small": {"hidden_size": 256, "layers": 12, "heads": 4, "ffn_size": 1024, "embedding_size": 128, **_BERT},
    "gpt2-tiny": {"hidden_size": 128, "layers": 2, "heads": 2, "ffn_size": 512, **_GPT2},
    "gpt2": {"hidden_size": 768, "layers": 12, "heads": 12, "ffn_size": 3072, **_GPT2},
    "llama-tiny": {"hidden_size": 256, "layers": 6, "heads": 8, "kv_heads": 4, "ffn_size": 704, **_LLAMA},
    "llama-small": {"hidden_size": 768, "layers": 12, "heads": 12, "kv_heads": 4, "ffn_size": 2048, **_LLAMA},
    "lstm-tiny": {"hidden_size": 128, "layers": 1, "heads": 1, "ffn_size": 512, **_LSTM},
    "lstm": {"hidden_size": 512, "layers": 2, "heads": 1, "ffn_size": 2048, **_LSTM},
    "translation-small": {"hidden_size": 256, "layers": 3, "decoder_layers": 3, "heads": 4, "ffn_size": 512}
    | {**_VASWANI, "embedding_scale": 256**0.5, "initializer_range": 0.05},
    "translation-base": {"hidden_size": 512, "layers": 6, "decoder_layers": 6, "heads": 8, "ffn_size": 2048}
    | {**_VASWANI, "embedding_scale": 512**0.5, "initializer_range": 0.035},
    "t5-tiny": {"hidden_size": 128, "layers": 2, "decoder_layers": 2, "heads": 4, "ffn_size": 256, **_T5},
    "t5-small": {"hidden_size": 512, "layers": 6, "decoder_layers": 6, "heads": 8, "ffn_size": 2048, **_T5},
    "bart-tiny": {"hidden_size": 128, "layers": 2, "decoder_layers": 2, "heads": 2, "ffn_size": 512, **_BART},
    "bart-base": {"hidden_size": 768, "layers": 6, "decoder_layers": 6, "heads": 12, "ffn_size": 3072, **_BART},
}


def preset(name: str, vocab_size: int, **changes) -> TransformerConfig:
    """The TransformerConfig of a preset.

    Args:
        name: a key of `PRESETS`.
        vocab_size: rows of the token table.
        **changes: fields of the TransformerConfig that differ from the preset.

    Returns:
        The config; weights are not a part of it.

    Raises:
        ValueError: no such preset; names those there are.

    Example:
        >>> preset("minilm", vocab_size=30522).layers
        6
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
    return TransformerConfig(vocab_size=vocab_size, **{**PRESETS[name], **changes})
