"""Graph tokenizers against the ``tokenizers`` library: the same texts to the same ids, one thread each.

Command:
    python benchmarks/tokenization.py --data ../shared/data --rounds 3
Each side is a process of its own that starts from files (a SavedModel, a tokenizer.json), encodes all texts once, cold,
and then once more, warm. Counted is the CPU time of the process from before it reads its file, imports not counted;
"state" is the bytes of the file. The ids of both sides are compared. Ratios, graph / library, come last.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KINDS = {"wordpiece": "bert-base-uncased", "bpe": "gpt2", "unigram": "t5"}
LIMITS = {"wordpiece": 3, "bpe": 6, "unigram": 3}
BATCH, MAX_LENGTH = 1024, 512


def read_texts(data: Path) -> list[str]:
    """SST-2 and WikiText-2 valid, a line a text: 13,373 lines, 2.1 MB."""
    files = [*(data / "sst2").glob("*.tsv"), *(data / "wikitext2").glob("*valid*")]
    return [line.split("\t")[0] for file in sorted(files) for line in file.read_text("utf-8").splitlines()]


def fingerprint(rows) -> str:
    import numpy as np

    digest = hashlib.sha256()
    for row in rows:
        digest.update(np.asarray(row, np.int32).tobytes() + b";")
    return digest.hexdigest()


def graph_side(folder: str, texts: list[str]) -> dict:
    import tensorflow as tf
    import tensorflow_text  # noqa: F401  registers ops

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.constant(0) + 1  # the runtime itself starts
    start = time.process_time()
    tokenize = tf.saved_model.load(folder).signatures["serving_default"]
    loaded = time.process_time()
    seconds = []
    for _ in range(2):
        before = time.process_time()
        batches = [tf.constant(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)]
        answers = [tokenize(text=batch)["token_ids"].numpy() for batch in batches]
        seconds.append(time.process_time() - before)
    pad = json.loads(Path(folder, "assets.extra", "pad.json").read_text())
    rows = [row[row != pad] for answer in answers for row in answer]
    return {"load": loaded - start, "cold": loaded - start + seconds[0], "warm": seconds[1], "ids": fingerprint(rows)}


def library_side(folder: str, texts: list[str]) -> dict:
    import tokenizers

    start = time.process_time()
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder, "tokenizer.json")))
    tokenizer.enable_truncation(MAX_LENGTH)
    loaded = time.process_time()
    seconds = []
    for _ in range(2):
        before = time.process_time()
        rows = [
            encoding.ids
            for at in range(0, len(texts), BATCH)
            for encoding in tokenizer.encode_batch_fast(texts[at : at + BATCH])
        ]
        seconds.append(time.process_time() - before)
    return {"load": loaded - start, "cold": loaded - start + seconds[0], "warm": seconds[1], "ids": fingerprint(rows)}


def write(kind: str, data: Path, folder: Path) -> dict[str, int]:
    """Writes both sides' files; returns their bytes."""
    import tensorflow as tf

    from aillm_tf.text.graph import graph_tokenizer
    from aillm_tf.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_folder(data / "tokenizers" / KINDS[kind])
    if tokenizer.pad_id is None:
        tokenizer = tokenizer.with_special_tokens(pad="<|endoftext|>")
    module = tf.Module()
    module.tokenize = graph_tokenizer(tokenizer, MAX_LENGTH)
    call = tf.function(
        lambda text: module.tokenize(text), input_signature=[tf.TensorSpec([None], tf.string)], autograph=False
    )
    (folder / "library").mkdir(parents=True)
    tf.saved_model.save(module, str(folder / "graph"), signatures=call)
    (folder / "graph" / "assets.extra").mkdir()
    (folder / "graph" / "assets.extra" / "pad.json").write_text(json.dumps(tokenizer.pad_id))
    (folder / "library" / "tokenizer.json").write_text(tokenizer.backend().to_str(), "utf-8")
    return {
        side: sum(file.stat().st_size for file in (folder / side).rglob("*") if file.is_file())
        for side in ("graph", "library")
    }


def run(side: str, folder: Path, data: Path) -> dict:
    environment = {
        **os.environ,
        **{"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        **{"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
    }
    command = [sys.executable, __file__, "--side", side, "--folder", str(folder / side), "--data", str(data)]
    return json.loads(subprocess.run(command, env=environment, capture_output=True, check=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--side", choices=["graph", "library"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    texts = read_texts(options.data)
    if options.side:
        side = graph_side if options.side == "graph" else library_side
        print(json.dumps(side(options.folder, texts)))
        return
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        for kind in options.kinds:
            folder = Path(scratch, kind)
            state = write(kind, options.data, folder)
            found = {"graph": [], "library": []}
            for _ in range(options.rounds):
                for side in found:
                    found[side].append(run(side, folder, options.data))
            if len({result["ids"] for results in found.values() for result in results}) > 1:
                print(f"{kind}: the ids differ")
            for side, results in found.items():
                middle = {key: statistics.median(result[key] for result in results) for key in ("load", "cold", "warm")}
                times = ", ".join(f"{key} {seconds:.2f} s" for key, seconds in middle.items())
                print(f"{kind:9} {side:7} {len(texts):,} texts: {times}; state {state[side] / 1e6:.1f} MB")
            pairs = list(zip(found["graph"], found["library"], strict=True))
            cold, warm = (
                statistics.median(ours[key] / theirs[key] for ours, theirs in pairs) for key in ("cold", "warm")
            )
            ratios.append(f"{kind:9} graph / library: cold {cold:.2f}, warm {warm:.2f} (at most {LIMITS[kind]} cold)")
    print("\n".join(ratios))


if __name__ == "__main__":
    main()
