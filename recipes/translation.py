"""Translation: train an encoder-decoder from scratch, or fine-tune a pretrained one, on pairs of sentences.

    aillm train translation --config recipes/configs/translation-multi30k.yaml
    aillm train translation --data.train pairs.tsv --data.source en --data.target de --model.init FOLDER
    python recipes/translation.py --help

Writes a run directory: config, metrics, checkpoints, the model, written.jsonl (every held-out sentence with what was
made of it) and report.html with sacreBLEU, chrF and TER, their signatures and examples. The same command again goes on
where a killed run stopped. docs/translation.md has measured times and scores.
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
    model: Model = dataclasses.field(default_factory=Model)
    training: Training = dataclasses.field(
        default_factory=lambda: Training(
            epochs=20, tokens_per_batch=4096, learning_rate=2e-3, warmup=0.1, schedule="inverse_sqrt", beta_2=0.98
        )
    )
    decoding: Decoding = dataclasses.field(default_factory=lambda: Decoding(num_beams=5))
    # codes of a pretrained model of many languages: en_XX and de_DE for mBART
    source_language: str | None = None
    target_language: str | None = None
    # the result is the mean of the weights of so many of the last checkpoints
    average: int = 5
    # benchmark whose published scores stand beside ours in the report, or none; by default as the data's names say
    benchmark: str | None = None
    # run directory
    out: str = "runs/translation"
    # wandb: send metrics to Weights & Biases too
    track: str | None = None


def main(config: Config) -> dict:
    """Train, score and save a translator; returns the report."""
    import aillm_tf as ai
    from aillm_tf.metrics.translation import translation_scores
    from aillm_tf.training.options import open_strategy
    from aillm_tf.training.text_to_text import build, read_splits, train, write_and_score

    training, decoding = config.training, config.decoding
    strategy = open_strategy(training)
    with ai.Run(config.out, config, track=config.track) as run:
        splits = read_splits(config.data, training.seed)
        print("  ".join(f"{name}: {count:,}" for name, count in splits.counts.items()))
        languages = {"source_language": config.source_language, "target_language": config.target_language}
        with strategy.scope():
            model = build(ai.Translation, config.model, training, splits.train, run, **languages)
        best = "bleu" if decoding.validation_rows else "-loss"
        facts = train(model, splits, config.data, training, decoding, run, average=config.average, best=best)
        scores = {}
        if splits.held_out:
            scores, written, examples = write_and_score(model, splits.held_out, training, decoding, run)
            facts["signatures"] = translation_scores(written, splits.held_out.references).signatures
            facts |= {"scored_on": "test" if splits.test else "validation", "tables": {"Examples": examples}}
        report = run.report(scores, task="Translation", seed=training.seed, **facts)
    print("  ".join(f"{name}: {value:.4g}" for name, value in scores.items()))
    print("  ".join(f"{name}: {text}" for name, text in facts.get("signatures", {}).items()))
    print(f"model: {run.model_folder}   report: {run.directory / 'report.html'}")
    return report


if __name__ == "__main__":
    run_recipe(main)
