"""The same recipe with several seeds: a run each, and a report of mean and standard deviation."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from aillm_tf.config import ConfigError, config_class_of, diff, flatten, parse, to_plain, to_yaml
from aillm_tf.training import process
from aillm_tf.training.metrics_log import read_rows
from aillm_tf.training.report import write_report

NOT_AVERAGED = ("_low", "_high")


def train_seeds(recipe: str, main: Callable, argv: Sequence[str], count: int, prog: str | None = None) -> dict:
    """Runs a recipe with its seed and the following ones, in OUT/seed_N each.

    Runs that are finished are not run again, one that was interrupted goes on: the same command resumes, and one with
    a larger count adds runs.

    Args:
        recipe: name or path.
        main: of the recipe.
        argv: its options.
        count: of seeds, at least 2.
        prog: the name in the usage line.

    Returns:
        What OUT/report.json holds.

    Raises:
        ConfigError: fewer than two seeds, an option that does not fit, or a recipe without a seed or `out`.
        RuntimeError: a run failed; the others are kept.
    """
    if count < 2:
        raise ConfigError(f"--seeds {count}: give at least 2")
    config = parse(config_class_of(main), [argument for argument in argv if argument != "--debug"], prog)
    flat = flatten(to_plain(config))
    key = next((name for name in ("training.seed", "seed") if name in flat), None)
    if key is None or "out" not in flat:
        raise ConfigError(f"--seeds needs a recipe with the options training.seed (or seed) and out; {recipe} is none")
    out, seeds = Path(flat["out"]), range(flat[key], flat[key] + count)
    for seed in seeds:
        folder = out / f"seed_{seed}"
        if not _finished(folder, {**flat, key: seed}):
            print(f"seed {seed}: {folder}", flush=True)
            process.wait_until_free(folder)
            status = process.start(recipe, [*argv, f"--{key}={seed}", f"--out={folder}"]).wait()
            if status:
                raise RuntimeError(f"seed {seed} ended with status {status}; the same command goes on from there")
    reports = {seed: _json(out / f"seed_{seed}" / "report.json") for seed in seeds}
    report = summary(reports)
    curves = {f"seed {seed}": read_rows(out / f"seed_{seed}" / "metrics.jsonl") for seed in seeds}
    write_report(out, report, curves, to_yaml(config))
    for name in (name for name in report["scores"] if not name.endswith("_std")):
        mean, std = report["scores"][name], report["scores"][f"{name}_std"]
        print(f"{name}: {mean:.4f} ± {std:.4f} over {count} seeds")
    print(f"report: {out / 'report.html'}")
    return report


def summary(reports: Mapping[int, Mapping[str, Any]]) -> dict:
    """The report of several runs: means, sample standard deviations (n - 1), and a table of all.

    Args:
        reports: seed -> what report.json of its run holds; two or more.

    Example:
        >>> summary({0: {"scores": {"f1": 0.5}}, 1: {"scores": {"f1": 0.7}}})["scores"]
        {'f1': 0.6, 'f1_std': 0.1414213562373095}
    """
    rows = [{"seed": str(seed), **_averaged(report["scores"])} for seed, report in reports.items()]
    names = [name for name in rows[0] if name != "seed" and all(row.get(name) is not None for row in rows)]
    scores: dict[str, float] = {}
    for name in names:
        values = [row[name] for row in rows]
        scores |= {name: statistics.fmean(values), f"{name}_std": statistics.stdev(values)}
    last = [{"seed": "mean", **{name: scores[name] for name in names}}]
    last.append({"seed": "standard deviation", **{name: scores[f"{name}_std"] for name in names}})
    first = next(iter(reports.values()))
    return {
        "task": f"{first.get('task', 'Run')}, {len(reports)} seeds",
        "scored_on": first.get("scored_on"),
        "seeds": list(reports),
        "scores": scores,
        "tables": {"Scores by seed": rows + last},
    }


def _averaged(scores: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in scores.items()
        if isinstance(value, (int, float, type(None))) and not name.endswith(NOT_AVERAGED) and name != "examples"
    }


def _finished(folder: Path, wanted: Mapping[str, Any]) -> bool:
    """Whether a run of this config ended there. Of another config it did not: to start it says what differs."""
    from aillm_tf.training.run import MAY_CHANGE

    if not (folder / "report.json").is_file():
        return False
    before = flatten(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    return not any(key.rpartition(".")[2] not in MAY_CHANGE for key in diff(before, wanted))


def _json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))
