"""Summarization: train an encoder-decoder from scratch, or fine-tune a pretrained one, on texts and their summaries.

    aillm train summarization --data.train train.jsonl --data.validation dev.jsonl --data.test test.jsonl
    aillm train summarization --data.train train.jsonl --data.test test.jsonl --model.init t5-small \\
        --model.prefix "summarize: "
    python recipes/summarization.py --help

Writes a run directory: config, metrics, checkpoints, the model, written.jsonl (every held-out text with its summary)
and report.html with ROUGE-1, -2, -L and -Lsum of the model and, beside it, of the first sentences of every text. The
same command again goes on where a killed run stopped. docs/summarization.md has measured times and scores.
"""

from __future__ import annotations

import dataclasses

from aillm_tf.config import run as run_recipe
from aillm_tf.training.options import Training
from aillm_tf.training.text_to_text import Data, Decoding, Model


@dataclasses.dataclass
class Config:
    """Everything that decides the result."""

    data: Data
    model: Model = dataclasses.field(
        default_factory=lambda: Model(preset="t5-small", max_length=512, max_target_length=96)
    )
    training: Training = dataclasses.field(
        default_factory=lambda: Training(batch_size=16, learning_rate=1e-3, schedule="inverse_sqrt")
    )
    decoding: Decoding = dataclasses.field(default_factory=lambda: Decoding(num_beams=4, no_repeat_ngram_size=3))
    # of a decoder alone (GPT-2, Llama): what stands between a text and its summary
    prompt: str = "\nTL;DR:"
    # sentences of the baseline; by default as many as references have on average
    lead: int | None = None
    # the result is the mean of the weights of so many of the last checkpoints
    average: int = 1
    # benchmark whose published scores stand beside ours in the report, or none; by default as the data's names say
    benchmark: str | None = None
    # run directory
    out: str = "runs/summarization"
    # wandb: send metrics to Weights & Biases too
    track: str | None = None


def task_of(config: Config) -> tuple[type, dict]:
    """The class of the task and its own options: a decoder alone goes on from a prompt."""
    import aillm_tf as ai
    from aillm_tf.tasks.prompted import PromptedSummarization
    from aillm_tf.weights.sources import open_source

    if config.model.init is None or open_source(config.model.init).config.decoder_layers:
        return ai.Summarization, {}
    if config.model.prefix:
        raise ValueError("model.prefix is for models with an encoder; a decoder alone has a prompt after the text")
    return PromptedSummarization, {"prompt": config.prompt}


def main(config: Config) -> dict:
    """Train, score and save a summarizer; returns the report."""
    import aillm_tf as ai
    from aillm_tf.metrics.summaries import lead_scores
    from aillm_tf.training.options import open_strategy
    from aillm_tf.training.text_to_text import build, read_splits, train, write_and_score

    training, decoding = config.training, config.decoding
    strategy = open_strategy(training)
    with ai.Run(config.out, config, track=config.track) as run:
        splits = read_splits(config.data, training.seed)
        print("  ".join(f"{name}: {count:,}" for name, count in splits.counts.items()))
        with strategy.scope():
            task, options = task_of(config)
            model = build(task, config.model, training, splits.train, run, **options)
        best = "rougeL" if decoding.validation_rows else "-loss"
        facts = train(model, splits, config.data, training, decoding, run, average=config.average, best=best)
        scores = {}
        if splits.held_out:
            scores, _, examples = write_and_score(model, splits.held_out, training, decoding, run)
            count, baseline = lead_scores(splits.held_out.sources, splits.held_out.references, config.lead)
            table = [{"of": "the model", **{name: scores[name] for name in baseline}}]
            table.append({"of": f"the first {count} sentences" if count > 1 else "the first sentence", **baseline})
            facts |= {
                "scored_on": "test" if splits.test else "validation",
                "tables": {"ROUGE": table, "Examples": examples},
                "lead": {"sentences": count, **baseline},
            }
        report = run.report(scores, task=task.__name__, seed=training.seed, **facts)
    for row in facts.get("tables", {}).get("ROUGE", ()):
        print("  ".join(f"{name}: {v if isinstance(v, str) else f'{v:.2f}'}" for name, v in row.items()))
    print(f"model: {run.model_folder}   report: {run.directory / 'report.html'}")
    return report


if __name__ == "__main__":
    run_recipe(main)
