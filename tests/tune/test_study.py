"""Studies with real processes: the configured settings first, nothing lost by kill -9, hopeless trials stopped."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from aillm_tf.cli import main
from aillm_tf.tune.study import _as_option, _result, epochs

pytest.importorskip("optuna")

ROOT = Path(__file__).parents[2]
RECIPE = str(ROOT / "tests" / "training" / "fake_recipe.py")
SEARCH = ["--metric", "accuracy", "--search.training.learning_rate", "around:10"]
TRIALS = "6"  # of which the first four are the configured one and random ones
SST2 = ROOT.parent / "shared" / "data" / "sst2"


def tune(folder, *options, recipe=RECIPE, search=SEARCH):
    assert main(["tune", recipe, "--out", str(folder), *search, *options]) == 0
    return json.loads((folder / "report.json").read_text())


def fails(capsys, *command):
    with pytest.raises(SystemExit):
        main(["tune", *map(str, command)])
    return capsys.readouterr().err


def trials(report):
    return {row["trial"]: row for row in report["tables"]["All trials, the best first"]}


def killed(command, when):
    """Starts a study, kills it without warning when `when()` is true, and returns the processes it had started."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    study = subprocess.Popen([sys.executable, "-m", "aillm_tf.cli", *map(str, command)], env=environment)
    end = time.monotonic() + 240
    while not when():
        assert study.poll() is None and time.monotonic() < end, "it ended before it could be killed"
        time.sleep(0.05)
    children = Path(f"/proc/{study.pid}/task/{study.pid}/children").read_text().split()
    study.kill()
    study.wait()
    return children


def ended(children, seconds=60):
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in children):
        assert time.monotonic() < end, "a trial outlives the study that started it"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune") / "study"
    return folder, tune(folder, "--trials", TRIALS)


def test_the_configured_settings_are_tried_first_and_better_ones_are_found(study):
    folder, report = study
    assert trials(report)["000"]["training.learning_rate"] == 1e-4
    assert report["scores"]["default_accuracy"] == pytest.approx(1.0 - 0.45 - 0.1 / 3)
    assert report["scores"]["best_accuracy"] > report["scores"]["default_accuracy"] + 0.1
    assert len(trials(report)) == int(TRIALS)
    assert "accuracy of every complete trial" in (folder / "report.html").read_text()


def test_the_best_settings_are_a_config_of_the_recipe(study, tmp_path):
    folder, report = study
    config = yaml.safe_load((folder / "best.yaml").read_text())
    assert config["training"]["learning_rate"] == report["best"]["training.learning_rate"] and "out" not in config
    main(["train", RECIPE, "--config", str(folder / "best.yaml"), "--out", str(tmp_path)])
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["scores"]["accuracy"] == report["scores"]["best_accuracy"]


def test_only_the_best_model_is_kept(study):
    folder, report = study
    assert {path.parent.name for path in folder.glob("*/model")} == {report["best_trial"]}
    assert not list(folder.glob("*/checkpoints"))


def test_the_same_command_goes_on_and_another_one_is_refused(study, capsys):
    folder, _ = study
    assert len(trials(tune(folder, "--trials", TRIALS))) == int(TRIALS)
    assert {len(path.read_text()) for path in folder.glob("trial_*/starts")} == {1}
    error = fails(capsys, RECIPE, "--out", folder, *SEARCH[:2], "--search.training.learning_rate", "around:5")
    assert "holds another study: search.training.learning_rate (around:10 -> around:5)" in error
    error = fails(capsys, RECIPE, "--out", folder, *SEARCH, "--training.epochs", "7")
    assert "training.epochs (3 -> 7)" in error


def test_the_best_config_is_written_though_the_last_trial_was_killed_before(study):
    folder, _ = study
    before = (folder / "best.yaml").read_text()
    (folder / "best.yaml").unlink()
    tune(folder, "--trials", TRIALS)
    assert (folder / "best.yaml").read_text() == before


def test_configured_settings_that_failed_are_not_gone_on_from(tmp_path, capsys):
    command = [RECIPE, "--out", tmp_path, *SEARCH, "--trials", "2", "--training.optimizer", "none"]
    for _ in range(2):
        error = fails(capsys, *command)
        assert "the configured settings fail: exit status 2: aillm: no optimizer" in error


def test_the_result_is_the_score_of_the_epoch_that_was_restored(tmp_path):
    rows = [{"epoch": epoch, "step": 10 * epoch, "val_f1": f1} for epoch, f1 in ((1, 0.5), (2, 0.7), (3, 0.6))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scores = {row["epoch"]: row["val_f1"] for row in rows}
    (tmp_path / "report.json").write_text('{"scores": {}}')
    assert _result(scores, tmp_path) == 0.6
    (tmp_path / "report.json").write_text('{"restored_step": 10}')  # the best by another score
    assert _result(scores, tmp_path) == 0.5


def test_a_recipe_by_its_file_has_the_metric_and_the_search_of_its_name(tmp_path, capsys):
    recipe = shutil.copy(RECIPE, tmp_path / "ner.py")
    error = fails(capsys, recipe, "--out", tmp_path / "a")
    assert "--search.training.batch_size: the recipe has no such option" in error  # which the fake has not
    error = fails(capsys, recipe, "--out", tmp_path / "b", *SEARCH[2:])
    assert "no validation score 'f1'" in error


@pytest.mark.parametrize("value", ["a", 'na\u00efve "x"', "back\\slash"])
def test_a_text_reaches_the_recipe_as_it_is(value):
    assert _as_option(value) == value


@pytest.mark.parametrize(("value", "text"), [(True, "true"), (None, "null"), (1e-05, "1e-05"), (8, "8")])
def test_other_values_reach_the_recipe_as_json(value, text):
    assert _as_option(value) == text


def test_a_metric_that_there_is_not_is_said_with_those_there_are(tmp_path, capsys):
    error = fails(capsys, RECIPE, "--out", tmp_path, *SEARCH[2:], "--metric", "f1")
    assert "trial_000 has no validation score 'f1'; it has accuracy, loss" in error


@pytest.mark.slow
def test_a_trial_that_fails_is_told_of(tmp_path):
    search = ["--metric", "loss", "--search.training.optimizer", "choice:adam,none"]
    report = tune(tmp_path, "--trials", "5", search=search)
    failed = [row for row in trials(report).values() if row["state"] == "failed"]
    assert failed and all("no optimizer" in row["reason"] for row in failed)
    assert report["scores"]["best_loss"] == report["scores"]["default_loss"]


@pytest.mark.slow
def test_hopeless_trials_are_stopped(tmp_path):
    options = ["--trials", "8", "--seconds", "0.8", "--training.epochs", "2"]
    found = trials(tune(tmp_path, *options))
    stopped = [row for row in found.values() if row["state"] == "pruned"]
    best = max(row["accuracy"] for row in found.values() if row["accuracy"] is not None)
    assert stopped and all(row["epochs"] < 2 and row["training.learning_rate"] != 1e-4 for row in stopped)
    assert best >= found["000"]["accuracy"] and len(found) == 8


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_a_killed_study_goes_on_with_the_trial_that_was_running(tmp_path):
    folder = tmp_path / "study"
    options = ["--trials", "3", "--seconds", "0.7", *SEARCH, "--no-prune"]
    running = folder / "trial_001" / "metrics.jsonl"
    ended(killed(["tune", RECIPE, "--out", folder, *options], lambda: len(epochs(running)) == 1))
    before = epochs(running)
    assert 1 <= len(before) < 3
    found = trials(tune(folder, *options[:4], "--no-prune"))
    assert set(found) == {"000", "001", "002"}
    assert epochs(running)[: len(before)] == before and len(epochs(running)) == 3
    assert len((folder / "trial_000" / "starts").read_text()) == 1


@pytest.mark.slow
@pytest.mark.skipif(not SST2.exists(), reason="SST-2 does not lie beside the repository")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
def test_classifiers_are_tuned_through_kill_9(tmp_path):
    for name, count in (("train", 400), ("dev", 100)):
        lines = (SST2 / f"{name}.tsv").read_text(encoding="utf-8").splitlines(keepends=True)[:count]
        (tmp_path / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    data = ["--data.train", tmp_path / "train.tsv", "--data.validation", tmp_path / "dev.tsv"]
    model = ["--model.preset", "tiny", "--model.vocab_size", "300", "--model.max_length", "24"]
    training = ["--training.epochs", "2", "--training.learning_rate", "1e-3", "--training.batch_size", "16"]
    folder = tmp_path / "study"
    command = ["tune", "classification", "--out", folder, *data, *model, *training, "--trials", "2"]
    running = folder / "trial_001" / "metrics.jsonl"
    ended(killed(command, lambda: len(epochs(running)) == 1))
    report = tune(folder, *map(str, command[4:]), recipe="classification", search=[])
    assert set(trials(report)) == {"000", "001"}
    assert report["scores"]["best_accuracy"] >= report["scores"]["default_accuracy"]
    rows = [json.loads(line) for line in running.read_text().splitlines()]
    steps = [row["step"] for row in rows if "epoch" not in row]
    assert steps == list(range(1, len(steps) + 1))  # none twice, none left out
