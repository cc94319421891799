"""config.json to TransformerConfig and back, by a family's table."""

from __future__ import annotations

import dataclasses
import math
import numbers

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.family import Family

# Fields that change training but not what the weights compute, or that matter only beside another.
_TRAINING = {"dropout", "attention_dropout", "activation_dropout", "initializer_range", "remat", "model_type"}
_ONLY_WITH = {
    "rotary": {"rope_theta", "rope_theta_window", "rope_scaling"},
    "relative": {"relative_buckets", "relative_max_distance"},
}
_AT_LEAST_ONE = {"vocab_size", "hidden_size", "embedding_size", "layers", "heads", "kv_heads", "head_size", "ffn_size"}
_AT_LEAST_ONE |= {"max_length", "segments"}
_REAL = {field.name for field in dataclasses.fields(TransformerConfig) if isinstance(field.default, float)}
_KINDS = {numbers.Real: "a number", numbers.Integral: "a whole number"}


def read_config(values: dict, family: Family) -> TransformerConfig:
    """Reads the contents of a ``config.json``.

    Args:
        values: what stands in the file.
        family: its table.

    Raises:
        ValueError: it lacks a size, or asks for something that the layer stack does not do.

    Example:
        >>> from aillm_tf.weights.bert import FAMILY
        >>> sizes = dict(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
        >>> read_config(sizes, FAMILY).segments
        2
    """
    for key, only in family.only.items():
        if values.get(key, only) not in (only, None):
            raise ValueError(f"{key} is {values[key]!r}, only {only!r} is supported for {family.name}")
    given = {key: value for key, value in values.items() if value is not None or key in family.nullable}
    values = {**family.usual, **given}
    fields = dict(family.fixed)
    needed = [*family.sizes.values(), *([family.activation] if family.activation else [])]
    missing = [key for key in needed if key not in values]
    if missing:
        raise ValueError(f"has no {', '.join(missing)}")
    for field, key in family.sizes.items():
        value = values[key]
        least = 1 if field in _AT_LEAST_ONE else 0
        kind = numbers.Real if field in _REAL else numbers.Integral
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value < math.inf:
            raise ValueError(f"{key} is {value!r}, not {_KINDS[kind]} of at least {least}")
        fields[field] = value
    if family.activation:
        name = values[family.activation]
        if not isinstance(name, str) or name not in family.activations:
            raise ValueError(f"{family.activation} is {name!r}, supported are {', '.join(family.activations)}")
        fields["activation"] = family.activations[name]
    if family.read_more:
        fields |= family.read_more(values)
    return TransformerConfig(**fields)


def write_config(config: TransformerConfig, family: Family) -> dict:
    """Returns the contents of ``config.json`` (without what the tokenizer and the head add).

    What is written is read again: only where that gives the same formula does the family have the model.

    Raises:
        ValueError: the config is not this family's formula, so no model of it would give the same numbers.

    Example:
        >>> from aillm_tf.weights.bert import FAMILY
        >>> config = TransformerConfig(vocab_size=9, hidden_size=4, layers=1, heads=2, ffn_size=8, segments=2)
        >>> write_config(config, FAMILY)["num_attention_heads"]
        2
    """
    ours = _formula(config, family)
    refused = f"this model is not a {family.name} and cannot be saved as one: "
    values = {key: ours[field] for field, key in family.sizes.items()}
    if family.activation:
        activations = {field: name for name, field in family.activations.items()}
        if config.activation not in activations:
            raise ValueError(f"{refused}activation={config.activation!r}")
        values[family.activation] = activations[config.activation]
    values = {"model_type": family.model_type, **values, "tie_word_embeddings": config.tie_embeddings}
    try:
        if family.write_more:
            values |= family.write_more(config)
        theirs = _formula(read_config(values, family), family)
    except ValueError as error:
        raise ValueError(f"{refused}{error}") from error
    differs = [f"{field}={ours[field]!r}" for field in ours if ours[field] != theirs.get(field)]
    if differs:
        raise ValueError(refused + ", ".join(differs))
    return values


def _formula(config: TransformerConfig, family: Family) -> dict:
    """The fields by value, each default spelled out, those that compute nothing set aside."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    fields["kv_heads"], fields["head_size"] = config.key_value_heads, config.head_width
    fields["embedding_size"] = config.embedding_size or config.hidden_size
    fields["qkv_bias"] = config.bias if config.qkv_bias is None else config.qkv_bias
    if config.rope_theta_window is None:
        fields["rope_theta_window"] = config.rope_theta
    fields["global_layers"] = tuple(config.global_layers) if config.window else ()
    ignored = _TRAINING.union(*(others for position, others in _ONLY_WITH.items() if position != config.position))
    if config.position != "learned":
        ignored.add("max_length")  # then it is the user's limit, not the model's
    ignored -= set(family.sizes)
    return {name: value for name, value in fields.items() if name not in ignored}
