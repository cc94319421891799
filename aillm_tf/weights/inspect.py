"""What a checkpoint is, as ``aillm inspect`` prints it; nothing of it is loaded into a model."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections import Counter

from aillm_tf.weights import families
from aillm_tf.weights.loading import Pretrained
from aillm_tf.weights.sources import open_source, tokenizer_of
from aillm_tf.weights.tensor_file import FLOATS


def describe(source: str | os.PathLike) -> str:
    """Family, architecture, config, parameters, types, tokenizer and tensors of a checkpoint.

    Args:
        source: see :func:`aillm_tf.weights.sources.open_source`.

    Returns:
        Text of several lines. Layers that are alike share a line of the table.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as `open_source`.

    Example:
        >>> print(describe("tests/golden/bert_classifier").splitlines()[0])
        family        BERT (bert)
    """
    pretrained = open_source(source)
    config = pretrained.config
    sizes = {name: math.prod(shape) for name, shape in pretrained.shapes.items()}
    parts = Counter()
    for name, size in sizes.items():
        parts[name.partition("/")[0]] += size
    types = Counter()
    for found in pretrained.stored.values():
        for tensor in found:
            types[FLOATS[tensor.dtype].name] += math.prod(tensor.shape)
    facts = {
        "family": f"{families.family(config.model_type).name} ({config.model_type})" if config.model_type else None,
        "architecture": pretrained.architecture,
        "folder": str(pretrained.folder),
        "parameters": f"{sum(sizes.values()):,} ({', '.join(f'{part} {size:,}' for part, size in parts.items())})",
        "type": ", ".join(types)
        if len(types) < 2
        else ", ".join(f"{name} ({size:,} parameters)" for name, size in types.most_common()),
        "config": _config(pretrained),
        "classes": ", ".join(pretrained.labels or ()),
        "tokenizer": _tokenizer(pretrained),
        "not used": ", ".join(pretrained.unused),
    }
    lines = [f"{name:<13} {value}" for name, value in facts.items() if value]
    return "\n".join([*lines, "", *_table(pretrained)])


def _config(pretrained: Pretrained) -> str:
    """The settings that are not the usual ones of a TransformerConfig, and the sizes."""
    shown = []
    for field in dataclasses.fields(pretrained.config):
        value = getattr(pretrained.config, field.name)
        if field.name == "max_length" or (field.name != "model_type" and value != field.default):
            shown.append(f"{field.name} {value}")
    return ", ".join(shown)


def _tokenizer(pretrained: Pretrained) -> str:
    try:
        tokenizer = tokenizer_of(pretrained)
    except ValueError as error:
        return f"cannot be read: {error}"
    return "none" if tokenizer is None else f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens"


def _table(pretrained: Pretrained) -> list[str]:
    """A line for each variable, those of layers that are alike on one."""
    layers: dict[tuple, list[int]] = {}
    for name, shape in pretrained.shapes.items():
        found = pretrained.stored.get(name, ())
        number = re.search(r"/layer_(\d+)/", name)
        generic, theirs = name, " + ".join(tensor.name for tensor in found)
        if number:
            generic = name.replace(number[0], "/layer_{i}/")
            theirs = re.sub(rf"(?<=\.){number[1]}(?=\.)", "{i}", theirs, count=len(found))
        kind = "/".join(dict.fromkeys(FLOATS[tensor.dtype].name for tensor in found))
        layers.setdefault((generic, shape, kind, theirs), []).append(int(number[1]) if number else -1)
    rows = [("variable", "shape", "type", "in the checkpoint")]
    for (name, shape, kind, theirs), numbers in layers.items():
        first, last = min(numbers), max(numbers)
        if first >= 0:
            spelt = f"{first}-{last}" if len(numbers) == last - first + 1 > 1 else ",".join(map(str, numbers))
            name = name.replace("{i}", "{" + spelt + "}" if len(numbers) > 1 else spelt)
            theirs = theirs.replace("{i}", "{" + spelt + "}" if len(numbers) > 1 else spelt)
        rows.append((name, " x ".join(map(str, shape)) or "1", kind, theirs))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return [
        "  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]).rstrip() for row in rows
    ]
