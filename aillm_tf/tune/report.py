"""The report of a study: what was tried, how it scored, and which options mattered."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aillm_tf.training.report import write_report
from aillm_tf.tune.space import Parameter

ENOUGH = 5  # complete trials, to say what mattered


def report(study, searched: Mapping[str, Parameter], metric: str, recipe: str, out: Path) -> dict:
    """Writes report.json and report.html of a study as it stands.

    Args:
        study: Optuna's.
        searched: the parameters of the space.
        metric: what decides, "-" before it where lower is better.
        recipe: its name.
        out: the folder.

    Returns:
        What report.json holds.
    """
    from optuna.trial import TrialState

    name, lower = metric.removeprefix("-"), metric.startswith("-")
    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    shown = [t for t in study.trials if t.state in ended or "reason" in t.user_attrs]
    complete = [trial for trial in shown if trial.state == TrialState.COMPLETE]
    found: dict[str, Any] = {"task": f"{recipe}, {len(shown)} trials", "scores": {}, "tables": {}, "charts": {}}
    if complete:
        best = study.best_trial
        default = next((t.value for t in complete if t.user_attrs["folder"] == "trial_000"), None)
        found["scores"] = {f"best_{name}": best.value, f"default_{name}": default}
        found |= {"best_trial": best.user_attrs["folder"], "best": best.params}
        found["charts"]["Trials"] = [_history(complete, name, lower), _by_epoch(shown, best, name)]
        found["charts"]["Options"] = [
            chart for option, parameter in searched.items() if (chart := _slice(complete, option, parameter, name))
        ]
        found["tables"]["What mattered"] = _importances(study, complete)
    rows = [
        {
            "trial": trial.user_attrs["folder"].removeprefix("trial_"),
            "state": "failed" if "reason" in trial.user_attrs else trial.state.name.lower(),
            name: trial.value,
            "epochs": len(trial.intermediate_values),
            **trial.params,
            **({"reason": trial.user_attrs["reason"]} if "reason" in trial.user_attrs else {}),
        }
        for trial in shown
    ]
    rows.sort(key=lambda row: math.inf if row[name] is None else row[name] if lower else -row[name])
    found["tables"]["All trials, the best first"] = rows
    return write_report(out, found, {})


def _history(complete: list, name: str, lower: bool) -> dict:
    xs = [int(trial.user_attrs["folder"].removeprefix("trial_")) for trial in complete]
    pairs = sorted(zip(xs, (trial.value for trial in complete), strict=True))
    xs, ys = [x for x, _ in pairs], [y for _, y in pairs]
    best = [(min if lower else max)(ys[: i + 1]) for i in range(len(ys))]
    lines = [[f"{name}", xs, ys, "c0 dots alone"], ["best so far", xs, best, "c1"]]
    return {"title": f"{name} of every complete trial", "x": "trial", "lines": lines}


def _by_epoch(shown: list, best: Any, name: str) -> dict:
    lines = []
    for trial in sorted(shown, key=lambda trial: trial.number == best.number):  # the best on top
        steps = sorted(trial.intermediate_values)
        values = [trial.intermediate_values[step] for step in steps]
        chosen = trial.number == best.number
        lines.append(["best" if chosen else "", steps, values, "c1 dots" if chosen else "c0 raw"])
    return {"title": f"{name} by epoch", "x": "epoch", "lines": lines}


def _slice(complete: list, option: str, parameter: Parameter, name: str) -> dict | None:
    """The score over the values of an option; None where these are no numbers."""
    values = [trial.params.get(option) for trial in complete]
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return None
    label, log = option, parameter.kind == "loguniform"
    pairs = sorted((math.log10(v) if log else v, trial.value) for v, trial in zip(values, complete, strict=True))
    line = ["", [x for x, _ in pairs], [y for _, y in pairs], "c0 dots alone"]
    return {"title": f"{name} by {label}", "x": f"log10 of {label}" if log else label, "lines": [line]}


def _importances(study, complete: list) -> list[dict]:
    """Share of the variance of the score that each option explains (fANOVA); none where trials are too few or equal."""
    if len(complete) < ENOUGH or len({trial.value for trial in complete}) < 2:
        return []
    import optuna

    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return [{"option": option, "share of the variance": round(share, 3)} for option, share in found.items()]
