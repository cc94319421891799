"""Recipe configs: a dataclass, a YAML file over its defaults, dotted command-line overrides over both.

A recipe declares nested dataclasses and ``main(config: Config) -> dict``, and ends in ``run(main)``. Notable here:

- an unknown key, on the command line or in YAML (named by file and line), is an error that suggests the nearest one;
- a comment beside or above a field is that option's ``--help`` text, so that a recipe states each option once;
- ``main`` is called only after everything has been checked, so a recipe that imports TensorFlow inside ``main``
  answers ``--help`` at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import enum
import inspect
import logging
import os
import re
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from aillm_tf.console import clean_errors, prepare_process

logger = logging.getLogger("aillm_tf")


class ConfigError(ValueError):
    """A config that names an unknown key, lacks a required one, or has a value of the wrong type."""


def run(main: Callable[[Any], dict], argv: Sequence[str] | None = None, prog: str | None = None) -> dict:
    """Reads main's config from the command line and calls main with it.

    Args:
        main: a function of one argument annotated with a dataclass.
        argv: the arguments after the program name; None takes those of this process.
        prog: the name shown in the usage line; None takes that of this process.

    Returns:
        What main returns.

    Raises:
        SystemExit: 0 after ``--help``, 2 after an error of ours (one clean line on stderr), 130 after Ctrl-C.

    Example:
        >>> @dataclasses.dataclass
        ... class Config:
        ...     steps: int = 10
        >>> def main(config: Config) -> dict:
        ...     return {"steps": config.steps}
        >>> run(main, ["--steps", "20"])
        {'steps': 20}
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    prepare_process(debug)
    with clean_errors(debug):
        config = parse(config_class_of(main), [arg for arg in argv if arg != "--debug"], prog, _description(main))
        return main(config)


def config_class_of(main: Callable[[Any], dict]) -> type:
    """The dataclass that annotates main's first argument.

    Raises:
        TypeError: main has no argument annotated with a dataclass.
    """
    name = next(iter(inspect.signature(main).parameters), None)
    config_class = typing.get_type_hints(main).get(name)
    if not dataclasses.is_dataclass(config_class):
        raise TypeError(f"{main.__module__}.main must look like `def main(config: Config) -> dict`, Config a dataclass")
    return config_class


def parse(config_class: type, argv: Sequence[str] = (), prog: str | None = None, description: str | None = None) -> Any:
    """Builds a config from defaults, then ``--config`` files in their order, then the other arguments.

    Args:
        config_class: a dataclass; its fields may be dataclasses.
        argv: command-line arguments, e.g. ``["--config", "a.yaml", "--data.train", "x.tsv"]``.
        prog: the name in the usage line.
        description: the text above the options in ``--help``.

    Returns:
        An instance of config_class.

    Raises:
        ConfigError: what was wrong, with the option's name and, for YAML, the file and line.
        SystemExit: after ``--help``.
    """
    parser = _build_parser(config_class, prog, description)
    files, rest = _take_config_files(list(argv))
    _check_arguments(parser, rest)
    lines: dict[str, str] = {}
    for file in files:
        lines.update(_check_yaml(config_class, Path(file), sorted(_options(parser))))
    given = {argument[2:].partition("=")[0] for argument in rest if argument.startswith("--")}
    try:
        namespace = parser.parse_args([f"--config={file}" for file in files] + rest)
    except argparse.ArgumentError as error:
        raise ConfigError(_explain(error, config_class, {k: v for k, v in lines.items() if k not in given})) from None
    built = parser.instantiate(namespace)
    return config_class(**{field.name: built[field.name] for field in dataclasses.fields(config_class)})


def from_yaml(config_class: type, path: str | os.PathLike) -> Any:
    """Reads a config that to_yaml wrote, or a user's partial one over the defaults; checked as on the command line."""
    return parse(config_class, ["--config", os.fspath(path)])


def to_yaml(config: Any) -> str:
    """The whole resolved config as YAML, keys in the order of the dataclass.

    Example:
        >>> print(to_yaml({"seed": 0, "data": {"train": "a.tsv"}}), end="")
        seed: 0
        data:
          train: a.tsv
    """
    return yaml.safe_dump(to_plain(config), sort_keys=False, allow_unicode=True, width=120)


def to_plain(config: Any) -> Any:
    """The config as dicts, lists, strings, numbers, booleans and None: what YAML and JSON can hold."""
    if dataclasses.is_dataclass(config):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [to_plain(value) for value in config]
    if isinstance(config, enum.Enum):
        return config.value
    return os.fspath(config) if isinstance(config, os.PathLike) else config


def diff(config_a: Any, config_b: Any) -> list[str]:
    """The dotted keys whose values differ, or which only one of the two has, in the order of config_a.

    Example:
        >>> diff({"seed": 0, "data": {"train": "a", "rows": 1}}, {"seed": 0, "data": {"train": "b", "rows": 1}})
        ['data.train']
    """
    a, b = flatten(to_plain(config_a)), flatten(to_plain(config_b))
    missing = object()
    return [key for key in dict.fromkeys([*a, *b]) if a.get(key, missing) != b.get(key, missing)]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one dict with dotted keys.

    Example:
        >>> flatten({"data": {"train": "a"}, "seed": 0})
        {'data.train': 'a', 'seed': 0}
    """
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def did_you_mean(name: str, known: Sequence[str], prefix: str = "") -> str:
    """ ": did you mean X?" for the nearest known name, or "" where none is near.

    A name that is the last part of a dotted one (``train`` for ``data.train``) counts as near.

    Example:
        >>> did_you_mean("data.trian", ["data.train", "seed"], "--")
        ': did you mean --data.train?'
    """
    endings = {key.rpartition(".")[2]: key for key in reversed(known)}
    last = name.rpartition(".")[2]
    near = [endings[last]] if last in endings else difflib.get_close_matches(name, known, n=1)
    near = near or [endings[key] for key in difflib.get_close_matches(last, list(endings), n=1, cutoff=0.75)]
    return f": did you mean {prefix}{near[0]}?" if near else ""


def warn_unused(section: Any, names: str, why: str) -> None:
    """Log which of some options were given, that is differ from their defaults, where they have no effect.

    Args:
        section: a dataclass, named after its part of the config.
        names: of the options, with spaces between.
        why: they have none.

    Example:
        >>> @dataclasses.dataclass
        ... class Model:
        ...     vocab_size: int = 8192
        >>> warn_unused(Model(vocab_size=100), "vocab_size", "it has its own")  # "model.vocab_size is not used: ..."
    """
    fields = {field.name: field.default for field in dataclasses.fields(section)}
    given = [name for name in names.split() if getattr(section, name) != fields[name]]
    for name in given:
        logger.warning("%s.%s is not used: %s", type(section).__name__.lower(), name, why)


def _description(main: Callable) -> str | None:
    return inspect.getdoc(sys.modules.get(main.__module__)) or inspect.getdoc(main)


class _Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the line breaks of the recipe's docstring."""


def _build_parser(config_class: type, prog: str | None, description: str | None) -> jsonargparse.ArgumentParser:
    parser = jsonargparse.ArgumentParser(
        prog=prog,
        description=description,
        exit_on_error=False,
        formatter_class=_Formatter,
        print_config=None,
        usage="%(prog)s [--config FILE] [--section.option VALUE ...]",
    )
    parser.add_argument(
        "--config",
        action="config",
        metavar="FILE",
        help="YAML file with any of these options; the command line wins over it",
    )
    parser.add_class_arguments(config_class, None, fail_untyped=True)
    comments = _comments(config_class)
    for action in parser._actions:
        if _is_group(action):
            action.help = argparse.SUPPRESS
        elif action.dest in comments:
            details = action.help if action.help and action.help != "%(default)s" else ""
            action.help = f"{comments[action.dest]} {details}".strip()
    for group in parser._action_groups:
        if group.title and re.match(r"\w+\(.*\)", group.title):  # the signature that dataclass writes as a docstring
            group.title = group.title.partition("(")[0]
    return parser


def _is_group(action: argparse.Action) -> bool:
    return type(action).__name__ == "_ActionConfigLoad"


def _options(parser: jsonargparse.ArgumentParser) -> set[str]:
    return {a.dest for a in parser._actions if a.option_strings and not _is_group(a) and a.dest not in ("help",)}


def _comments(config_class: type, prefix: str = "") -> dict[str, str]:
    """Dotted option name -> the comment beside its field, or else the comment lines right above it."""
    texts = {}
    try:
        lines = inspect.getsource(config_class).splitlines()
    except (OSError, TypeError):  # defined in an interactive session
        lines = []
    hints = _hints(config_class)
    for field in dataclasses.fields(config_class):
        nested = _as_dataclass(hints[field.name])
        if nested:
            texts.update(_comments(nested, f"{prefix}{field.name}."))
            continue
        for number, line in enumerate(lines):
            if not re.match(rf"\s+{field.name}\s*:", line):
                continue
            beside = re.search(r"\s#\s*(.+)$", line)
            above: list[str] = []
            while number > 0 and lines[number - 1].strip().startswith("#"):
                number -= 1
                above.insert(0, lines[number].strip("# "))
            text = beside.group(1) if beside else " ".join(above)
            if text:
                texts[prefix + field.name] = text
            break
    return texts


def _hints(config_class: type) -> dict[str, Any]:
    return typing.get_type_hints(config_class)


def _as_dataclass(hint: Any) -> type | None:
    """The dataclass in ``X`` or ``X | None``, else None."""
    for choice in (hint, *typing.get_args(hint)):
        if isinstance(choice, type) and dataclasses.is_dataclass(choice):
            return choice
    return None


def _take_config_files(argv: list[str]) -> tuple[list[str], list[str]]:
    """Splits off ``--config FILE``, so that other arguments override the file wherever they stand."""
    files, rest = [], []
    while argv:
        argument = argv.pop(0)
        if argument == "--config":
            if not argv:
                raise ConfigError("--config needs the path of a YAML file")
            files.append(argv.pop(0))
        elif argument.startswith("--config="):
            files.append(argument.partition("=")[2])
        else:
            rest.append(argument)
    return files, rest


def _check_arguments(parser: jsonargparse.ArgumentParser, argv: Sequence[str]) -> None:
    options = sorted(_options(parser))
    groups = {action.dest for action in parser._actions if _is_group(action)}
    for argument in argv:
        if not argument.startswith("--") or argument == "--help":
            continue
        name = argument[2:].partition("=")[0].removesuffix("+")
        inside_dict = any(name.startswith(f"{option}.") for option in options)  # --model.class_weights.spam 2.0
        if name in groups:
            members = [f"--{option}" for option in options if option.startswith(f"{name}.")]
            raise ConfigError(f"--{name} is a group of options: give one of {', '.join(members)}")
        if name not in options and not inside_dict:
            raise ConfigError(f"unknown option --{name}{did_you_mean(name, options, '--')}")


def _check_yaml(config_class: type, path: Path, options: list[str]) -> dict[str, str]:
    """Checks a YAML file's keys against the dataclass; returns where each dotted key stands ("file.yaml:3")."""
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"--config {path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {path}: not UTF-8 text (byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    places: dict[str, str] = {}

    def walk(node: yaml.Node, node_class: type, prefix: str) -> None:
        if not isinstance(node, yaml.MappingNode):
            what = f"--{prefix[:-1]}" if prefix else "the file"
            raise ConfigError(f"{path}:{node.start_mark.line + 1}: {what} must hold `key: value` lines")
        hints = _hints(node_class)
        for key_node, value_node in node.value:
            key = f"{prefix}{key_node.value}"
            place = f"{path}:{key_node.start_mark.line + 1}"
            if key_node.value not in hints:
                raise ConfigError(f"{place}: unknown option --{key}{did_you_mean(key, options, '--')}")
            if key in places:
                raise ConfigError(f"{place}: --{key} is given a second time (first: {places[key]})")
            places[key] = place
            nested = _as_dataclass(hints[key_node.value])
            if nested and not (isinstance(value_node, yaml.ScalarNode) and value_node.value in ("null", "~", "")):
                walk(value_node, nested, f"{key}.")

    if root is None:
        raise ConfigError(f"{path}: the file is empty")
    walk(root, config_class, "")
    return places


def _explain(error: argparse.ArgumentError, config_class: type, places: Mapping[str, str]) -> str:
    """jsonargparse's message in our words: which option, what it takes, what it got."""
    message = str(error)
    found = re.search(r'Parser key "([^"]+)"', message)
    if not found:
        missing = re.search(r"arguments are required: (.+)", message)
        if missing:
            return f"missing {', '.join('--' + name.strip() for name in missing.group(1).split(','))}"
        return " ".join(message.split())
    key = found.group(1)
    place = f"{places[key]}: " if key in places else ""
    got = re.findall(r"Got value: (.*)", message)
    wanted = _type_name(_hint_of(config_class, key))
    if not got or not wanted:
        return f"{place}--{key}: {' '.join(message.partition(chr(10))[2].split()) or message}"
    return f"{place}--{key}: expected {wanted}, got {got[-1].strip()}"


def _hint_of(config_class: type, key: str) -> Any:
    for name in key.split("."):
        hint = _hints(config_class).get(name) if config_class else None
        config_class = _as_dataclass(hint)
    return hint


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is typing.Literal:
        return " or ".join(map(str, typing.get_args(hint)))
    if isinstance(hint, type) and not typing.get_args(hint):
        return hint.__name__
    return str(hint or "").replace("typing.", "")
