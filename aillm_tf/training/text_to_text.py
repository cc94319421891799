"""What the recipes that learn from pairs of texts share: their options, reading, building, training and writing."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal

from aillm_tf.config import warn_unused
from aillm_tf.training.options import Training, batches, fit

WRITTEN = "written.jsonl"  # in the run directory: what the model made of the held-out sources


@dataclasses.dataclass
class Data:
    """Where pairs of texts come from, how they are read and cleaned."""

    # csv, tsv or jsonl (.gz too), tfds: or hf: uri; or two files of lines, {source: train.en.gz, target: train.de.gz}
    train: str | dict[str, str]
    # pairs to validate with after every epoch; without it, validation_rows are taken from train
    validation: str | dict[str, str] | None = None
    # pairs for the final score; without it, that is of the validation pairs
    test: str | dict[str, str] | None = None
    # rows (or, below 1, the share of rows) split off train where there is no validation source
    validation_rows: float = 0
    # use only so many of the training rows
    train_rows: int | None = None
    # name or number of the source's column; a.b is b inside of a
    source: str = "source"
    # name or number of the target's column; a list there is several references
    target: str = "target"
    # drop training pairs of which one text is so many times longer beside the other than is usual in this corpus
    max_ratio: float | None = None
    # drop training pairs that are there already, word by word
    deduplicate: bool = False
    # what is longer than the model's lengths, in training: cut it, or drop the pair
    longer: Literal["cut", "drop"] = "cut"
    # at a bad row: raise, or skip it and count
    on_bad: Literal["raise", "skip"] = "raise"
    # undecodable bytes: strict calls the row bad, replace reads them as U+FFFD
    encoding_errors: Literal["strict", "replace"] = "strict"


@dataclasses.dataclass
class Model:
    """Where the model comes from."""

    # pretrained weights: a folder in Hugging Face layout (T5, BART, Marian, ...) or that a run wrote, hf:org/name
    init: str | None = None
    # shape of a model trained from scratch, where there is no init
    preset: str = "translation-small"
    # folder of the tokenizer of a model from scratch; without it one is trained on the training texts
    tokenizer: str | None = None
    # kind of a tokenizer that is trained
    tokenizer_kind: Literal["bpe", "unigram"] = "bpe"
    # tokens of a tokenizer that is trained
    vocab_size: int = 8000
    # one vocabulary for source and target; else each has its own, of vocab_size tokens
    joint: bool = True
    # longest source, in tokens
    max_length: int = 128
    # longest target, in tokens
    max_target_length: int = 128
    # of hidden states, by default that of the checkpoint or preset
    dropout: float | None = None
    # share of the target spread evenly over the vocabulary
    label_smoothing: float = 0.1
    # put before every source, "summarize: " for T5
    prefix: str = ""


@dataclasses.dataclass
class Decoding:
    """How texts are written, for scores and in the exported model; what is not given is the checkpoint's."""

    num_beams: int | None = None
    # above 0, higher scores go to longer texts
    length_penalty: float | None = None
    # no sequence of so many tokens comes twice
    no_repeat_ngram_size: int | None = None
    # longest text, in tokens; by default the checkpoint's, or model.max_target_length where it has none
    max_new_tokens: int | None = None
    # sources decoded at once
    batch_size: int = 64
    # of so many validation sources the target is written and scored after every epoch, too, with the options above, so
    # that beams make every epoch longer
    validation_rows: int = 0
    # shown in the report
    examples: int = 20


@dataclasses.dataclass(frozen=True)
class Splits:
    """Rows for training, validation and testing, and how many fell away, by reason."""

    train: Any  # a Parallel each, see aillm_tf.data.parallel
    validation: Any
    test: Any
    counts: dict[str, int]

    @property
    def held_out(self):
        return self.test or self.validation


def read_splits(data: Data, seed: int) -> Splits:
    """Reads and cleans; only training rows are cleaned, scores are of the texts as they are.

    Raises:
        ValueError: a bad row, or more rows asked for than there are.
    """
    import numpy as np

    from aillm_tf.data.parallel import clean_parallel, read_parallel

    def read(uri):
        if uri is None:
            return None
        options = {"on_bad": data.on_bad, "errors": data.encoding_errors}
        return read_parallel(uri, source=data.source, target=data.target, **options)

    rows, validation, test = read(data.train), read(data.validation), read(data.test)
    counts = {"rows read": len(rows) + len(rows.skipped), "bad rows": len(rows.skipped)}
    rows, dropped = clean_parallel(rows, max_ratio=data.max_ratio, deduplicate=data.deduplicate)
    counts |= {f"{reason} (dropped)": count for reason, count in dropped.items()}
    if validation is None and data.validation_rows:
        wanted = data.validation_rows
        wanted = round(wanted * len(rows)) if wanted < 1 else int(wanted)
        if not 0 < wanted < len(rows):
            raise ValueError(f"{wanted} validation rows of {len(rows)} leave nothing to train on: ask for fewer")
        order = np.random.default_rng([seed, 0x5EED]).permutation(len(rows))
        validation, rows = rows.take(order[:wanted]), rows.take(order[wanted:])
    if data.train_rows is not None:
        if not 0 < data.train_rows <= len(rows):
            raise ValueError(f"data.train_rows asks for {data.train_rows} rows, but only {len(rows)} are left")
        rows = rows.take(range(data.train_rows))
    counts |= {"train": len(rows), "validation": len(validation or ()), "test": len(test or ())}
    return Splits(rows, validation, test, counts)


def build(task: type, model: Model, training: Training, rows, run, **options):
    """The task: pretrained, or from scratch with tokenizers of its own, which are kept in the run directory.

    Raises:
        FileNotFoundError: no such model or tokenizer.
        ValueError: one tokenizer for two vocabularies, or a preset without a decoder that reads a source.
    """
    import aillm_tf as ai
    from aillm_tf.text.train import kept_tokenizer

    options |= {
        "max_length": model.max_length,
        "max_target_length": model.max_target_length,
        "label_smoothing": model.label_smoothing,
        **({"prefix": model.prefix} if model.prefix else {}),
        "dtype": training.dtype,
        "seed": training.seed,
    }
    changes = {} if model.dropout is None else {"dropout": model.dropout}
    if model.init:
        warn_unused(model, "preset tokenizer tokenizer_kind vocab_size joint", f"{model.init} has its own")
        return task.from_pretrained(model.init, **options, **changes)
    sources, targets = rows.pairs()
    sides = {"tokenizer": [*sources, *targets]} if model.joint else {"tokenizer": sources, "target_tokenizer": targets}
    if model.tokenizer and not model.joint:
        raise ValueError(
            "model.tokenizer is one for both sides, and model.joint is false: leave model.tokenizer out, and each side "
            "gets its own, or leave model.joint true"
        )
    if model.tokenizer:
        warn_unused(model, "tokenizer_kind vocab_size", f"{model.tokenizer} is the tokenizer")
    learned = {"kind": model.tokenizer_kind, "vocab_size": model.vocab_size, "use": "seq2seq"}
    tokenizers = {
        name: ai.Tokenizer.from_folder(model.tokenizer)
        if model.tokenizer
        else kept_tokenizer(run.directory / name, texts, **learned)
        for name, texts in sides.items()
    }
    if not model.joint:
        changes["decoder_vocab_size"] = tokenizers["target_tokenizer"].vocab_size
    shape = ai.preset(model.preset, tokenizers["tokenizer"].vocab_size, **changes)
    if not shape.decoder_layers:
        raise ValueError(f"model.preset {model.preset} has no decoder that reads a source: take one that has both")
    return task(shape, **tokenizers, **options)


def train(
    model,
    splits: Splits,
    data: Data,
    training: Training,
    decoding: Decoding,
    run,
    *,
    average: int = 1,
    best: str = "-loss",
) -> dict:
    """Trains, takes the mean of the last checkpoints and saves the model; returns facts for the report.

    Args:
        model: built within the strategy's scope.
        splits: what `read_splits` gave.
        data, training, decoding: the recipe's options.
        run: the open run directory.
        average: checkpoints to take the mean of; 1: the last weights.
        best: name of the validation metric whose best checkpoint is kept ("-loss": lower is better).
    """
    from aillm_tf.layers.naming import variables_by_name
    from aillm_tf.training.average import average_checkpoints

    if average > 1 and (training.restore_best or training.ema):
        raise ValueError(f"average={average} is in place of training.restore_best and training.ema: give one of them")
    training = dataclasses.replace(training, keep=max(training.keep, average))
    # before training, so that validation, which may choose the best checkpoint, writes as the final score does
    names = ("num_beams", "length_penalty", "no_repeat_ngram_size", "max_new_tokens")
    given = {name: getattr(decoding, name) for name in names}
    model.generation = model.generation.replace(**{name: v for name, v in given.items() if v is not None})
    rows = batches(model, splits.train, training, **({"longer": "drop"} if data.longer == "drop" else {}))
    size = {"batch_size": training.batch_size, "tokens_per_batch": training.tokens_per_batch}
    validation = splits.validation and model.dataset(splits.validation, decode=decoding.validation_rows, **size)
    fit(model, rows, training, run, validation=validation, best=best if validation else None)
    facts = {"steps": model.step, "padding_fraction": rows.padding_fraction, "data": splits.counts}
    if average > 1:
        averaged = average_checkpoints(run.directory / "checkpoints", average)
        for name, variable in variables_by_name(model).items():
            variable.assign(averaged.weights[name])
        facts["averaged_steps"] = averaged.steps
        print(f"taken: the mean of the weights of the steps {', '.join(map(str, averaged.steps))}")
    model.save(run.model_folder)
    facts["generation"] = {name: str(value) for name, value in model.generation.changed().items()}
    return facts


def write_and_score(
    model, rows, training: Training, decoding: Decoding, run
) -> tuple[dict[str, float], list[str], list[dict]]:
    """Loss and text scores of held-out rows, what was written for each, and some beside their references.

    All that was written goes into the run directory, too.
    """
    size = {"batch_size": training.batch_size, "tokens_per_batch": training.tokens_per_batch}
    scores = model.evaluate(model.dataset(rows, **size))
    written = model.write(rows.sources, batch_size=decoding.batch_size)
    scores |= model.text_scores(written, rows.references)
    table = [
        {"source": source, "reference": " | ".join(texts), "written": text}
        for source, texts, text in zip(rows.sources, rows.references, written, strict=True)
    ]
    with open(run.directory / WRITTEN, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in table)
    return scores, written, table[: decoding.examples]
