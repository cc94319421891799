"""Score a run, an export or a pretrained checkpoint on labelled data, with confidence intervals; compare two.

Intervals hold 95 of 100 bootstrap resamples of the examples. --compare scores a second model on the same examples
and says how likely a difference like theirs is by chance: by the paired bootstrap, and by McNemar's exact test where an
example is right or wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from aillm_tf.files import write_atomic
from aillm_tf.verbs import positive

MODELS = "run, saved model, export, hf:org/name or folder in Hugging Face layout"


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODELS)
    add("--data", required=True, metavar="URI", help="labelled rows: a file, tfds:, hf:, pypi:, {source: , target: }")
    add("--compare", metavar="OTHER", help=f"second model, to be compared on the same rows: {MODELS}")
    add("--read", nargs="+", default=[], metavar="NAME=VALUE", help="how rows are read, as in text=review label=stars")
    add("--set", nargs="+", default=[], metavar="NAME=VALUE", help="options of the task, as in max_length=64")
    add("--task", metavar="NAME", help="of a pretrained checkpoint, such as Translation; default: as it says")
    add("--batch_size", type=positive, default=64, metavar="N", help="rows at a time (default: 64)")
    add("--resamples", type=positive, default=1000, metavar="N", help="of the bootstrap (default: 1000)")
    add("--seed", type=int, default=0, metavar="N", help="of the resamples (default: 0)")
    add("--references", metavar="NAME", help="benchmark whose published scores to show beside; default: by the data")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--output", metavar="FILE", help="write the JSON there, too")


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.metrics.bootstrap import intervals
    from aillm_tf.metrics.significance import OtherExamples, compared
    from aillm_tf.training.metrics_log import plain_numbers
    from aillm_tf.training.references import published, recognised

    uri = yaml.safe_load(arguments.data) if arguments.data.startswith("{") else arguments.data
    benchmark = arguments.references or recognised([arguments.data])
    references = published(benchmark) if benchmark else {}
    progress = sys.stdout.isatty() and not arguments.json
    models = [arguments.model, *([arguments.compare] if arguments.compare else [])]
    found = [evaluated(model, uri, arguments, progress) for model in models]
    drawn = {"resamples": arguments.resamples, "seed": arguments.seed}
    results = []
    for model, evaluation in zip(models, found, strict=True):
        bounds = {name: of for tally in evaluation.tallies for name, of in intervals(tally, **drawn).items()}
        scores = {
            key: value
            for name, score in evaluation.scores.items()
            if not name.endswith(("_low", "_high"))
            for key, value in {name: score, **_bounds(name, bounds)}.items()
        }
        results.append({"model": model, "task": evaluation.task, "scores": scores})
    report: dict[str, Any] = {**results[0], "data": uri, **drawn}
    if arguments.compare:
        differences: dict[str, Any] = {}
        refused: dict[str, str] = {}
        for first in found[0].tallies:
            for second in found[1].tallies:
                if shared := [name for name in first.score() if name in second.score()]:
                    try:
                        differences |= compared(first, second, **drawn)
                    except OtherExamples as error:  # tokens of two tokenizers, whose texts compare nevertheless
                        refused[", ".join(shared)] = str(error)
        if not differences:
            none = f"{found[0].task} and {found[1].task} have no score in common to compare by"
            raise ValueError(next(iter(refused.values()), none))
        report["compared_with"] = {**results[1], "differences": differences, "not_compared": refused}
    if references:
        report["references"] = references
    text = json.dumps(plain_numbers(report), ensure_ascii=False, allow_nan=False)
    if arguments.output:
        write_atomic(Path(arguments.output), text + "\n")
    print(text if arguments.json else readable(report))
    return 0


def evaluated(model: str, uri: Any, arguments: argparse.Namespace, progress: bool):
    """The scores of a model of any kind, an `aillm_tf.training.evaluate.Evaluation`."""
    from aillm_tf.training.evaluate import evaluate, load_checkpoint, load_run
    from aillm_tf.verbs.models import find_model

    reading, options = assignments(arguments.read, "--read"), assignments(arguments.set, "--set")
    size = {"batch_size": arguments.batch_size, "progress": progress}
    if ":" in model.partition("/")[0] or (Path(model) / "config.json").is_file():
        return evaluate(load_checkpoint(model, arguments.task, **options), uri, reading, **size)
    if arguments.task:
        raise ValueError(f"--task is for pretrained checkpoints; what {model} does is known")
    folder = find_model(model)
    if (folder / "task.json").is_file():
        task, own = load_run(folder, uri, **options)
        return evaluate(task, uri, {**own, **reading}, **size)
    if options:
        raise ValueError(f"--set changes options of a task; {folder} is an export, whose options are fixed")
    from aillm_tf.export.evaluate import evaluate_export

    return evaluate_export(folder, uri, reading, **size)


def assignments(texts: list[str], option: str) -> dict[str, Any]:
    """NAME=VALUE texts as a dict; values are JSON, lists without quotes, or plain text.

    Example:
        >>> assignments(["labels=[no, yes]", "max_length=64", "prefix=summarize: "], "--set")
        {'labels': ['no', 'yes'], 'max_length': 64, 'prefix': 'summarize: '}
    """
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{option} takes NAME=VALUE, not {text!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            # without YAML's truths: no and yes are labels here
            found[name] = yaml.load(value, Loader=yaml.BaseLoader) if value[:1] in ("[", "{") else value
    return found


def _bounds(name: str, bounds: dict[str, tuple[float, float]]) -> dict[str, float]:
    return {f"{name}_low": bounds[name][0], f"{name}_high": bounds[name][1]} if name in bounds else {}


def readable(report: dict[str, Any]) -> str:
    """The report as text."""
    parts = [scores_table(report["scores"])]
    other = report.get("compared_with")
    if other:
        parts += [f"\n{other['model']}:", scores_table(other["scores"]), "\nfirst - second:"]
        rows = []
        for name, found in other["differences"].items():
            interval = f"(95 %: {found['difference_low']:+.4f} to {found['difference_high']:+.4f})"
            row = [name, f"{found['difference']:+.4f}", interval, f"p = {found['p_value']:.4f}"]
            if "mcnemar" in found:
                test = found["mcnemar"]
                alone = f"(right in one only: {test['only_first']}, {test['only_second']})"
                row.append(f"McNemar p = {test['p_value']:.4f} {alone}")
            rows.append(row)
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        parts += [
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), *row[4:]]).rstrip()
            for row in rows
        ]
        parts += [f"{names}: not compared, {reason}" for names, reason in other["not_compared"].items()]
    if "references" in report:
        from aillm_tf.training.references import as_text

        parts += ["", as_text(report["references"])]
    return "\n".join(parts)


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
