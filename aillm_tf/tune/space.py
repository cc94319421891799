"""Search spaces: which options of a recipe are tried, between which bounds.

A space is a dict from dotted option to what is tried, as text:

    loguniform:1e-5,1e-3     a number, evenly by its logarithm
    uniform:0,0.3            a number
    int:1,8                  a whole number, both ends included
    choice:16,32,64          one of these (YAML values)
    around:8                 a number from an eighth of the configured value to eight times it, evenly by its logarithm
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from aillm_tf.config import did_you_mean

RATE = {"training.learning_rate": "around:8"}
FINE_TUNING = {**RATE, "training.batch_size": "choice:16,32,64", "training.weight_decay": "choice:0.0,0.01,0.1"}
# what is tried where the user names nothing; a recipe that is not listed tries its learning rate
DEFAULTS: dict[str, dict[str, str]] = {
    "classification": {**FINE_TUNING, "training.warmup": "choice:0.0,0.1,0.2"},
    "ner": {**FINE_TUNING, "training.warmup": "choice:0.0,0.1,0.2"},
    "question_answering": {**FINE_TUNING, "training.warmup": "choice:0.0,0.1,0.2"},
    "translation": {**RATE, "model.label_smoothing": "uniform:0,0.2", "training.warmup": "choice:0.05,0.1,0.2"},
    "summarization": {**RATE, "model.label_smoothing": "uniform:0,0.2", "training.warmup": "choice:0.05,0.1,0.2"},
    "generation": {**RATE, "training.weight_decay": "choice:0.0,0.01,0.1", "model.label_smoothing": "uniform:0,0.1"},
    "pretrain": {**RATE, "training.weight_decay": "choice:0.0,0.01,0.1", "training.batch_size": "choice:32,64,128"},
}
# the validation score that decides
METRICS = {"classification": "accuracy", "ner": "f1", "question_answering": "f1"}
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_byte", "ter")  # ends of names
KINDS = ("loguniform", "uniform", "int", "choice", "around")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """What is tried of one option.

    Args:
        kind: "loguniform", "uniform", "int" or "choice".
        default: the configured value, which is among those tried.
        low, high: bounds.
        choices: values.
    """

    kind: str
    default: Any
    low: float = 0.0
    high: float = 0.0
    choices: tuple = ()

    def suggest(self, trial, name: str) -> Any:
        """A value for an Optuna trial."""
        if self.kind == "choice":
            return trial.suggest_categorical(name, self.choices)
        if self.kind == "int":
            return trial.suggest_int(name, int(self.low), int(self.high))
        return trial.suggest_float(name, self.low, self.high, log=self.kind == "loguniform")


def parameters(space: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Parameter]:
    """The parameters of a space; bounds and choices are widened where the configured value lies outside.

    Args:
        space: option -> what is tried.
        config: dotted option -> configured value.

    Raises:
        ValueError: an unknown option, or text that says no search.

    Example:
        >>> parameters({"training.learning_rate": "around:10"}, {"training.learning_rate": 1e-4})
        {'training.learning_rate': Parameter(kind='loguniform', default=0.0001, low=1e-05, high=0.001, choices=())}
    """
    if not space:
        raise ValueError("nothing to search: give --search.OPTION, such as --search.training.learning_rate around:8")
    found = {}
    for name, text in space.items():
        if name not in config:
            raise ValueError(f"--search.{name}: the recipe has no such option{did_you_mean(name, list(config))}")
        try:
            found[name] = _parameter(str(text), config[name])
        except (ValueError, TypeError, yaml.YAMLError) as error:
            raise ValueError(f"--search.{name} {text}: {error}") from None
    return found


def _parameter(text: str, default: Any) -> Parameter:
    kind, colon, rest = text.partition(":")
    if kind not in KINDS or not colon:
        raise ValueError(f"give {', '.join(f'{kind}:...' for kind in KINDS)}, as in loguniform:1e-5,1e-3")
    if kind == "choice":
        choices = tuple(_number(value, default) for value in yaml.safe_load(f"[{rest}]"))
        for value in (*choices, default):
            if not isinstance(value, (str, int, float, bool, type(None))):
                raise ValueError(f"a choice is among numbers, texts, true, false and null, not {value!r}")
        return Parameter("choice", default, choices=choices if default in choices else (default, *choices))
    if isinstance(default, bool) or not isinstance(default, (int, float)):
        raise ValueError(f"the configured value is {default!r}, which no interval holds: give one, or choice:...")
    numbers = [float(number) for number in rest.split(",")]
    if kind == "around":
        (factor,) = numbers
        kind, numbers = "loguniform", sorted((default / factor, default * factor))
    if len(numbers) != 2:
        raise ValueError("give two bounds")
    low, high = min(numbers[0], default), max(numbers[1], default)
    whole = all(float(number).is_integer() for number in (*numbers, default))
    if not low < high or (kind == "loguniform" and low <= 0) or (kind == "int" and not whole):
        raise ValueError("give a lower and a higher bound, whole ones for int, above 0 for loguniform and around")
    return Parameter(kind, default, low, high)


def _number(value: Any, default: Any) -> Any:
    """1e-5 as a number, which is a text in YAML 1.1, unless the option holds texts."""
    if not isinstance(value, str) or isinstance(default, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value


def take_space(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Splits ``--search FILE`` and ``--search.OPTION TEXT`` off the options of a recipe.

    Args:
        argv: options.

    Returns:
        The space, where single options win over files, and the other options.

    Raises:
        ValueError: a value is missing, or a file is no mapping.

    Example:
        >>> take_space(["--seed", "1", "--search.training.epochs", "int:1,3"])
        ({'training.epochs': 'int:1,3'}, ['--seed', '1'])
    """
    space: dict[str, str] = {}
    single: dict[str, str] = {}
    rest, left = [], list(argv)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name != "--search" and not name.startswith("--search."):
            rest.append(name + equals + value)
            continue
        if not equals:
            if not left:
                raise ValueError(f"{name} needs a value")
            value = left.pop(0)
        if name == "--search":
            content = yaml.safe_load(Path(value).read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError(f"{value}: must hold lines like `training.learning_rate: loguniform:1e-5,1e-3`")
            space |= content
        else:
            single[name.removeprefix("--search.")] = value
    return {**space, **single}, rest
