"""TransformerConfig: every fact that decides the shape and the formula of a Transformer, in one frozen dataclass."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """The shape and formula of a Transformer encoder, decoder or encoder-decoder.

    Sizes are in units of the model (tokens, features, heads). Defaults are BERT's formula (post-LN, learned
    positions, gelu, biases), so that a preset only states where it differs.

    Example:
        >>> TransformerConfig(vocab_size=30522, hidden_size=384, layers=6, heads=12, ffn_size=1536).head_width
        32
    """

    vocab_size: int
    hidden_size: int
    layers: int  # encoder layers, or decoder layers of a decoder-only model
    heads: int
    ffn_size: int
    decoder_layers: int = 0  # > 0 makes an encoder-decoder
    kv_heads: int | None = None  # None: as many as heads; fewer is grouped-query attention
    head_size: int | None = None  # None: hidden_size // heads
    embedding_size: int | None = None  # None: hidden_size; smaller is ALBERT's factorised embedding
    max_length: int = 512  # rows of the learned position table; the longest input a user may give
    segments: int = 0  # rows of the segment (token type) table; BERT has 2
    position: Literal["learned", "sinusoidal", "rotary", "relative", "alibi", "none"] = "learned"
    norm: Literal["layer", "rms"] = "layer"
    norm_placement: Literal["post", "pre"] = "post"
    norm_epsilon: float = 1e-12
    embedding_norm: bool = True  # normalise the sum of the embeddings (BERT); pre-LN models do not
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu"
    gated: bool = False  # GLU: activation(x W_gate) * (x W_up)
    bias: bool = True  # biases in the attention output and the feed-forward network
    qkv_bias: bool | None = None  # None: as bias
    causal: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    tie_embeddings: bool = True
    embedding_scale: float = 1.0  # multiplies token embeddings (sqrt(hidden_size) in Vaswani et al.)
    rope_theta: float = 10_000.0
    relative_buckets: int = 32
    relative_max_distance: int = 128
    initializer_range: float = 0.02
    remat: bool = False  # recompute each block in the backward pass instead of keeping its activations

    def __post_init__(self):
        if self.head_size is None and self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}: change one, or give head_size"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        for name in ("dropout", "attention_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is a share in [0, 1), not {getattr(self, name)}")
        if self.position == "rotary" and self.head_width % 2:
            raise ValueError(f"rotary positions need an even head size, not {self.head_width}")

    @property
    def key_value_heads(self) -> int:
        return self.kv_heads or self.heads

    @property
    def head_width(self) -> int:
        return self.head_size or self.hidden_size // self.heads

    def replace(self, **changes) -> TransformerConfig:
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> TransformerConfig:
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(f"unknown TransformerConfig keys {unknown}: was this folder saved by a newer aillm_tf?")
        return cls(**values)
