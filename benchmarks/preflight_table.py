"""Every config of recipes/configs through `aillm tpu preflight`: the table of docs/preflight.md.

Each config is compiled with its stated batch, for each topology, in a process of its own. What is done is kept in
--results by the config's checksum, so that a run that was stopped goes on; a changed config is compiled again. Where a
config needs a corpus, one of made-up words is written that has enough of them for its vocabulary: shapes, memory and
FLOPs are those of any corpus, padding is not (and is left out of the table).

Command (needs jax and libtpu; a tiny config takes a minute, a full-size one many, and gigabytes of memory):
    python benchmarks/preflight_table.py --only tiny
    python benchmarks/preflight_table.py
    python benchmarks/preflight_table.py --table
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS, SHARED = ROOT / "recipes" / "configs", ROOT.parent / "shared" / "data"
WORDS = 60_000
# the data of a config that does not pretrain, below ../shared/data
DATA = {
    "translation-multi30k": {"data.train.source": "multi30k/train.en.gz", "data.train.target": "multi30k/train.de.gz"},
    "summarization-scitldr": {"data.train": "scitldr/train.jsonl", "data.validation": "scitldr/dev.jsonl"},
    "dialogue-sgd": {"data.train": "sgd/train", "data.validation": "sgd/dev"},
    "dialogue-chatterbot": {},
}
DATA["translation-multi30k"] |= {
    "data.validation.source": "multi30k/val.en.gz",
    "data.validation.target": "multi30k/val.de.gz",
}


def write_corpus(file: Path) -> None:
    """Documents of made-up words, each of which comes about six times, half of it together with the same others."""
    import numpy as np

    chance = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(chance.choice(letters, size)) for size in chance.integers(4, 11, WORDS)]
    lines = []
    for _ in range(6):
        order = chance.permutation(WORDS)
        sentences = [" ".join(words[i] for i in part).capitalize() + "." for part in np.split(order, WORDS // 5)]
        lines += [" ".join(sentences[i : i + 120]) for i in range(0, len(sentences), 120)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def options_of(config: str, corpus: Path) -> list[str]:
    """Options that give a config its data."""
    found = DATA.get(config)
    data = {"data.train": str(corpus)} if found is None else {key: str(SHARED / path) for key, path in found.items()}
    return [word for key, value in data.items() for word in (f"--{key}", value)]


def measure(config: Path, topology: str, corpus: Path, limit: float | None) -> dict:
    """What preflight says of a config: its numbers, or why it does not pass."""
    recipe = config.stem.partition("-")[0]
    command = [sys.executable, "-m", "aillm_tf.cli", "tpu", "preflight", recipe, "--config", str(config)]
    command += [*options_of(config.stem, corpus), "--topology", topology, "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"error": f"not done in {limit / 60:.0f} minutes"}
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"status {done.returncode}"}
    (found,) = json.loads(done.stdout.splitlines()[-1])
    return found


def table(results: dict) -> str:
    """The results as Markdown."""
    giga = 1 << 30
    titles = (
        "config",
        "topology",
        "rows a chip",
        "memory of a chip",
        "left",
        "FLOP a chip",
        "bytes",
        "step",
        "bound by",
    )
    lines = [f"| {' | '.join((*titles, 'MFU'))} |", "|---" * 10 + "|"]
    for key in sorted(results):
        config, topology = key.split(" ")
        found = results[key]["found"]
        if "error" in found:
            lines.append(f"| {config} | {topology} | {found['error'][:160]} |" + " |" * 7)
            continue
        compiler, used = found["compiler"], found["used_bytes"] / giga
        cells = [config, topology, found["rows_per_chip"], f"{used:.2f} of {found['capacity'] / giga:.2f} GiB"]
        cells += [f"{found['headroom']:.0%}", f"{compiler['flops'] / 1e12:.3f} T"]
        cells += [f"{compiler['bytes_accessed'] / 1e9:.2f} GB", f"{1e3 * found['seconds']:.1f} ms", found["bound"]]
        lines.append("| " + " | ".join(map(str, [*cells, f"{found['mfu']:.0%}"])) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topologies", default="v5e:2x4,v6e:2x4", help="default: %(default)s")
    parser.add_argument("--only", default="", help="configs whose name contains this")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "preflight_results.json")
    parser.add_argument("--limit", type=float, help="seconds after which a config is given up")
    parser.add_argument("--table", action="store_true", help="print the table of what is done, compile nothing")
    options = parser.parse_args()
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    configs = [path for path in CONFIGS.glob("*.yaml") if options.only in path.name]
    # tiny ones first: they say soonest whether something is wrong
    configs.sort(key=lambda path: ("tiny" not in path.stem and path.stem.startswith("pretrain"), path.stem))
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus.txt")
        write_corpus(corpus)
        for config in configs if not options.table else ():
            checksum = hashlib.sha256(config.read_bytes()).hexdigest()
            for topology in options.topologies.split(","):
                key = f"{config.stem} {topology}"
                if results.get(key, {}).get("config") == checksum and "error" not in results[key]["found"]:
                    continue
                found = measure(config, topology, corpus, options.limit)
                results[key] = {"config": checksum, "found": found}
                options.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
                print(key, found.get("error", "passes"), file=sys.stderr, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
