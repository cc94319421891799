"""`aillm prepare` on generated text: time, memory, duplicates found; beside `datasets` + `tokenizers` tokenizing only.

    python benchmarks/prepare.py --megabytes 100          # some minutes on two cores
    python benchmarks/prepare.py --megabytes 1000

Documents of 50 to 800 words are drawn from the word frequencies of WikiText-2; 2 % of them are copies of earlier ones
and 5 % are earlier ones with a passage replaced, so that they share 80 % of their five-word runs. The tokenizer is
trained on a part of them before the clock starts, and both sides use it: ours reads, cleans, judges, finds duplicates,
tokenizes, packs and writes; the other side reads and tokenizes. Memory is the sum over all processes, sampled.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil

ROOT = Path(__file__).parents[1]
WIKITEXT = ROOT.parent / "shared" / "data" / "wikitext2"
TOKENIZE_ONLY = """
import sys
import datasets, tokenizers
datasets.disable_progress_bars()
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[2])
rows = datasets.load_dataset("json", data_files=sys.argv[1], split="train", cache_dir=sys.argv[3])
done = rows.map(
    lambda batch: {"ids": [row.ids for row in tokenizer.encode_batch_fast(batch["text"])]},
    batched=True, num_proc=int(sys.argv[4]) if int(sys.argv[4]) > 1 else None, remove_columns=rows.column_names,
)
print(len(done))
"""


def generate(path: Path, megabytes: float, seed: int = 0) -> dict[str, int]:
    """Write the documents as JSON lines; says how many of each kind there are."""
    counts = Counter(
        re.findall(r"[A-Za-z]+|[.,;:]", "".join((WIKITEXT / f"{n}.txt").read_text() for n in ("valid", "test")))
    )
    words = np.array(list(counts))
    shares = np.array(list(counts.values()), float)
    rng = np.random.default_rng(seed)
    recent: list[np.ndarray] = []
    made = Counter(documents=0, copies=0, near=0)
    size = 0
    with path.open("w") as file:
        while size < megabytes * 1e6:
            stream = words[rng.choice(len(words), 2_000_000, p=shares / shares.sum())]
            at = 0
            while at < len(stream) - 800 and size < megabytes * 1e6:
                length = int(rng.integers(50, 800))
                document, kind = stream[at : at + length], rng.random()
                at += length
                if kind < 0.02 and recent:
                    document = recent[int(rng.integers(len(recent)))]
                    made["copies"] += 1
                elif kind < 0.07 and recent:
                    document = near_copy(recent[int(rng.integers(len(recent)))], document)
                    made["near"] += 1
                else:
                    recent = [*recent[-999:], document]
                line = json.dumps({"text": " ".join(document)}) + "\n"
                size += len(line)
                made["documents"] += 1
                file.write(line)
    return dict(made)


def near_copy(document: np.ndarray, other: np.ndarray, similarity: float = 0.8, run: int = 5) -> np.ndarray:
    """The document with one passage of another in place of its own, so long that the Jaccard similarity is as asked."""
    runs = len(document) - run + 1
    passage = max(1, round(runs * (1 - similarity) / (1 + similarity)) - run + 1)
    changed = document.copy()
    start = (len(document) - passage) // 2
    changed[start : start + passage] = np.resize(other, passage)
    return changed


def measure(command: list[str], megabytes: float, cores: int, environment: dict[str, str]) -> str:
    """What a command took: seconds, of the wall and of processors, and the peak memory of it and its children."""
    begun, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    peak = [0]

    def watch():
        while process.poll() is None:
            try:
                tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                peak[0] = max(peak[0], sum(p.memory_info().rss for p in tree))
            except psutil.Error:
                pass
            time.sleep(0.1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    process.wait()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{command[:4]} failed")
    seconds, now = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return (
        f"{seconds:.1f} s, {megabytes / seconds / cores:.2f} MB/s a core on {cores}; {busy:.1f} s of processors, "
        f"{megabytes / busy:.2f} MB/s; peak {peak[0] / 1e6:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument(
        "--folder", type=Path, help="empty or new; text and shards stay in it (default: a temporary one)"
    )
    arguments = parser.parse_args()
    if importlib.util.find_spec("datasets") is None:
        parser.error("the other side is not installed: pip install datasets")
    from aillm_tf.text.train import train_tokenizer

    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            parser.error(f"{folder} is not empty: what is prepared already would not be measured")
        text = folder / "text.jsonl"
        made = generate(text, arguments.megabytes)
        megabytes = text.stat().st_size / 1e6
        print(f"{megabytes:.0f} MB: {made}", flush=True)
        with text.open() as lines:
            sample = [json.loads(line)["text"] for _, line in zip(range(20_000), lines, strict=False)]
        tokenizer = train_tokenizer(sample, kind="wordpiece", vocab_size=8192)
        tokenizer.save(folder / "tokenizer")
        cores = arguments.cores
        environment = {"RAYON_NUM_THREADS": str(cores)}
        ours = [sys.executable, "-m", "aillm_tf.cli", "prepare", str(folder / "corpus"), str(text)]
        ours += ["--tokenizer", str(folder / "tokenizer"), "--processes", str(cores)]
        print("aillm prepare:", measure(ours, megabytes, cores, environment))
        manifest = json.loads((folder / "corpus" / "manifest.json").read_text())
        found, split = manifest["stages"]["duplicates"], manifest["splits"]["train"]
        print(f"  copies: {found['exact copies']} of {made['copies']}")
        print(f"  near-duplicates: {found['near-duplicates']} of {made['near']}")
        print(f"  rows {split['filled']:.2%} full", flush=True)
        peer = [sys.executable, "-c", TOKENIZE_ONLY, str(text), str(folder / "tokenizer" / "tokenizer.json")]
        peer += [str(folder / "cache"), str(cores)]
        threads = {"TOKENIZERS_PARALLELISM": "false" if cores > 1 else "true"}
        print("datasets + tokenizers, tokenization only:", measure(peer, megabytes, cores, threads))


if __name__ == "__main__":
    main()
