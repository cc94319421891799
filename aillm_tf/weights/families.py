"""Which file holds the table of a `model_type`; the files are imported when they are asked for."""

from __future__ import annotations

import importlib

from aillm_tf.weights.family import Family

# model_type in config.json: the module beside this one, with FAMILY or, for kin in one file, FAMILIES.
# A model without a model_type of its own is saved as the first family here whose formula it is.
MODULES = {
    "bert": "bert",
    "distilbert": "distilbert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
    "camembert": "roberta",
    "albert": "albert",
    "electra": "electra",
    "gpt2": "gpt2",
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "t5": "t5",
    "mt5": "t5",
    "bart": "bart",
    "mbart": "bart",
    "marian": "marian",
}


def family(model_type: str | None) -> Family:
    """The table of a `model_type`.

    Raises:
        ValueError: it is not supported; the text lists those that are.

    Example:
        >>> family("bert").name
        'BERT'
    """
    if not isinstance(model_type, str) or model_type not in MODULES:
        raise ValueError(f"model_type {model_type!r} is not supported; supported are {', '.join(MODULES)}")
    module = importlib.import_module(f"aillm_tf.weights.{MODULES[model_type]}")
    tables = getattr(module, "FAMILIES", None) or (module.FAMILY,)
    return next(table for table in tables if table.model_type == model_type)


def all_families() -> list[Family]:
    """Every table, in the order in which :func:`aillm_tf.weights.saving.family_of` tries them."""
    return [family(model_type) for model_type in MODULES]
