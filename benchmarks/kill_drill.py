"""Kill a run with SIGKILL again and again, at random steps and moments, and compare it with an undisturbed one.

    python benchmarks/kill_drill.py --kills 20 OUT pretrain --data.train rows.tsv ... --training.checkpoint_every 3

OUT/whole and OUT/broken are the run directories; what follows is a command of `aillm train` without `--out`. Ends with
an error unless the weights, every step's loss and every validation are equal, byte by byte.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

from aillm_tf.training.metrics_log import read_rows
from aillm_tf.training.process import start

AFTERWARDS = 0.1  # seconds, at most, from the step to the kill: some fall into a checkpoint's writing
MEASURED = ("seconds", "examples_per_second", "tokens_per_second", "mfu")


def rows(out: Path) -> list[dict]:
    """What metrics.jsonl holds, without times."""
    file = out / "metrics.jsonl"
    found = read_rows(file) if file.is_file() else []
    return [{name: value for name, value in row.items() if name not in MEASURED} for row in found]


def last_step(out: Path) -> int:
    """The last one in metrics.jsonl."""
    return max((row["step"] for row in rows(out)), default=0)


def finish(recipe: str, argv: list[str], out: Path) -> None:
    """Lets a run come to its end."""
    if code := start(recipe, [*argv, "--out", str(out)], subprocess.DEVNULL).wait():
        raise SystemExit(f"the run in {out} ended with exit code {code}")


def kill_at(recipe: str, argv: list[str], out: Path, step: int, delay: float) -> bool:
    """Starts a run and kills it some time after a step; whether it lived as long."""
    process = start(recipe, [*argv, "--out", str(out)], subprocess.DEVNULL)
    while process.poll() is None and last_step(out) < step:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    return process.wait() == -signal.SIGKILL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("out", type=Path)
    parser.add_argument("recipe")
    parser.add_argument("argv", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    whole, broken = asked.out / "whole", asked.out / "broken"
    finish(asked.recipe, asked.argv, whole)
    rng = np.random.default_rng(asked.seed)
    steps = sorted(rng.choice(np.arange(1, last_step(whole)), asked.kills, replace=False))
    killed = 0
    for step in steps:
        before = last_step(broken)
        killed += (done := kill_at(asked.recipe, asked.argv, broken, int(step), rng.uniform(0, AFTERWARDS)))
        print(
            f"started with {before} steps in the log, {'killed' if done else 'ended'} at {last_step(broken)}",
            flush=True,
        )
    finish(asked.recipe, asked.argv, broken)
    weights = [(out / "model" / "model.safetensors").read_bytes() for out in (whole, broken)]
    assert weights[0] == weights[1], "the weights differ"
    assert rows(whole) == rows(broken), "the losses differ"
    print(
        f"killed {killed} times over {last_step(broken)} steps: same weights, same {len(rows(whole))} rows of metrics"
    )


if __name__ == "__main__":
    main()
