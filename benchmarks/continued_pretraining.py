"""Does masked language modelling on unlabelled tweets help before fine-tuning on few labels? (Gururangan et al. 2020)

MiniLM (all-MiniLM-L6-v2, a sentence encoder) is fine-tuned on 500 and on 2,000 of the quickstart's tweets: as it is,
and after continued masked language modelling on all training tweets without their labels. The test rows are in neither.
The head of the masked language model begins anew, as this checkpoint has none. 3 seeds choose the labels, the order and
the weights of the new head; the pretraining is one run.

Results are kept in --out after every run: the same command goes on where it was stopped, and prints the table.

Command:
    python benchmarks/continued_pretraining.py --out runs/continued
    python benchmarks/continued_pretraining.py --out runs/quick --epochs 0.02 --seeds 1 --labels 200 --test-rows 300
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tweets import FINE_TUNING, Results, fine_tuned, mean_and_deviation, tweets

from aillm_tf.weights.known import MINILM

LEARNING_RATE = 1e-4  # of either, as the quickstart's


def pretrain(texts: list[str], held_out: list[str], folder: Path, epochs: float) -> dict:
    """Continue MiniLM on texts; resumes from its checkpoints."""
    import aillm_tf as ai

    model = ai.MaskedLM.from_pretrained(MINILM, max_length=FINE_TUNING["max_length"])
    data = model.dataset(texts, batch_size=64, shuffle=True, fixed_length=False)
    steps = max(1, round(epochs * data.steps_per_epoch))
    model.compile(ai.adamw(LEARNING_RATE, steps=steps, warmup=0.1))
    validation = model.dataset(held_out, batch_size=64)
    before = model.evaluate(validation, verbose=0)
    model.fit(data, steps=steps, checkpoints=ai.Checkpoints(folder / "checkpoints", every_steps=100), verbose=2)
    model.save(folder / "model")
    after = model.evaluate(validation, verbose=0)
    return {"steps": steps, "rows": len(texts), "loss_before": before["loss"], "loss_after": after["loss"]}


def main(arguments: argparse.Namespace) -> None:
    import aillm_tf as ai

    out, splits = Path(arguments.out), tweets(arguments.test_rows)
    results, tuned = Results(out / "results.json"), out / "tweets_lm"
    facts = results.get(
        f"pretraining/{arguments.epochs}",
        lambda: pretrain(splits.train.texts, splits.test.texts[:1000], tuned, arguments.epochs),
    )
    print(
        f"\n{facts['rows']:,} tweets, {facts['steps']} steps of 64 rows, {facts['seconds']:.0f} s; masked language "
        f"modelling loss on held-out tweets {facts['loss_before']:.2f} -> {facts['loss_after']:.2f}\n"
    )
    sources = {"MiniLM": MINILM, "MiniLM, continued on tweets": str(tuned / "model")}

    def measure(source: str, labels: int, seed: int) -> dict:
        options = {"labels": splits.train.labels, "max_length": FINE_TUNING["max_length"], "pooling": "mean"}
        model = ai.TextClassifier.from_pretrained(source, seed=seed, **options)
        return fine_tuned(model, splits, labels, seed, LEARNING_RATE)

    rows = ["| weights | labels | accuracy | macro F1 |", "|---|---|---|---|"]
    for labels in arguments.labels:
        for name, source in sources.items():
            key = f"{name}/{labels}" if source == MINILM else f"{name}/{arguments.epochs}/{labels}"
            runs = [
                results.get(f"{key}/{seed}", lambda source=source, seed=seed: measure(source, labels, seed))  # noqa: B023
                for seed in range(arguments.seeds)
            ]
            cells = [mean_and_deviation([run[score] for run in runs]) for score in ("accuracy", "macro_f1")]
            rows.append(f"| {name} | {labels:,} | {' | '.join(cells)} |")
    print("\n".join(["", *rows]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/continued_pretraining")
    parser.add_argument("--epochs", type=float, default=2.0, help="of masked language modelling")
    parser.add_argument("--labels", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test-rows", type=int, default=3000)
    main(parser.parse_args())
