"""A study: trials of a recipe one after the other, each a run of its own, kept in sqlite so that nothing is lost.

    OUT/study.db  report.json  report.html  best.yaml  trial_000/ trial_000.log  trial_001/ ...

A trial is ``aillm train RECIPE`` in a process of its own. The score that it writes to metrics.jsonl after every
validation goes to the study, and a trial that is worse than the median of those before it at the same epoch is stopped.
Killed at any moment, the study goes on with the trial that was running, from that trial's last checkpoint.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from aillm_tf.config import config_class_of, diff, flatten, parse, to_plain
from aillm_tf.files import write_atomic
from aillm_tf.training import process
from aillm_tf.tune.report import report
from aillm_tf.tune.space import LOWER_IS_BETTER, METRICS, Parameter, parameters

NAME, DEFAULT = "tune", "trial_000"
POLL = 0.5  # seconds between two looks at the metrics of a running trial
STARTUP = 4  # finished trials before others are stopped, or drawn by what was learned from them
STOPPED = (130, 143, -2, -15)  # exit statuses of a run that somebody else ended


def tune(
    recipe: str,
    main: Callable,
    argv: Sequence[str],
    space: Mapping[str, str],
    out: Path,
    *,
    trials: int = 20,
    metric: str | None = None,
    prune: bool = True,
) -> dict:
    """Tries settings of a recipe; the configured ones first, so that the best is at least as good.

    Args:
        recipe: name or path.
        main: of the recipe.
        argv: its options, all but those of the space and `out`.
        space: see `aillm_tf.tune.space`.
        out: folder of the study, new or to be resumed.
        trials: how many in all, stopped and failed ones included.
        metric: validation score that decides; lower is better of losses and the like, and of what has "-" before it.
            None: that of the recipe.
        prune: stop trials that are worse than the median.

    Returns:
        What OUT/report.json holds.

    Raises:
        ValueError: the folder holds another study, or the recipe validates nothing, or not by this metric.
        BlockingIOError: another process works on this study.
        RuntimeError: the configured settings fail, or a trial was stopped from outside.
        ModuleNotFoundError: Optuna is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise ModuleNotFoundError("aillm tune needs the package optuna: pip install 'aillm_tf[tune]'") from None
    import filelock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config = flatten(to_plain(parse(config_class_of(main), argv)))
    searched = parameters(space, config)
    if metric is None:
        metric = "macro_f1" if config.get("data.multi_label") else METRICS.get(Path(recipe).stem, "loss")
    if metric.endswith(LOWER_IS_BETTER) and not metric.startswith("-"):
        metric = f"-{metric}"
    asked = {"recipe": recipe, "metric": metric, **{f"search.{name}": str(text) for name, text in space.items()}}
    asked |= {name: value for name, value in config.items() if name != "out"}
    out.mkdir(parents=True, exist_ok=True)
    try:
        lock = filelock.FileLock(out / "lock").acquire(timeout=0)
    except filelock.Timeout:
        raise BlockingIOError(f"{out} is in use by another process: wait until it is done or stop it") from None
    with lock:
        study = optuna.create_study(
            storage=f"sqlite:///{(out / 'study.db').resolve()}",
            study_name=NAME,
            direction="minimize" if metric.startswith("-") else "maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP) if prune else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        _resume(study, asked, out, {name: parameter.default for name, parameter in searched.items()})
        _check_default(study, out)
        while len(finished(study)) < trials:
            number = 1 + max(int(folder.removeprefix("trial_")) for folder in _folders(study))
            # a sampler of its own for every trial: what it draws does not depend on where a study was interrupted
            study.sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=STARTUP)
            trial = study.ask()
            folder = out / trial.user_attrs.get("folder", f"trial_{number:03d}")
            trial.set_user_attr("folder", folder.name)
            _run(study, trial, folder, recipe, argv, searched, metric, config)
            _keep_best(study, out)
            report(study, searched, metric, recipe, out)
        _keep_best(study, out)  # a process that was killed after the last trial may not have come so far
        return report(study, searched, metric, recipe, out)


def finished(study) -> list:
    """Trials that came to an end: complete, stopped for being worse, or failed."""
    from optuna.trial import TrialState

    ended = (TrialState.COMPLETE, TrialState.PRUNED)
    return [trial for trial in study.trials if trial.state in ended or "reason" in trial.user_attrs]


def _folders(study) -> set[str]:
    return {trial.user_attrs["folder"] for trial in study.trials if "folder" in trial.user_attrs}


def _resume(study, asked: dict, out: Path, defaults: dict[str, Any]) -> None:
    """Checks that it is the same study, and puts trials that a killed process left behind first in the queue."""
    from optuna.trial import TrialState

    before = study.user_attrs.get("asked")
    changed = [] if before is None else diff(before, json.loads(json.dumps(asked)))
    if changed:
        listed = ", ".join(f"{key} ({before.get(key, 'absent')} -> {asked.get(key, 'absent')})" for key in changed)
        raise ValueError(f"{out} holds another study: {listed}. Give the same values to resume it, or another --out")
    study.set_user_attr("asked", asked)
    queued = {t.user_attrs.get("folder") for t in study.get_trials(deepcopy=False, states=(TrialState.WAITING,))}
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        folder = trial.user_attrs.get("folder")
        if folder is not None and folder not in queued and "reason" not in trial.user_attrs:
            print(f"{folder} was interrupted: it goes on")
            study.enqueue_trial(trial.params, user_attrs={"folder": folder})
        study.tell(trial.number, state=TrialState.FAIL)
    if DEFAULT not in _folders(study):
        study.enqueue_trial(defaults, user_attrs={"folder": DEFAULT})


def _check_default(study, out: Path) -> None:
    """Raises RuntimeError where the configured settings failed."""
    for trial in finished(study):
        if trial.user_attrs["folder"] == DEFAULT and "reason" in trial.user_attrs:
            raise RuntimeError(
                f"the configured settings fail: {trial.user_attrs['reason']}; {out / DEFAULT}.log says more. Mend them "
                "in a new --out"
            )


def _run(study, trial, folder: Path, recipe: str, argv, searched: Mapping[str, Parameter], metric: str, config) -> None:
    """Runs a trial to its end and tells the study."""
    from optuna.trial import TrialState

    values = {name: parameter.suggest(trial, name) for name, parameter in searched.items()}
    print(f"{folder.name}: {', '.join(f'{name} {_short(value)}' for name, value in values.items())}", flush=True)
    options = [f"--{name}={_as_option(value)}" for name, value in values.items()]
    process.wait_until_free(folder)
    log = folder.with_name(f"{folder.name}.log")
    with open(log, "ab") as output:
        running = process.start(recipe, [*argv, *options, f"--out={folder}"], output)
        try:
            last = {**config, **values}.get("training.epochs")  # of which nothing is left to save
            scores, pruned = _watch(trial, running, folder / "metrics.jsonl", metric, last)
        finally:
            if running.poll() is None:
                process.stop(running)
    if pruned:
        print(f"{folder.name}: stopped after epoch {max(scores)}, worse than the median", flush=True)
        study.tell(trial, state=TrialState.PRUNED)
        return
    if running.returncode in STOPPED:
        raise RuntimeError(f"{folder.name} was stopped from outside; the same command goes on with it")
    reason = f"exit status {running.returncode}: {_last_line(log)}" if running.returncode else None
    if not reason and not scores:
        raise ValueError(
            f"{folder.name} has no validation score {metric.removeprefix('-')!r}; it has {_validated(folder)}: give "
            "the recipe validation data, and --metric one of its scores, in a new --out"
        )
    value = None if reason else _result(scores, folder)
    if not reason and not math.isfinite(value):
        reason = f"{metric.removeprefix('-')} is {value}"
    if reason:
        trial.set_user_attr("reason", reason)
        study.tell(trial, state=TrialState.FAIL)
        print(f"{folder.name}: failed, {reason}", flush=True)
        _check_default(study, out=folder.parent)
        return
    study.tell(trial, value)
    print(f"{folder.name}: {metric.removeprefix('-')} {value:.4f}; best {study.best_value:.4f}", flush=True)


def _watch(trial, running, file: Path, metric: str, last: int | None) -> tuple[dict[int, float], bool]:
    """Hands validation scores on as they come; returns them by epoch, and whether the trial was stopped for them."""
    seen: dict[int, float] = {}
    name = f"val_{metric.removeprefix('-')}"
    while True:
        ended = running.poll() is not None
        for row in epochs(file):
            if row["epoch"] in seen or name not in row:
                continue
            seen[row["epoch"]] = math.nan if row[name] is None else float(row[name])
            trial.report(seen[row["epoch"]], row["epoch"])
            if not ended and row["epoch"] != last and trial.should_prune():
                process.stop(running)
                return seen, True
        if ended:
            return seen, False
        time.sleep(POLL)


def epochs(file: Path) -> list[dict]:
    """The rows of metrics.jsonl that a validation wrote; the file may be written just now, or not be there."""
    if not file.is_file():
        return []
    lines = file.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines if line.startswith(b'{"epoch"')]


def _result(scores: Mapping[int, float], folder: Path) -> float:
    """The score of the model that the run ended with: of the epoch that was restored, else of the last one."""
    file = folder / "report.json"
    restored = json.loads(file.read_text(encoding="utf-8")).get("restored_step") if file.is_file() else None
    ended = [row["epoch"] for row in epochs(folder / "metrics.jsonl") if row["step"] == restored]
    return scores[ended[0] if ended else max(scores)]


def _keep_best(study, out: Path) -> None:
    """Frees the disk of all but the best model, and writes that one's config."""
    from optuna.trial import TrialState

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        return
    best = study.best_trial.user_attrs["folder"]
    for folder in {trial.user_attrs["folder"] for trial in finished(study)} - {best}:
        for part in ("checkpoints", "model"):
            shutil.rmtree(out / folder / part, ignore_errors=True)
    shutil.rmtree(out / best / "checkpoints", ignore_errors=True)
    config = yaml.safe_load((out / best / "config.yaml").read_text(encoding="utf-8"))
    config.pop("out", None)
    write_atomic(out / "best.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120))


def _validated(folder: Path) -> str:
    names = {key.removeprefix("val_") for row in epochs(folder / "metrics.jsonl") for key in row if key[:4] == "val_"}
    return ", ".join(sorted(names)) or "none"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line for line in reversed(lines) if line.strip()), "")


def _as_option(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
