"""DPO: teach a dialogue model which of two answers to prefer (direct preference optimization), its second stage.

    aillm train dpo --model.init runs/dialogue/model --data.train pairs.jsonl --data.validation held_out.jsonl
    python recipes/dpo.py --help

pairs.jsonl has {"prompt": ..., "chosen": ..., "rejected": ...} a line, or "messages" in place of "prompt". Writes a run
directory: config, metrics, checkpoints, references.npz (what the model gave the answers before training), the model and
report.html with the loss, the share of pairs of which the chosen answer gained more, and by how much.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from aillm_tf.config import run as run_recipe
from aillm_tf.training.options import Training


@dataclasses.dataclass
class Data:
    """Pairs of answers."""

    # jsonl (.gz too), hf: or tfds: uri with "prompt" or "messages", "chosen" and "rejected"
    train: str
    # pairs to validate with after every epoch, and for the final score; without it that is of the training pairs
    validation: str | None = None
    # at a bad pair: raise, or skip it and count
    on_bad: Literal["raise", "skip"] = "raise"
    # undecodable bytes: strict calls the pair bad, replace reads them as U+FFFD
    encoding_errors: Literal["strict", "replace"] = "strict"


@dataclasses.dataclass
class Model:
    """What training begins with, which is also the reference."""

    # a model that answers already: that of a dialogue run, or a folder or hf: uri of a decoder tuned for conversations
    init: str
    # how much being far from the reference costs
    beta: float = 0.1
    # tokens of a conversation; by default those of init
    max_length: int | None = None


@dataclasses.dataclass
class Config:
    """Everything that decides the result."""

    data: Data
    model: Model
    training: Training = dataclasses.field(
        default_factory=lambda: Training(epochs=1, batch_size=16, learning_rate=1e-5)
    )
    # run directory
    out: str = "runs/dpo"
    # wandb: send metrics to Weights & Biases too
    track: str | None = None


def build(model: Model, training: Training):
    """The task, from the model that it begins with."""
    import aillm_tf as ai

    options = {} if model.max_length is None else {"max_length": model.max_length}
    options |= {"beta": model.beta, "dtype": training.dtype, "seed": training.seed}
    return ai.PreferenceTuning.from_pretrained(model.init, **options)


def main(config: Config) -> dict:
    """Train, score and save the model; returns the report."""
    import numpy as np

    import aillm_tf as ai
    from aillm_tf.data.preferences import read_preferences
    from aillm_tf.files import atomic_file
    from aillm_tf.training.options import batches, fit, open_strategy

    data, training = config.data, config.training
    strategy = open_strategy(training)
    with ai.Run(config.out, config, track=config.track) as run:
        with strategy.scope():
            model = build(config.model, training)
        file = run.directory / "references.npz"
        known = np.load(file) if file.exists() else {}  # a resumed run goes on with its own
        sources = {"train": data.train, **({"validation": data.validation} if data.validation else {})}
        pairs = {
            name: read_preferences(uri, on_bad=data.on_bad, errors=data.encoding_errors)
            for name, uri in sources.items()
        }
        rows = batches(model, pairs["train"], training, references=known.get("train"), on_bad=data.on_bad)
        held_out = None
        if data.validation:
            options = {"batch_size": training.batch_size, "references": known.get("validation"), "on_bad": data.on_bad}
            held_out = model.dataset(pairs["validation"], **options)
        counts = {"train": len(rows), "validation": len(held_out or ())}
        given = sum(len(part.messages) + len(part.skipped) for part in pairs.values())
        counts["skipped"] = given - sum(counts.values())
        print("  ".join(f"{name}: {count:,}" for name, count in counts.items()))
        if not known:
            found = {"train": rows, **({"validation": held_out} if held_out else {})}
            with atomic_file(file) as whole:
                np.savez(whole, **{name: part.columns["references"] for name, part in found.items()})
        fit(model, rows, training, run, validation=held_out, best="-loss" if held_out else None)
        model.save(run.model_folder)
        scores = model.evaluate(held_out or rows)
        facts = {"task": "PreferenceTuning", "seed": training.seed, "steps": model.step, "data": counts}
        report = run.report(scores, **facts, scored_on="validation" if held_out else "train")
    print("  ".join(f"{name}: {value:.4g}" for name, value in scores.items()))
    print(f"model: {run.model_folder}   report: {run.directory / 'report.html'}   talk: aillm chat {config.out}")
    return report


if __name__ == "__main__":
    run_recipe(main)
