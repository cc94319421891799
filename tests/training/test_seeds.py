"""Several seeds in one command: a run each, none twice, and a report of mean and standard deviation."""

import json
import statistics
from pathlib import Path

import pytest

from aillm_tf.cli import main
from aillm_tf.training.seeds import summary

RECIPE = str(Path(__file__).with_name("fake_recipe.py"))


def train(folder, *options):
    assert main(["train", RECIPE, "--training.seed", "3", "--out", str(folder), *options]) == 0
    return json.loads((folder / "report.json").read_text())


def starts(folder):
    return {path.parent.name: len(path.read_text()) for path in folder.glob("seed_*/starts")}


def test_every_seed_is_a_run_and_none_is_run_twice(tmp_path, capsys):
    report = train(tmp_path, "--seeds", "2")
    assert starts(tmp_path) == {"seed_3": 1, "seed_4": 1}
    values = [0.5 + 0.001 * seed + 1.0 - 0.1 / 3 - 0.95 for seed in (3, 4)]
    assert report["scores"]["accuracy"] == pytest.approx(statistics.fmean(values))
    assert report["scores"]["accuracy_std"] == pytest.approx(statistics.stdev(values))
    assert [row["seed"] for row in report["tables"]["Scores by seed"]] == ["3", "4", "mean", "standard deviation"]
    page = (tmp_path / "report.html").read_text()
    assert "± 0.001" in page and "seed 3 accuracy" in page
    report = train(tmp_path, "--seeds=3")
    assert starts(tmp_path) == {"seed_3": 1, "seed_4": 1, "seed_5": 1}
    assert report["seeds"] == [3, 4, 5]
    assert "over 3 seeds" in capsys.readouterr().out


def test_a_run_that_died_goes_on_by_the_same_command(tmp_path, capsys):
    command = ["train", RECIPE, "--die_before", "2", "--out", str(tmp_path), "--seeds", "2"]
    with pytest.raises(SystemExit):
        main(command)
    assert "seed 0 ended with status -9" in capsys.readouterr().err
    with pytest.raises(SystemExit):  # the second seed dies, too; the first goes on
        main(command)
    assert main(command) == 0
    assert starts(tmp_path) == {"seed_0": 1, "seed_1": 1}


def test_debug_is_no_option_of_the_recipe(tmp_path):
    assert train(tmp_path, "--seeds", "2", "--debug")["seeds"] == [3, 4]


def test_seeds_that_cannot_be_are_refused(tmp_path, capsys):
    for options, message in ((["--seeds", "1"], "give at least 2"), (["--seeds", "x"], "invalid int value: 'x'")):
        with pytest.raises(SystemExit):
            main(["train", RECIPE, "--out", str(tmp_path), *options])
        assert message in capsys.readouterr().err


def test_the_summary_leaves_out_what_has_no_mean():
    reports = {seed: {"scores": {"f1": seed / 10, "f1_low": 0.0, "examples": 9, "ppl": None}} for seed in (1, 2, 3)}
    assert summary(reports)["scores"] == pytest.approx({"f1": 0.2, "f1_std": 0.1})
