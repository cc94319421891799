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
    decoder_vocab_size: int | None = None  # None: source and target share one token table
    kv_heads: int | None = None  # None: as many as heads; fewer is grouped-query attention
    head_size: int | None = None  # None: hidden_size // heads
    embedding_size: int | None = None  # None: hidden_size; smaller is ALBERT's factorised embedding
    max_length: int = 512  # the longest input a user may give; rows of the learned position table that are used
    position_offset: int = 0  # rows before them that no token uses (RoBERTa and BART: 2)
    segments: int = 0  # rows of the segment (token type) table; BERT has 2
    position: Literal["learned", "sinusoidal", "rotary", "relative", "alibi", "none"] = "learned"
    norm: Literal["layer", "rms"] = "layer"
    norm_placement: Literal["post", "pre", "sandwich"] = "post"  # "sandwich": before and after (Gemma 2)
    norm_epsilon: float = 1e-12
    norm_offset: float = 0.0  # added to the scale of an RMSNorm (Gemma: 1, weights start at 0)
    embedding_norm: bool = True  # normalise the sum of the embeddings (BERT); pre-LN models do not
    activation: Literal["gelu", "gelu_tanh", "relu", "silu"] = "gelu"
    gated: bool = False  # GLU: activation(x W_gate) * (x W_up)
    bias: bool = True  # biases in the attention output and the feed-forward network
    qkv_bias: bool | None = None  # None: as bias
    qk_norm: bool = False  # RMSNorm of every head's query and key (Qwen3)
    attention_scale: float | None = None  # None: head width ** -0.5; T5: 1
    attention_softcap: float | None = None  # scores become cap * tanh(scores / cap) (Gemma 2)
    window: int | None = None  # a token sees this many tokens, itself included; None: all
    global_layers: tuple[int, ...] = ()  # layers without the window
    shared_layers: bool = False  # all layers share the weights of layer_0 (ALBERT)
    causal: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0  # inside the feed-forward network (T5)
    tie_embeddings: bool = True
    embedding_scale: float = 1.0  # multiplies token embeddings (sqrt(hidden_size) in Vaswani et al.)
    logit_scale: float = 1.0  # multiplies scores over the vocabulary (T5: hidden_size ** -0.5)
    logit_bias: bool = False  # a bias on them (BART, Marian: final_logits_bias)
    logit_softcap: float | None = None
    rope_theta: float = 10_000.0
    rope_theta_window: float | None = None  # of the layers with a window (Gemma 3); None: rope_theta
    rope_scaling: dict | None = None  # as in config.json: {"rope_type": "linear" | "llama3", "factor": ...}
    relative_buckets: int = 32
    relative_max_distance: int = 128
    initializer_range: float = 0.02
    remat: bool = False  # recompute each block in the backward pass instead of keeping its activations
    cell: Literal["attention", "lstm"] = "attention"  # "lstm": a recurrent decoder; heads and ffn_size are not read
    model_type: str | None = None  # Hugging Face's name of the family whose checkpoint this was; it is saved as that

    def __post_init__(self):
        if self.head_size is None and self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of heads {self.heads}: change one, or give head_size"
            )
        if self.heads % self.key_value_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        if self.cell == "lstm" and (self.position != "none" or self.decoder_layers):
            raise ValueError('an LSTM is a decoder without positions: give position="none" and no decoder_layers')
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} is a share in [0, 1), not {getattr(self, name)}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window {self.window} shows a token not even itself: give at least 1, or None for all")
        if self.norm_offset and self.norm != "rms":
            raise ValueError(f'norm_offset {self.norm_offset} belongs to norm="rms", not to norm={self.norm!r}')
        if self.decoder_vocab_size is not None and not self.decoder_layers:
            raise ValueError("decoder_vocab_size belongs to an encoder-decoder: give decoder_layers too")
        object.__setattr__(self, "global_layers", tuple(self.global_layers))  # a list where it was read from JSON
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
