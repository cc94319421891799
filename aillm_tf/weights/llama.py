"""Llama as Hugging Face writes it, and its kin: Mistral, Qwen2 and Qwen3 (SmolLM is a Llama).

Positions are rotary: an input longer than `max_position_embeddings` is computed, as transformers does, though the model
was not trained on it. Rope scaling is read from the old keys (`rope_theta`, `rope_scaling`) and from the new one
(`rope_parameters`), and written to the old ones, which all versions of transformers read.

Not covered, and refused: rope scaling other than "linear" and "llama3" (dynamic, yarn, longrope), rotary positions of a
part of a head only, biases in the attention but not in the feed-forward network of a Llama or Qwen3 or the other way
round, mixtures of experts.

References: Touvron et al. 2023 (arXiv:2307.09288); Jiang et al. 2023 (arXiv:2310.06825); Qwen Team 2024
(arXiv:2412.15115); Qwen Team 2025 (arXiv:2505.09388)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.family import Family
from aillm_tf.weights.values import positive, table

# kind of rope scaling: the numbers that it needs
_SCALINGS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_FULL, _WINDOW = "full_attention", "sliding_attention"
_MOST_LAYERS = 10_000


def read_rope(parameters: Mapping[str, Any], theta: float, max_length: int) -> dict:
    """The fields of rotary positions.

    Args:
        parameters: a `rope_scaling` or `rope_parameters` of config.json.
        theta: where they do not say.
        max_length: the length that a model is trained on, where they do not say.

    Raises:
        ValueError: a kind of scaling that is not supported, or a number that it lacks.

    Example:
        >>> read_rope({"type": "linear", "factor": 2.0}, 10_000.0, 2048)["rope_scaling"]
        {'rope_type': 'linear', 'factor': 2.0}
    """
    if parameters.get("partial_rotary_factor") not in (None, 1):
        raise ValueError(f"partial_rotary_factor is {parameters['partial_rotary_factor']}, only 1 is supported")
    numbers = {"rope_theta": theta, "original_max_position_embeddings": max_length, **parameters}
    kind = str(parameters.get("rope_type") or parameters.get("type") or "default")
    scaling = None
    if kind != "default":
        if kind not in _SCALINGS:
            raise ValueError(f"rope_scaling has the type {kind!r}: supported are default, {', '.join(_SCALINGS)}")
        missing = [name for name in _SCALINGS[kind] if positive(numbers, name) is None]
        if missing:
            raise ValueError(f"rope_scaling of the type {kind!r} lacks {', '.join(missing)}")
        scaling = {"rope_type": kind, **{name: numbers[name] for name in _SCALINGS[kind]}}
    return {"rope_theta": positive(numbers, "rope_theta"), "rope_scaling": scaling}


def read_layers(values: Mapping[str, Any], window: int | None, windowed: Callable[[int], bool]) -> dict:
    """The fields that say which layers have a window.

    Args:
        values: contents of config.json.
        window: tokens that a layer with a window sees.
        windowed: whether the layer of a number has one, where there are no `layer_types`.

    Raises:
        ValueError: too few or too many types, one that is not supported, or no window for those that need one.

    Example:
        >>> read_layers({"num_hidden_layers": 2}, 4096, lambda i: i == 0)
        {'window': 4096, 'global_layers': (1,)}
    """
    layers, types = positive(values, "num_hidden_layers", int), values.get("layer_types")
    if layers > _MOST_LAYERS:  # before a list of so many is made
        raise ValueError(f"num_hidden_layers is {layers}: no model has so many")
    if types is None:
        types = [_WINDOW if window is not None and windowed(i) else _FULL for i in range(layers)]
    if not isinstance(types, list) or len(types) != layers:
        raise ValueError(f"layer_types is not a list of {layers} entries, one a layer")
    unknown = sorted({str(kind) for kind in types} - {_FULL, _WINDOW})
    if unknown:
        raise ValueError(f"layer_types has {', '.join(unknown)}: supported are {_FULL} and {_WINDOW}")
    full = tuple(i for i, kind in enumerate(types) if kind == _FULL)
    if len(full) == layers:
        return {"window": None, "global_layers": ()}
    if window is None:
        raise ValueError(f"layer_types has {_WINDOW}, but there is no sliding_window")
    return {"window": window, "global_layers": full}


def write_layers(config: TransformerConfig) -> dict:
    """`layer_types` and `sliding_window`, of which `read_layers` makes the same fields."""
    windowed = [config.window is not None and i not in config.global_layers for i in range(config.layers)]
    return {"sliding_window": config.window, "layer_types": [_WINDOW if near else _FULL for near in windowed]}


def read_shared(values: dict) -> dict:
    """The fields that all families here read alike, but for rotary positions."""
    width = positive(values, "head_dim", int)
    return {
        "kv_heads": positive(values, "num_key_value_heads", int),
        "head_size": None if width == values["hidden_size"] / values["num_attention_heads"] else width,
        "tie_embeddings": values["tie_word_embeddings"],
    }


def write_shared(config: TransformerConfig) -> dict:
    """The keys that all families here write alike."""
    return {
        "num_key_value_heads": config.key_value_heads,
        "head_dim": config.head_width,
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
    }


def read_global_rope(values: dict) -> dict:
    """The fields of rotary positions that are the same in all layers."""
    parameters = table(values, "rope_scaling") or table(values, "rope_parameters")
    return read_rope(parameters, values["rope_theta"], values["max_position_embeddings"])


def classes(name: str, bare: str, classifier: str) -> dict:
    """Names of transformers' classes, and the head that each has."""
    architectures = {None: ("lm",), bare: (), f"{name}ForCausalLM": ("lm",), classifier: ("classifier",)}
    saved_as = {None: bare, "causal_lm": f"{name}ForCausalLM", "classification": classifier}
    return {"architectures": architectures, "saved_as": saved_as}


def _classes(name: str) -> dict:
    return classes(name, f"{name}Model", f"{name}ForSequenceClassification")


def _read_llama(values: dict) -> dict:
    attention, ffn = values["attention_bias"], values["mlp_bias"]
    if attention != ffn:
        raise ValueError(f"attention_bias is {attention} and mlp_bias {ffn}: only both or neither is supported")
    return {**read_shared(values), **read_global_rope(values), "bias": ffn, "qkv_bias": attention}


def _write_llama(config: TransformerConfig) -> dict:
    attention = config.bias if config.qkv_bias is None else config.qkv_bias
    return {**write_shared(config), "attention_bias": attention, "mlp_bias": config.bias}


def _read_mistral(values: dict) -> dict:
    return {**read_shared(values), **read_global_rope(values), "window": positive(values, "sliding_window", int)}


def _write_mistral(config: TransformerConfig) -> dict:
    return {**write_shared(config), "sliding_window": config.window}


def _read_qwen(values: dict) -> dict:
    window = positive(values, "sliding_window", int) if values["use_sliding_window"] else None
    first = values["max_window_layers"]
    if not isinstance(first, int):
        raise ValueError(f"max_window_layers is {first!r}, not a number of layers")
    return {**read_shared(values), **read_global_rope(values), **read_layers(values, window, lambda i: i >= first)}


def _write_qwen(config: TransformerConfig) -> dict:
    layers = write_layers(config)
    first = (*layers["layer_types"], _WINDOW).index(_WINDOW)  # what versions read that know no layer_types
    layers |= {"use_sliding_window": config.window is not None, "max_window_layers": first}
    return write_shared(config) | layers


SELF = "model.layers.{i}.self_attn."
MLP = "model.layers.{i}.mlp."
_NORM = "model.layers.{i}."

LLAMA = Family(
    model_type="llama",
    title="Llama",
    sizes={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn_size": "intermediate_size",
        "max_length": "max_position_embeddings",
        "norm_epsilon": "rms_norm_eps",
        "attention_dropout": "attention_dropout",
        "initializer_range": "initializer_range",
    },
    usual={
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "hidden_act": "silu",
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    },
    # the last two: layouts of rotary positions that some checkpoints name
    only={"partial_rotary_factor": 1.0, "rope_interleaved": False, "use_mrope": False},
    fixed={
        "position": "rotary",
        "norm": "rms",
        "norm_placement": "pre",
        "embedding_norm": False,
        "gated": True,
        "bias": False,
        "causal": True,
        "dropout": 0.0,
    },
    read_more=_read_llama,
    write_more=_write_llama,
    prefix="model.",
    roots=("model.", "lm_head.", "score."),
    tensors={
        "backbone/embeddings/token": ("model.embed_tokens.weight",),
        "backbone/encoder/final_norm/scale": ("model.norm.weight",),
    },
    layer={
        "backbone/encoder/layer_{i}/attention/qkv/kernel": (
            SELF + "q_proj.weight",
            SELF + "k_proj.weight",
            SELF + "v_proj.weight",
        ),
        "backbone/encoder/layer_{i}/attention/qkv/bias": (
            SELF + "q_proj.bias",
            SELF + "k_proj.bias",
            SELF + "v_proj.bias",
        ),
        "backbone/encoder/layer_{i}/attention/query_norm/scale": (SELF + "q_norm.weight",),
        "backbone/encoder/layer_{i}/attention/key_norm/scale": (SELF + "k_norm.weight",),
        "backbone/encoder/layer_{i}/attention/out/kernel": (SELF + "o_proj.weight",),
        "backbone/encoder/layer_{i}/attention/out/bias": (SELF + "o_proj.bias",),
        "backbone/encoder/layer_{i}/attention_norm/scale": (_NORM + "input_layernorm.weight",),
        "backbone/encoder/layer_{i}/ffn/up/kernel": (MLP + "gate_proj.weight", MLP + "up_proj.weight"),
        "backbone/encoder/layer_{i}/ffn/up/bias": (MLP + "gate_proj.bias", MLP + "up_proj.bias"),
        "backbone/encoder/layer_{i}/ffn/down/kernel": (MLP + "down_proj.weight",),
        "backbone/encoder/layer_{i}/ffn/down/bias": (MLP + "down_proj.bias",),
        "backbone/encoder/layer_{i}/ffn_norm/scale": (_NORM + "post_attention_layernorm.weight",),
    },
    heads={
        "lm": {"backbone/head/kernel": ("lm_head.weight",)},
        # It reads the last token of a row, and has no bias.
        "classifier": {"classifier/kernel": ("score.weight",)},
    },
    tied={"lm_head.weight": "model.embed_tokens.weight"},
    buffers=(SELF + "rotary_emb.inv_freq",),
    **_classes("Llama"),
)
MISTRAL = dataclasses.replace(
    LLAMA,
    model_type="mistral",
    title="Mistral",
    usual=LLAMA.usual | {"max_position_embeddings": 131_072, "sliding_window": 4096},
    nullable=("sliding_window",),
    read_more=_read_mistral,
    write_more=_write_mistral,
    **_classes("Mistral"),
)
QWEN2 = dataclasses.replace(
    LLAMA,
    model_type="qwen2",
    title="Qwen2",
    usual=LLAMA.usual | {"max_position_embeddings": 32_768, "use_sliding_window": False, "max_window_layers": 28},
    fixed=LLAMA.fixed | {"qkv_bias": True},
    read_more=_read_qwen,
    write_more=_write_qwen,
    **_classes("Qwen2"),
)
QWEN3 = dataclasses.replace(
    QWEN2,
    model_type="qwen3",
    title="Qwen3",
    usual=QWEN2.usual | {"head_dim": 128},
    only=QWEN2.only | {"attention_bias": False},
    fixed=LLAMA.fixed | {"qk_norm": True},
    **_classes("Qwen3"),
)
FAMILIES = (LLAMA, MISTRAL, QWEN2, QWEN3)
