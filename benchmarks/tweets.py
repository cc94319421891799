"""What benchmarks of pretraining share: the quickstart's tweets, fine-tuning on some of them, results kept on disk."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import numpy as np

from aillm_tf.data.options import ClassificationData
from aillm_tf.data.splits import Splits, load_splits
from aillm_tf.weights.known import TWEETS

FINE_TUNING = {"epochs": 3, "batch_size": 32, "max_length": 64}


def tweets(test_rows: int = 3000) -> Splits:
    """The quickstart's rows: its 3,000 test rows, and all others, cleaned, as training rows."""
    data = ClassificationData(
        train=TWEETS,
        text="text",
        label="sentiment",
        validation_rows=0,
        test_rows=test_rows,
        clean="text",
        deduplicate=True,
        encoding_errors="replace",
    )
    return load_splits(data, 0)


class Results:
    """A JSON file of what has been measured, by key; written after every measurement."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.found = json.loads(self.path.read_text()) if self.path.exists() else {}

    def get(self, key: str, measure) -> dict:
        """What was measured under this key, or what `measure()` returns now."""
        if key not in self.found:
            print(f"{key} ...", flush=True)
            began = time.perf_counter()
            self.found[key] = {**measure(), "seconds": round(time.perf_counter() - began, 1)}
            partial = self.path.with_suffix(".part")
            partial.write_text(json.dumps(self.found, indent=1))
            partial.replace(self.path)
            print(f"{key}: {self.found[key]}", flush=True)
        return self.found[key]


def take_backbone(classifier, task) -> None:
    """Gives a classifier the variables of a pretrained task that it has too: those of its backbone."""
    from aillm_tf.layers.naming import variables_by_name

    pretrained = variables_by_name(task)
    for name, variable in variables_by_name(classifier).items():
        if name.startswith("backbone/"):
            variable.assign(pretrained[name])


def fine_tuned(classifier, splits: Splits, labels: int, seed: int, learning_rate: float) -> dict:
    """Scores on the test rows after training on some labelled rows, which the seed chooses."""
    import aillm_tf as ai

    chosen = np.random.default_rng([seed, 0x7EE7]).permutation(len(splits.train))[:labels]
    data = classifier.dataset(
        splits.train.take(chosen), batch_size=FINE_TUNING["batch_size"], shuffle=True, seed=seed, fixed_length=False
    )
    steps = FINE_TUNING["epochs"] * data.steps_per_epoch
    classifier.compile(ai.adamw(learning_rate, steps=steps, warmup=0.1))
    classifier.fit(data, steps=steps, verbose=0)
    scores = classifier.evaluate(classifier.dataset(splits.test, batch_size=64), verbose=0)
    return {name: scores[name] for name in ("accuracy", "macro_f1", "loss")}


def mean_and_deviation(values: list[float]) -> str:
    """As a cell of a table."""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{deviation}"
