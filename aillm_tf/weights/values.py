"""JSON files of checkpoints, and checked values of config.json for what a family reads itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def positive(values: Mapping[str, Any], key: str, kind: type = int | float) -> Any:
    """The positive number under a key, or None where there is none.

    Args:
        values: a table of config.json.
        key: of the number.
        kind: int, or any number.

    Raises:
        ValueError: it is something else.

    Example:
        >>> positive({"head_dim": 64}, "head_dim", int)
        64
    """
    value = values.get(key)
    if value is not None and (not isinstance(value, kind) or not value > 0):
        raise ValueError(f"{key} is {value!r}, not a positive {'whole ' if kind is int else ''}number")
    return value


def table(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The table of settings under a key, empty where there is none.

    Args:
        values: a table of config.json.
        key: of the inner table.

    Raises:
        ValueError: it is something else.

    Example:
        >>> table({"rope_scaling": None}, "rope_scaling")
        {}
    """
    value = values.get(key) or {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} is {value!r}, not a table of settings")
    return value


def read_json(file: Path, kind: str) -> dict[str, Any]:
    """The table that a JSON file of a checkpoint holds.

    Args:
        file: its path.
        kind: what its folder should be, for the error: "a KerasHub preset".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, or not a table.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{file.parent}: has no {file.name}; is it {kind}?") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: not a table of settings but {type(values).__name__}")
    return values
