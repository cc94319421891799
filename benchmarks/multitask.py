"""Three objectives over one encoder-decoder in 3 N steps, beside each of them alone in N steps.

Span corruption (T5), text infilling with sentence permutation (BART) and prefix language modelling, on WikiText-2: its
valid file is learned from, its test file is scored on. All runs begin with the same weights of the backbone and see the
same batches of their objective in the same order. The aim: every objective's validation loss in the common run is at
most 10 % above that of its own.

Command:
    python benchmarks/multitask.py --steps 1000
    python benchmarks/multitask.py --steps 300 --seeds 1
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tweets import Results

WIKITEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "wikitext2"
SHAPE = {"hidden_size": 64, "layers": 2, "decoder_layers": 2, "heads": 2, "ffn_size": 256, "max_length": 64}
SHAPE |= {"norm_placement": "pre", "dropout": 0.0, "attention_dropout": 0.0}
OBJECTIVES = {
    "span_corruption": {"task": "Denoising", "noise": "span_corruption"},
    "infilling": {"task": "Denoising", "noise": ("sentence_permutation", "text_infilling")},
    "prefix": {"task": "Denoising", "noise": "prefix"},
}
BATCHES = {"batch_size": 16, "shuffle": True, "fixed_length": True}
LEARNING_RATE = 3e-3


def paragraphs(name: str) -> list[str]:
    lines = (WIKITEXT / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if len(line) > 200]


def run(tokenizer, names: list[str], steps: int, seed: int) -> dict:
    """Validation loss of each objective after training these together; one is `MultiTask` of one."""
    import aillm_tf as ai

    config = ai.TransformerConfig(vocab_size=tokenizer.vocab_size, **SHAPE)
    objectives = {name: OBJECTIVES[name] for name in names}
    model = ai.MultiTask(config, tokenizer, objectives=objectives, max_length=64, dtype="float32", seed=seed)
    model.compile(ai.adamw(LEARNING_RATE, steps=steps, warmup=0.1, schedule="cosine"))
    # an objective sees the same batches in the same order whoever else is there
    own = {name: {"seed": seed + 7919 * list(OBJECTIVES).index(name)} for name in names}
    data = model.dataset(paragraphs("valid"), seed=seed, each=own, **BATCHES)
    began = time.perf_counter()
    model.fit(data, steps=steps, verbose=0)
    took = time.perf_counter() - began
    held_out = paragraphs("test")[:300]
    scores = model.evaluate(model.dataset(held_out, batch_size=32, fixed_length=True), verbose=0)
    return {
        "loss": {name: scores[f"{name}_loss"] for name in names},
        "steps": {name: account["steps"] for name, account in model.accounts.run.items()},
        "tokens": {name: account["tokens"] for name, account in model.accounts.run.items()},
        "training_seconds": round(took, 1),
    }


def main(arguments: argparse.Namespace) -> None:
    import aillm_tf as ai
    from aillm_tf.text.sentinels import with_sentinels

    if not WIKITEXT.exists():
        raise SystemExit(f"{WIKITEXT} is not there: this benchmark learns from WikiText-2")
    bare = ai.train_tokenizer(paragraphs("valid"), kind="bpe", vocab_size=1000, use="seq2seq")
    tokenizer, steps = with_sentinels(bare, 16), arguments.steps
    results, names = Results(Path(arguments.out) / "results.json"), list(OBJECTIVES)
    print("| objective | seed | alone, N steps | together, 3 N steps | ratio | steps | tokens |")
    print("|---|---|---|---|---|---|---|")
    for seed in range(arguments.seeds):
        together = results.get(f"together/{steps}/{seed}", lambda seed=seed: run(tokenizer, names, 3 * steps, seed))
        for name in names:
            alone = results.get(
                f"{name}/{steps}/{seed}", lambda name=name, seed=seed: run(tokenizer, [name], steps, seed)
            )
            one, other = alone["loss"][name], together["loss"][name]
            cells = [f"{one:.3f}", f"{other:.3f}", f"{other / one:.3f}"]
            counts = [f"{facts[what][name]:,}" for what in ("steps", "tokens") for facts in (alone, together)]
            print(f"| {name} | {seed} | {' | '.join(cells)} | {' / '.join(counts[:2])} | {' / '.join(counts[2:])} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/multitask")
    parser.add_argument("--steps", type=int, default=1000, help="of an objective alone: N")
    parser.add_argument("--seeds", type=int, default=1)
    main(parser.parse_args())
