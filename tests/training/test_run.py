"""The run directory: who may write it, which config it takes, what it reports."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aillm_tf.training.run import Run

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass
class Training:
    learning_rate: float = 5e-5
    strategy: str = "auto"


@dataclasses.dataclass
class Config:
    training: Training = dataclasses.field(default_factory=Training)
    seed: int = 0
    out: str = "runs/a"


def test_writes_the_resolved_config(tmp_path):
    with Run(tmp_path / "deep" / "run", Config()):
        pass
    text = (tmp_path / "deep" / "run" / "config.yaml").read_text()
    assert text == "training:\n  learning_rate: 5.0e-05\n  strategy: auto\nseed: 0\nout: runs/a\n"


def test_same_config_resumes(tmp_path):
    Run(tmp_path, Config()).close()
    Run(tmp_path, Config()).close()


def test_other_config_is_refused_and_named(tmp_path):
    Run(tmp_path, Config()).close()
    with pytest.raises(ValueError, match="another config") as error:
        Run(tmp_path, Config(Training(1e-3), seed=1))
    assert "training.learning_rate (5e-05 -> 0.001), seed (0 -> 1)" in str(error.value)


def test_refused_run_leaves_the_directory_free_and_unchanged(tmp_path):
    Run(tmp_path, Config()).close()
    before = (tmp_path / "config.yaml").read_text()
    with pytest.raises(ValueError):
        Run(tmp_path, Config(seed=1))
    assert (tmp_path / "config.yaml").read_text() == before
    Run(tmp_path, Config()).close()


def test_device_and_place_may_change_on_resume(tmp_path):
    Run(tmp_path, Config()).close()
    Run(tmp_path, Config(Training(strategy="mirrored"), out="/elsewhere/runs/a")).close()
    assert "mirrored" in (tmp_path / "config.yaml").read_text()


def test_second_run_in_the_same_process_is_refused(tmp_path):
    with Run(tmp_path, Config()), pytest.raises(BlockingIOError, match=f"in use by process {os.getpid()} on "):
        Run(tmp_path, Config())


def test_lock_of_another_process_holds_until_it_is_killed(tmp_path):
    code = (
        "import sys, time; from aillm_tf.training.run import Run; run = Run(sys.argv[1], {'seed': 0})\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(BlockingIOError, match=f"in use by process {other.pid} on "):
            Run(tmp_path, {"seed": 0})
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    Run(tmp_path, {"seed": 0}).close()


def test_unknown_tracker_is_refused(tmp_path):
    with pytest.raises(ValueError, match="wandb"):
        Run(tmp_path, Config(), track="mlflow")


def test_report_has_scores_facts_versions_and_hardware(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0, "seconds": 0.5}\n')
    with Run(tmp_path, Config()) as run:
        returned = run.report({"accuracy": 0.5}, task="TextClassifier", seed=0)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report == returned
    assert report["scores"] == {"accuracy": 0.5}
    assert (report["task"], report["seed"], report["steps"], report["steps_per_second"]) == (
        "TextClassifier",
        0,
        2,
        2.0,
    )
    assert report["versions"]["tensorflow"]
    assert report["hardware"]["cores"] >= 1
    assert time.strftime("%Y") in report["date"]


def test_report_again_keeps_the_seconds_to_the_first_step(tmp_path):
    with Run(tmp_path, Config()) as run:
        (tmp_path / "report.json").write_text('{"seconds_to_first_step": 9.5}')
        assert run.report({})["seconds_to_first_step"] == 9.5
