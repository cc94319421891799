"""How a checkpoint wants to be decoded: generation_config.json, or what stood in config.json before there was one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FILE = "generation_config.json"

# What config.json holds of it in checkpoints written before generation_config.json existed, and special tokens.
_IN_CONFIG = (
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "max_length",
    "min_length",
    "num_beams",
    "length_penalty",
    "early_stopping",
    "no_repeat_ngram_size",
    "repetition_penalty",
)
_ABOUT_THE_FILE = ("_from_model_config", "transformers_version")


def read_generation(values: Mapping[str, Any], written: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a checkpoint says about decoding.

    Args:
        values: contents of its config.json.
        written: contents of its generation_config.json, which then says all; None: it has none.

    Returns:
        Settings by their names in transformers' ``GenerationConfig``; those that say nothing (null) are left out.

    Example:
        >>> read_generation({"d_model": 512, "eos_token_id": 1, "num_beams": 4}, None)
        {'eos_token_id': 1, 'num_beams': 4}
    """
    found = {key: values[key] for key in _IN_CONFIG if key in values} if written is None else written
    return {key: value for key, value in found.items() if value is not None and key not in _ABOUT_THE_FILE}
