"""Presets: shapes of published models, and small ones to train from scratch on a laptop."""

from __future__ import annotations

from aillm_tf.models.config import TransformerConfig

_BERT = {"segments": 2, "max_length": 512}

PRESETS: dict[str, dict] = {
    "tiny": {"hidden_size": 128, "layers": 2, "heads": 2, "ffn_size": 512, **_BERT},
    "small": {"hidden_size": 192, "layers": 3, "heads": 3, "ffn_size": 768, **_BERT},
    "minilm": {"hidden_size": 384, "layers": 6, "heads": 12, "ffn_size": 1536, **_BERT},
    "bert-base": {"hidden_size": 768, "layers": 12, "heads": 12, "ffn_size": 3072, **_BERT},
    "bert-large": {"hidden_size": 1024, "layers": 24, "heads": 16, "ffn_size": 4096, **_BERT},
}


def preset(name: str, vocab_size: int, **changes) -> TransformerConfig:
    """The TransformerConfig of a preset.

    Example:
        >>> preset("minilm", vocab_size=30522).layers
        6
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose from {', '.join(PRESETS)}")
    return TransformerConfig(vocab_size=vocab_size, **{**PRESETS[name], **changes})
