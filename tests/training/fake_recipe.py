"""A recipe without TensorFlow: it "trains" to a score that its options decide, an epoch in a fraction of a second.

aillm train tests/training/fake_recipe.py --out OUT
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

from aillm_tf.config import run, to_yaml


@dataclasses.dataclass
class Training:
    """How."""

    epochs: int = 3
    learning_rate: float = 1e-4
    # none fails
    optimizer: str = "adam"
    seed: int = 0


@dataclasses.dataclass
class Config:
    """Everything."""

    training: Training = dataclasses.field(default_factory=Training)
    # seconds of an epoch
    seconds: float = 0.0
    # the process kills itself before this epoch, the first time it gets there
    die_before: int = 0
    out: str = "runs/fake"


def main(config: Config) -> dict:
    folder, training = Path(config.out), config.training
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(to_yaml(config))
    (folder / "lock").touch()
    log = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    if training.optimizer == "none":
        raise ValueError("no optimizer")
    (folder / "checkpoints").mkdir(exist_ok=True)
    for epoch in range(len(rows) + 1, training.epochs + 1):
        time.sleep(config.seconds)
        if epoch == config.die_before and not (folder / "died").exists():
            (folder / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        # best at 1e-3, better with every epoch, and a little by the seed
        score = 1.0 - abs(training.learning_rate - 1e-3) * 500 - 0.1 / epoch + 0.001 * training.seed
        rows.append({"epoch": epoch, "step": epoch, "val_loss": 1.0 - score, "val_accuracy": score})
        with open(log, "a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
    (folder / "model").mkdir(exist_ok=True)
    scores = {"accuracy": rows[-1]["val_accuracy"], "accuracy_low": 0.0, "accuracy_high": 1.0, "examples": 7}
    report = {"task": "Fake", "scores": scores, "scored_on": "validation"}
    (folder / "report.json").write_text(json.dumps(report))
    with open(folder / "starts", "a") as file:
        file.write("x")
    return report


if __name__ == "__main__":
    run(main)
