"""The ``aillm`` command: one verb per stage, from raw text to answers.

Each verb imports what it needs when it runs, so that ``aillm --help`` never waits for TensorFlow.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import json
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

from aillm_tf import config as configs
from aillm_tf.console import clean_errors, prepare_process
from aillm_tf.version import __version__

VERBS = ["quickstart", "train", "evaluate", "predict", "export", "convert", "inspect", "doctor"]
CHUNK = 256  # texts answered, and written, at a time


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
        if argv and not argv[0].startswith("-") and argv[0] not in VERBS:
            raise ValueError(
                f"unknown verb {argv[0]!r}{configs.did_you_mean(argv[0], VERBS)} Verbs: {', '.join(VERBS)}"
            )
        arguments = _parser().parse_args(argv)
        return arguments.verb(arguments)


def train(recipe: str, argv: Sequence[str], prog: str | None = None) -> int:
    """Runs a recipe by name or by the path of its .py file, with its own options."""
    module = load_recipe(recipe)
    configs.run(module.main, argv, prog or f"aillm train {recipe}")
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """Answers texts with a run or an export; one JSON object a line."""
    if bool(arguments.texts) == bool(arguments.input):
        raise ValueError("give either texts to answer or --input FILE ('-' for standard input), not both or neither")
    texts = read_lines(arguments.input) if arguments.input else list(arguments.texts)
    answer = answerer(find_model(arguments.model))
    with open(arguments.output, "w", encoding="utf-8") if arguments.output else nullcontext(sys.stdout) as output:
        for start in range(0, len(texts), CHUNK):
            chunk = texts[start : start + CHUNK]
            for text, answered in zip(chunk, answer(chunk), strict=True):
                print(json.dumps({"text": text, **answered}, ensure_ascii=False), file=output)
            output.flush()
    return 0


def evaluate(arguments: argparse.Namespace) -> int:
    """Scores a run on labelled data."""
    from aillm_tf.training.evaluate import evaluate_run

    folder = find_model(arguments.run, exports=False)
    scores = evaluate_run(
        folder, arguments.data, arguments.batch_size, progress=sys.stdout.isatty() and not arguments.json
    )
    print(json.dumps(scores, ensure_ascii=False) if arguments.json else scores_table(scores))
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Writes a run's model as a SavedModel: strings in, answers out."""
    import aillm_tf

    folder = Path(arguments.folder or Path(arguments.run, "export", "1"))
    aillm_tf.load(find_model(arguments.run, exports=False)).export(folder)
    print(f"exported to {folder}; how to serve it: {folder / 'serving' / 'README.md'}")
    return 0


def convert(arguments: argparse.Namespace) -> int:
    """Writes a checkpoint of any kind as a folder for transformers or for this package, and compares both."""
    from aillm_tf.weights.convert import convert, report

    converted = convert(arguments.source, arguments.destination, dtype=arguments.dtype, to=arguments.to)
    print(report(converted, arguments.destination))
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """Says what a checkpoint is."""
    from aillm_tf.weights.inspect import describe

    print(describe(arguments.source))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Checks this machine; 1 if something would stop training."""
    from aillm_tf.doctor import examine

    return examine()


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


def find_model(path: str, exports: bool = True) -> Path:
    """The folder to load inside a run, a saved model or an export (whose newest version is taken).

    Args:
        path: what the user named.
        exports: whether an export will do.

    Returns:
        A folder with task.json, or with saved_model.pb.

    Raises:
        FileNotFoundError: what was looked for and what to do.
    """
    root = Path(path)
    for folder in (root / "model", root / "pretrained" / "model", root):
        if (folder / "task.json").is_file():
            return folder
    versions = sorted((p for p in root.glob("*/saved_model.pb") if p.parent.name.isdigit()), key=_version)
    for file in (root / "saved_model.pb", *reversed(versions)):
        if exports and file.is_file():
            return file.parent
    if not root.exists():
        raise FileNotFoundError(f"{path}: no such folder")
    if (root / "config.yaml").is_file():
        raise FileNotFoundError(f"{path} is a run without a model: train it to the end with the same command as before")
    wanted = "a run (model/task.json)" + (" or an export (saved_model.pb)" if exports else "")
    raise FileNotFoundError(f"{path} is not {wanted}")


def answerer(folder: Path) -> Callable[[list[str]], list[dict]]:
    """A function from texts to answers; the parts of a pair are separated by a tab.

    Args:
        folder: what find_model gave. An export needs only TensorFlow and tensorflow-text.

    Returns:
        texts -> one dict a text, e.g. ``{"label": "positive", "score": 0.98, "probabilities": {...}}``.
    """
    from aillm_tf.export.client import columns_of, read_rows

    if (folder / "task.json").is_file():
        import aillm_tf

        task = aillm_tf.load(folder)
        inputs = list(task.serving_inputs)

        def from_task(texts: list[str]) -> list[dict]:
            columns = columns_of(texts, inputs)
            return task.answer(list(zip(*columns.values(), strict=True)) if len(inputs) > 1 else texts)

        return from_task

    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers the ops of the tokenizer in the graph

    loaded = tf.saved_model.load(str(folder))
    function = loaded.signatures["serving_default"]
    about_file = folder / "serving" / "model.json"
    about = json.loads(about_file.read_text(encoding="utf-8")) if about_file.is_file() else {}
    inputs = about.get("inputs") or sorted(function.structured_input_signature[1], key=lambda name: name != "text")

    def from_export(texts: list[str]) -> list[dict]:
        outputs = function(**{name: tf.constant(column) for name, column in columns_of(texts, inputs).items()})
        names = sorted(about.get("outputs") or outputs, key=lambda name: name == "probabilities")  # the longest last
        columns = {name: _plain(outputs[name].numpy()) for name in names}
        return read_rows(columns, about.get("labels", []))

    from_export.loaded = loaded  # the signature does not keep its variables alive
    return from_export


def read_lines(source: str) -> list[str]:
    """The lines of a UTF-8 file, or of standard input for '-'; an empty line is a text too.

    Raises:
        ValueError: a line is not UTF-8; names it.
    """
    data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    texts = []
    for number, line in enumerate(lines, start=1):
        try:
            texts.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            name = "standard input" if source == "-" else source
            raise ValueError(f"{name}:{number}: not UTF-8 text (byte {error.start + 1} of the line)") from None
    return texts


def scores_table(scores: dict[str, float]) -> str:
    """Scores as aligned lines; a score with an interval shows it on the same line.

    Example:
        >>> print(scores_table({"accuracy": 0.77, "accuracy_low": 0.7546, "accuracy_high": 0.7847, "examples": 3000}))
        accuracy  0.7700  (95 %: 0.7546 to 0.7847)
        examples    3000
    """
    rows = []
    for name, value in scores.items():
        base, _, end = name.rpartition("_")
        if end in ("low", "high") and base in scores:
            continue
        low, high = scores.get(f"{name}_low"), scores.get(f"{name}_high")
        interval = f"  (95 %: {low:.4f} to {high:.4f})" if low is not None and high is not None else ""
        rows.append((name, f"{value:.4f}" if isinstance(value, float) else str(value), interval))
    width, digits = max(len(row[0]) for row in rows), max(len(row[1]) for row in rows)
    return "\n".join(f"{name:<{width}}  {value:>{digits}}{interval}" for name, value, interval in rows)


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
        description=f"Run a recipe. `aillm train RECIPE --help` lists its options.\n\nrecipes:\n{recipes}",
    )
    verb.add_argument("recipe", metavar="RECIPE", help="one of the above, or the path of a .py file like them")

    verb = verbs.add_parser("evaluate", help="score a run on labelled data")
    verb.add_argument("run", metavar="RUN", help="run directory, or a saved model")
    verb.add_argument("--data", required=True, metavar="URI", help="labelled rows: a file, tfds:, hf: or pypi: uri")
    verb.add_argument("--batch_size", type=_positive, default=64, metavar="N", help="rows at a time (default: 64)")
    verb.add_argument("--json", action="store_true", help="print JSON instead of a table")
    verb.set_defaults(verb=evaluate)

    verb = verbs.add_parser("predict", help="answer texts with a run or an export")
    verb.add_argument("model", metavar="RUN|EXPORT", help="run directory, saved model, or exported SavedModel")
    verb.add_argument("texts", nargs="*", metavar="TEXT", help="texts; the parts of a pair are separated by a tab")
    verb.add_argument("--input", metavar="FILE", help="one text a line; '-' is standard input")
    verb.add_argument("--output", metavar="FILE", help="write JSON lines there instead of to standard output")
    verb.set_defaults(verb=predict)

    verb = verbs.add_parser("export", help="write a run's model as a SavedModel for TF Serving")
    verb.add_argument("run", metavar="RUN", help="run directory, or a saved model")
    verb.add_argument("folder", nargs="?", metavar="DIR", help="new folder (default: RUN/export/1)")
    verb.set_defaults(verb=export)

    sources = "folder, run, hf:org/name[@revision], pypi:, tfhub:, keras_hub: or tf1: source"
    verb = verbs.add_parser("convert", help="write a checkpoint as another kind, and compare both")
    verb.add_argument("source", metavar="SOURCE", help=sources)
    verb.add_argument("destination", metavar="DESTINATION", help="new or empty folder")
    verb.add_argument(
        "--dtype", choices=["float32", "float16", "bfloat16"], help="of the weights (default: as they are)"
    )
    verb.add_argument(
        "--to", choices=["huggingface", "aillm"], default="huggingface", help="layout (default: huggingface)"
    )
    verb.set_defaults(verb=convert)

    verb = verbs.add_parser("inspect", help="family, configuration, parameters and tensors of a checkpoint")
    verb.add_argument("source", metavar="SOURCE", help=sources)
    verb.set_defaults(verb=inspect)

    verb = verbs.add_parser("doctor", help="check versions, devices and memory; say what to do about problems")
    verb.set_defaults(verb=doctor)
    return parser


def _recipe_lines() -> Iterator[str]:
    """Name and first docstring line of each recipe, read without importing it."""
    for name, path in recipe_files().items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        yield f"  {name:<16} {docstring.partition(chr(10))[0]}".rstrip()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def _version(file: Path) -> int:
    return int(file.parent.name)


def _plain(array) -> list:
    """A numpy array as JSON-ready lists; strings are bytes in TensorFlow."""
    if array.dtype == object:
        return [item.decode("utf-8") if isinstance(item, bytes) else _plain(item) for item in array]
    return array.tolist()


if __name__ == "__main__":
    sys.exit(main())
