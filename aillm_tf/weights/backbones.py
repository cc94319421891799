"""A bare backbone with pretrained weights, for those who write their own heads or training."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aillm_tf.layers.naming import variables_by_name
from aillm_tf.models.decoder import Decoder, new_decoder
from aillm_tf.models.encoder import Encoder
from aillm_tf.models.encoder_decoder import EncoderDecoder
from aillm_tf.weights import families
from aillm_tf.weights.filling import filled
from aillm_tf.weights.loading import LM_HEAD, Pretrained, assign
from aillm_tf.weights.sources import open_source, tokenizer_of

if TYPE_CHECKING:
    from aillm_tf.models.config import TransformerConfig
    from aillm_tf.text.tokenizer import Tokenizer


def load_backbone(
    source: str | os.PathLike, *, dtype: str = "float32"
) -> tuple[Encoder | Decoder | EncoderDecoder, Tokenizer | None]:
    """Makes the backbone of a checkpoint and fills it, under the strategy in whose scope this is called.

    Args:
        source: see :func:`aillm_tf.weights.sources.open_source`.
        dtype: Keras's dtype policy: "float32"; "mixed_bfloat16" (float32 weights, bfloat16 matmuls); "bfloat16"
            (weights too: half the memory, for inference).

    Returns:
        The backbone (an Encoder, a Decoder or an EncoderDecoder, as the checkpoint's config says; the latter two have
        ``logits(hidden)``, the scores over the vocabulary), and its tokenizer, or None where the source has none. Heads
        of the checkpoint are left out and named in the log: a task's ``from_pretrained`` takes them.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as :func:`aillm_tf.weights.sources.open_source`; ValueError also
            where the tensors do not fit the config.

    Example:
        >>> import numpy as np
        >>> backbone, tokenizer = load_backbone("tests/golden/bert_classifier")
        >>> backbone({"token_ids": np.array([[2, 30, 31, 3]])}).shape
        TensorShape([1, 4, 32])
    """
    pretrained = open_source(source)
    return backbone_of(pretrained, dtype=dtype), tokenizer_of(pretrained)


def backbone_of(pretrained: Pretrained, *, dtype: str | None = None) -> Encoder | Decoder | EncoderDecoder:
    """The backbone of an opened checkpoint, filled.

    A model that was saved without scores over the vocabulary (a bare one, a classifier) may lack the kernel for them:
    it starts anew, which the log says.
    """
    config = pretrained.config
    heads = families.family(config.model_type).architectures.get(pretrained.architecture) if config.model_type else None
    allow_new = () if heads is None or "lm" in heads else (LM_HEAD,)
    return filled(
        lambda: new_backbone(config, dtype=dtype),
        lambda backbone: assign(backbone_variables(backbone), pretrained, allow_new),
    )


def new_backbone(config: TransformerConfig, *, dtype: str | None = None) -> Encoder | Decoder | EncoderDecoder:
    """The built backbone of a configuration, with initial weights."""
    kind = EncoderDecoder if config.decoder_layers else new_decoder if config.causal else Encoder
    backbone = kind(config, dtype=dtype)
    backbone.build()
    return backbone


def backbone_variables(backbone: Encoder | Decoder | EncoderDecoder) -> dict:
    """Its variables by the names they have in a task and in a checkpoint: "backbone/..."."""
    return {f"backbone/{name}": variable for name, variable in variables_by_name(backbone).items()}
