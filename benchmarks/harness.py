"""What the benchmarks share: the sizes, a subprocess for each side, rounds that alternate, ratios of neighbours.

Every side is a module with a command line that prints one JSON line, started in a process of its own, so that two
frameworks never share threads or memory. A round runs peer, ours, next peer, ours: a machine that slows down for a
minute slows both members of a pair, and the ratio of a pair is what is reported (the median over rounds).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# The BERT of `train_step`: 6 layers x 384, as in MiniLM.
SHAPE = {"vocab_size": 30522, "hidden_size": 384, "layers": 6, "heads": 12, "ffn_size": 1536, "dropout": 0.1}
CLASSES, BATCH, LENGTH = 2, 32, 128
LEARNING_RATE, WEIGHT_DECAY = 5e-5, 0.01
# The Llama of `generate`, in the shape of SmolLM-135M; prompts and new tokens of every row.
DECODER = {"vocab_size": 49152, "hidden_size": 576, "layers": 30, "heads": 9, "kv_heads": 3, "ffn_size": 1536}
PROMPT, NEW = 64, 128
# The fine-tuning of `classification_epoch`.
WARMUP_STEPS, CLIP_NORM, MAX_LENGTH, SEED = 60, 1.0, 128, 0

# nanoGPT's setting for a CPU (its README), of `char_lm`.
CHARACTERS = {
    "shape": {"hidden_size": 128, "layers": 4, "heads": 4, "ffn_size": 512, "max_length": 64},
    "training": {"batch_size": 12, "steps": 2000, "learning_rate": 1e-3, "final_share": 0.1, "warmup": 100}
    | {"weight_decay": 0.1, "beta_2": 0.99, "clip_norm": 1.0},
    "train_share": 0.9,
}


def random_batch():
    """One batch without padding: token ids and segment ids (32, 128) int32, labels (32,) int32."""
    import numpy as np

    chance = np.random.default_rng(SEED)
    token_ids = chance.integers(1000, SHAPE["vocab_size"], (BATCH, LENGTH), dtype=np.int32)
    return token_ids, np.zeros_like(token_ids), chance.integers(0, CLASSES, BATCH, dtype=np.int32)


def random_prompts(batch: int):
    """Token ids (batch, 64) int32 without padding."""
    import numpy as np

    return np.random.default_rng(SEED).integers(1, DECODER["vocab_size"], (batch, PROMPT), dtype=np.int32)


def decoding_times(generate: Callable[[int], object], count: int, repeats: int) -> dict:
    """Seconds of `generate(count)`, of its first call, and of `generate(1)`, which is the time to the first token."""
    start = time.perf_counter()
    generate(count)
    first = time.perf_counter() - start
    seconds = times(lambda: generate(count), repeats, warmup=0)
    return {"first_call_seconds": first, "seconds": seconds, "first_token": times(lambda: generate(1), repeats, 1)}


def read_rows(path: str | Path, limit: int | None = None) -> tuple[list[str], list[int]]:
    """The texts and labels of a file of `text<TAB>label` lines."""
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").rsplit("\t", 1) for line in file][:limit]
    return [text for text, _ in rows], [int(label) for _, label in rows]


def times(call: Callable[[], object], count: int, warmup: int = 2) -> list[float]:
    """Seconds of each of `count` calls, after `warmup` calls that are not counted."""
    for _ in range(warmup):
        call()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return seconds


def step_timer(warmup: int):
    """A Keras callback whose `seconds` are those of each training step after the first `warmup`."""
    import keras

    class StepTimer(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seconds, self.calls = [], 0

        def on_train_batch_begin(self, batch, logs=None):
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch, logs=None):
            self.calls += 1
            if self.calls > warmup:
                self.seconds.append(time.perf_counter() - self.start)

    return StepTimer()


def report(**result) -> None:
    """Prints the one JSON line of a side, with its peak memory."""
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts bytes on macOS, KiB on Linux
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    print(json.dumps({**result, "peak_rss_mb": round(peak)}), flush=True)


def changed(parser: argparse.ArgumentParser, options: argparse.Namespace, names: Sequence[str]) -> str:
    """The options that are not the default ones, as " name=value": a stored result is that of its options only."""
    given = {name: getattr(options, name) for name in names}
    return "".join(f" {name}={value}" for name, value in given.items() if value != parser.get_default(name))


def run_side(arguments: list[str]) -> dict:
    """Runs one side and returns what it reported."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), os.environ.get("PYTHONPATH", "")])}
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    command = [sys.executable, "-m", *arguments]
    process = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, check=False)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed ({process.returncode}):\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def run_rounds(peers: dict[str, list[str]], ours: list[str], rounds: int) -> list[tuple[str, dict, dict]]:
    """Runs every peer followed by ours, `rounds` times; (peer, its result, our result) for each pair."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {load}", file=sys.stderr)
    pairs = []
    for number in range(1, rounds + 1):
        for name, arguments in peers.items():
            print(f"round {number} of {rounds}: {name}, then ours", file=sys.stderr)
            pairs.append((name, run_side(arguments), run_side(ours)))
    return pairs


def print_results(pairs: list[tuple[str, dict, dict]], columns: dict[str, Callable[[dict], float]]) -> None:
    """Prints the median of each column by side, and last the ratios ours / peer.

    Args:
        pairs: of `run_rounds`.
        columns: title -> function that reads the number from a side's result.
    """
    sides: dict[str, list[dict]] = {}
    for name, peer, ours in pairs:
        sides.setdefault(name, []).append(peer)
        sides.setdefault("ours", []).append(ours)
    ordered = [*(name for name in sides if name != "ours"), "ours"]
    width = max(map(len, ordered)) + 2
    print(" " * width + "".join(f"{title:>20}" for title in columns))
    for name in ordered:
        cells = (statistics.median(read(result) for result in sides[name]) for read in columns.values())
        print(f"{name:<{width}}" + "".join(f"{cell:>20.4g}" for cell in cells))
    print()
    for title, read in columns.items():
        for name in ordered[:-1]:
            ratios = sorted(read(ours) / read(peer) for other, peer, ours in pairs if other == name)
            spread = f" ({ratios[0]:.3f} to {ratios[-1]:.3f})" if len(ratios) > 1 else ""
            print(f"ratio ours / {name}, {title}: {statistics.median(ratios):.3f}{spread}")


def chosen(names: str, peers: dict[str, list[str]]) -> dict[str, list[str]]:
    """The peers named in a comma-separated list."""
    unknown = sorted(set(names.split(",")) - set(peers))
    if unknown:
        raise SystemExit(f"unknown peers {', '.join(unknown)}: choose from {', '.join(peers)}")
    return {name: peers[name] for name in peers if name in names.split(",")}
