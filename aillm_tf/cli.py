"""The ``aillm`` command: the verbs (`aillm_tf.verbs`), and ``train``, whose options are those of a recipe."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from aillm_tf import config as configs
from aillm_tf.console import clean_errors, prepare_process
from aillm_tf.verbs import VERBS
from aillm_tf.version import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the arguments after ``aillm``; None takes those of this process.

    Returns:
        The exit status.

    Raises:
        SystemExit: 0 after ``--help``, 2 after an error of ours, 130 after Ctrl-C.

    Example:
        >>> main(["predict", "runs/quickstart", "what a lovely day"])  # doctest: +SKIP
        {"text": "what a lovely day", "label": "positive", "score": 0.97, ...}
        0
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in argv
    argv = [argument for argument in argv if argument != "--debug"]
    prepare_process(debug)
    with clean_errors(debug):
        # Everything after the recipe's name belongs to the recipe, --help included: argparse must not see it.
        if argv[:1] == ["train"] and argv[1:] and argv[1] not in ("-h", "--help"):
            return train(argv[1], argv[2:] + ["--debug"] * debug)
        if argv[:1] == ["quickstart"]:
            return train("quickstart", argv[1:] + ["--debug"] * debug, prog="aillm quickstart")
        known = ("quickstart", "train", *VERBS)
        if argv and not argv[0].startswith("-") and argv[0] not in known:
            raise ValueError(
                f"unknown verb {argv[0]!r}{configs.did_you_mean(argv[0], known)} Verbs: {', '.join(known)}"
            )
        arguments = _parser().parse_args(argv)
        return arguments.verb(arguments)


def train(recipe: str, argv: Sequence[str], prog: str | None = None) -> int:
    """Runs a recipe by name or by the path of its .py file, with its own options; with ``--seeds N``, N times."""
    module, prog = load_recipe(recipe), prog or f"aillm train {recipe}"
    own = argparse.ArgumentParser(prog, add_help=False, allow_abbrev=False, exit_on_error=False)
    own.add_argument("--seeds", type=int)
    try:
        given, of_the_recipe = own.parse_known_args(argv)
    except argparse.ArgumentError as error:
        raise ValueError(str(error).removeprefix("argument ")) from None
    if given.seeds is None:
        configs.run(module.main, argv, prog)
    else:
        from aillm_tf.training.seeds import train_seeds

        train_seeds(recipe, module.main, of_the_recipe, given.seeds, prog)
    return 0


def recipe_files() -> dict[str, Path]:
    """Name and file of every recipe of this installation, in alphabetical order."""
    # In a checkout that is not installed, the recipes lie beside the package.
    folders = _installed_recipes() or [str(Path(__file__).parents[1] / "recipes")]
    names = sorted(module.name for module in pkgutil.iter_modules(folders) if not module.name.startswith("_"))
    return {name: next(p for f in folders if (p := Path(f, f"{name}.py")).exists()) for name in names}


def _installed_recipes() -> list[str]:
    spec = importlib.util.find_spec("aillm_tf.recipes")
    return list(spec.submodule_search_locations) if spec else []


def load_recipe(recipe: str) -> ModuleType:
    """Imports a recipe.

    Args:
        recipe: a name that ``aillm train --help`` lists, or the path of a .py file.

    Returns:
        A module with ``main(config: Config) -> dict``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such recipe (the nearest is suggested), or the file is not a recipe.
    """
    known = recipe_files()
    if recipe.endswith(".py") or os.sep in recipe:
        path = Path(recipe)
        if not path.is_file():
            raise FileNotFoundError(f"no recipe file {recipe}; recipes by name: {', '.join(known)}")
    elif recipe in known:
        path = known[recipe]
    else:
        raise ValueError(
            f"unknown recipe {recipe!r}{configs.did_you_mean(recipe, list(known))} Recipes: {', '.join(known)}, "
            "or the path of a .py file"
        )
    if recipe in known and _installed_recipes():
        module = importlib.import_module(f"aillm_tf.recipes.{recipe}")
    else:
        sys.path.insert(0, str(path.resolve().parent))  # as `python my_recipe.py` would: it may import its neighbours
        spec = importlib.util.spec_from_file_location(f"aillm_recipe_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and type hints look their module up there
        spec.loader.exec_module(module)
    if not callable(getattr(module, "main", None)):
        raise ValueError(f"{path} is not a recipe: it must define a dataclass Config and `def main(config: Config)`")
    return module


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="aillm",
        description="Train and ship NLP models with TensorFlow and Keras 3.",
        epilog="`aillm VERB --help` explains one verb. --debug, anywhere, shows tracebacks (so does AILLM_DEBUG=1).",
    )
    parser.add_argument("--version", action="version", version=f"aillm_tf {__version__}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)

    verbs.add_parser("quickstart", help="fine-tune, score, export and answer on real tweets, in 5 minutes on a laptop")
    recipes = "\n".join(_recipe_lines())
    verb = verbs.add_parser(
        "train",
        help="run a recipe",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Run a recipe. `aillm train RECIPE --help` lists its options. With --seeds N it runs with N seeds,"
        f" in OUT/seed_0 and on, and OUT/report.html has mean and standard deviation.\n\nrecipes:\n{recipes}",
    )
    verb.add_argument("recipe", metavar="RECIPE", help="one of the above, or the path of a .py file like them")

    for name in VERBS:
        module = importlib.import_module(f"aillm_tf.verbs.{name}")
        summary = module.__doc__.partition("\n")[0]
        verb = verbs.add_parser(name, help=summary[0].lower() + summary[1:].rstrip("."), description=module.__doc__)
        module.arguments(verb)
        verb.set_defaults(verb=module.run)
    return parser


def _recipe_lines() -> Iterator[str]:
    """Name and first docstring line of each recipe, read without importing it."""
    for name, path in recipe_files().items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        yield f"  {name:<16} {docstring.partition(chr(10))[0]}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
