"""Our names of the variables that a model of a configuration has, and the checkpoint's names of the same.

What the layer stack makes of a TransformerConfig stands here once more as a table, so that a checkpoint can be opened,
listed and checked without building a model (and without TensorFlow).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from aillm_tf.models.config import TransformerConfig
from aillm_tf.weights.family import Family

# names of the backbone: whether the layer stack has such a variable
_CONDITIONS: tuple[tuple[str, Callable[[TransformerConfig], bool]], ...] = (
    (r".*attention/qkv/bias", lambda c: c.bias if c.qkv_bias is None else c.qkv_bias),
    (r".*(attention/out|ffn/up|ffn/down)/bias", lambda c: c.bias),
    (r".*norm/bias", lambda c: c.norm == "layer"),
    (r".*embeddings/norm/.*", lambda c: c.embedding_norm),
    (r".*(query_norm|key_norm)/.*", lambda c: c.qk_norm),
    (r".*post_norm/.*", lambda c: c.norm_placement == "sandwich"),
    (r".*final_norm/.*", lambda c: c.norm_placement != "post"),
    (r".*embeddings/projection/.*", lambda c: c.embedding_size not in (None, c.hidden_size)),
    (r".*embeddings/position", lambda c: c.position == "learned"),
    (r".*embeddings/segment", lambda c: c.segments > 0),
    (r".*decoder_embeddings/token", lambda c: c.decoder_vocab_size is not None),
    (r".*/relative", lambda c: c.position == "relative"),
    (r"backbone/head/kernel", lambda c: not c.tie_embeddings),
    (r"backbone/head/bias", lambda c: c.logit_bias),
)
_CONDITIONS = tuple((re.compile(pattern), condition) for pattern, condition in _CONDITIONS)


def has(config: TransformerConfig, name: str) -> bool:
    """Whether a backbone of this configuration has a variable of that name, given that its family may have one."""
    return not name.startswith("backbone/") or all(
        condition(config) for pattern, condition in _CONDITIONS if pattern.fullmatch(name)
    )


def names(family: Family, config: TransformerConfig, heads: Iterable[str] = ()) -> dict[str, tuple[str, ...]]:
    """Our name to the checkpoint's name or names, for a backbone of this configuration and these heads."""
    instead: dict[str, tuple[str, ...]] = {}
    for applies, table in family.instead:
        instead |= table if applies(config) else {}
    found = {ours: instead.get(ours, theirs) for ours, theirs in family.tensors.items()}
    layers = 1 if config.shared_layers else config.layers
    for table, count in ((family.layer, layers), (family.decoder_layer, config.decoder_layers)):
        for i in range(count):
            for ours, theirs in table.items():
                found[ours.format(i=i)] = tuple(name.format(i=i) for name in instead.get(ours, theirs))
    for head in heads:
        found |= family.heads[head]
    return {ours: theirs for ours, theirs in found.items() if has(config, ours)}


def widths(name: str, config: TransformerConfig, parts: int) -> list[int] | None:
    """Sizes along the last axis of what is joined under our name; None: all alike."""
    if parts == 3 and "/qkv/" in name:
        return [config.head_width * heads for heads in (config.heads, config.key_value_heads, config.key_value_heads)]
    return None


def is_turned(family: Family, name: str) -> bool:
    """Whether the checkpoint stores our variable with its two axes the other way round (torch: outputs, inputs)."""
    turned = re.sub(r"/layer_\d+/", "/layer_{i}/", name) in family.turned
    return name.endswith("/kernel") and family.transposed != turned
