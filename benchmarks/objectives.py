"""MLM, ELECTRA, CLM and denoising of one small model on one budget, then fine-tuned on the quickstart's tweets.

One tokenizer (byte-level BPE, 8,192 tokens), one width (128, 4 layers, 4 heads; denoising adds a decoder of 2 layers,
ELECTRA a generator of half the size), one corpus: the training tweets without their labels, and, where they lie beside
the repository, WikiText-2 and the 1,000 documents of C4. The budget is processor time, which other programs on the
machine hardly change: each objective's seconds a step are measured first, and kept, so that the number of steps is the
same when the command is run again.

Fine-tuning reads the mean of the tokens: of the encoder of masked language modelling and denoising, of ELECTRA's
discriminator, of the decoder of CLM, which stays causal. 2,000 labels, 3 epochs; "none" begins with random weights.

Results are kept in --out after every run, and pretraining resumes from its checkpoints: the same command goes on where
it was stopped, and prints the table.

Command:
    python benchmarks/objectives.py --out runs/objectives --minutes 10
    python benchmarks/objectives.py --out runs/quick --minutes 0.2 --seeds 1 --labels 200 --test-rows 300
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from tweets import FINE_TUNING, Results, fine_tuned, mean_and_deviation, take_backbone, tweets

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SHAPE = {"hidden_size": 128, "layers": 4, "heads": 4, "ffn_size": 512, "max_length": 128, "norm_placement": "pre"}
SHAPE |= {"dropout": 0.0, "attention_dropout": 0.0}
MAX_LENGTH = 128
OBJECTIVES = {
    "none": None,
    "MLM": ("MaskedLM", {}, {}),
    "ELECTRA": ("ReplacedToken", {}, {"generator_size": 0.5}),
    "CLM": ("CausalLM", {"causal": True}, {}),
    "denoising (T5)": ("Denoising", {"decoder_layers": 2}, {"noise": "span_corruption"}),
    "denoising (BART)": ("Denoising", {"decoder_layers": 2}, {"noise": ("sentence_permutation", "text_infilling")}),
}
LEARNING_RATES = {"pretraining": 1e-3, "fine-tuning": 5e-4}


def corpus(tweet_texts: list[str]) -> list[str]:
    """The texts to learn from."""
    from aillm_tf.data.sources import read_table

    texts = list(tweet_texts)
    for name in ("valid", "test"):
        path = DATA / "wikitext2" / f"{name}.txt"
        if path.exists():
            texts += [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if len(line) > 200]
    if (DATA / "c4_en_tfds").exists():
        texts += read_table(str(DATA / "c4_en_tfds"), columns=["text"]).columns["text"]
    return texts


def new_task(name: str, tokenizer, seed: int = 0, max_length: int = MAX_LENGTH):
    """The task of an objective, with random weights."""
    import aillm_tf as ai

    task, shape, options = OBJECTIVES[name]
    config = ai.TransformerConfig(vocab_size=tokenizer.vocab_size, **{**SHAPE, **shape})
    return getattr(ai, task)(config, tokenizer, max_length=max_length, seed=seed, **options)


def compiled(task, steps: int):
    import aillm_tf as ai

    task.compile(ai.adamw(LEARNING_RATES["pretraining"], steps=steps, warmup=0.1, schedule="cosine"))
    return task


def seconds_a_step(name: str, tokenizer, texts: list[str]) -> dict:
    """Of processor time in training, after the first steps, which trace."""
    task = compiled(new_task(name, tokenizer), 1000)
    data = task.dataset(texts, batch_size=32, shuffle=True, fixed_length=True)
    import keras

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            times.append(time.process_time())

    times: list[float] = []
    task.fit(data, steps=25, callbacks=[Clock()], verbose=0)
    return {"step": (times[-1] - times[4]) / (len(times) - 5)}


def pretrain(name: str, tokenizer, texts: list[str], steps: int, folder: Path) -> dict:
    """Train and save; resumes from its checkpoints."""
    import aillm_tf as ai

    task = compiled(new_task(name, tokenizer), steps)
    held_out = texts[:: max(1, len(texts) // 500)]
    scored = set(held_out)
    learned = [text for text in texts if text not in scored]
    data = task.dataset(learned, batch_size=32, shuffle=True, fixed_length=True)
    task.fit(data, steps=steps, checkpoints=ai.Checkpoints(folder / "checkpoints", every_steps=200), verbose=2)
    task.save(folder / "model")
    scores = task.evaluate(task.dataset(held_out, batch_size=32, fixed_length=True), verbose=0)
    return {"steps": steps, "tokens": data.tokens(0, steps), "loss": scores["loss"], "accuracy": scores["accuracy"]}


def classify(name: str, tokenizer, folder: Path, splits, labels: int, seed: int) -> dict:
    """Fine-tune what was pretrained."""
    import aillm_tf as ai

    shape = {} if OBJECTIVES[name] is None else {"causal": OBJECTIVES[name][1].get("causal", False)}
    config = ai.TransformerConfig(vocab_size=tokenizer.vocab_size, **{**SHAPE, **shape})
    options = {"labels": splits.train.labels, "max_length": FINE_TUNING["max_length"], "pooling": "mean"}
    classifier = ai.TextClassifier(config, tokenizer, seed=seed, **options)
    if OBJECTIVES[name] is not None:
        take_backbone(classifier, ai.load(folder / "model"))
    return fine_tuned(classifier, splits, labels, seed, LEARNING_RATES["fine-tuning"])


def main(arguments: argparse.Namespace) -> None:
    import aillm_tf as ai
    from aillm_tf.text.sentinels import with_sentinels

    out, splits = Path(arguments.out), tweets(arguments.test_rows)
    results, texts = Results(out / "results.json"), corpus(splits.train.texts)
    if not (out / "tokenizer").exists():
        made = ai.train_tokenizer(texts, kind="bpe", vocab_size=8192 - 32, use="seq2seq", lowercase=True)
        with_sentinels(made, 32).save(out / "tokenizer")
    tokenizer = ai.Tokenizer.from_folder(out / "tokenizer")
    lines = [
        "| objective | processor s/step | steps | tokens | held-out loss | accuracy | macro F1 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in arguments.objectives:
        folder, before = out / name.replace(" ", "_"), ["-"] * 4
        if OBJECTIVES[name] is not None:
            speed = results.get(f"{name}/speed", lambda name=name: seconds_a_step(name, tokenizer, texts))
            steps = max(1, round(60 * arguments.minutes / speed["step"]))
            trained = results.get(
                f"{name}/pretraining/{arguments.minutes}",
                lambda name=name, steps=steps, folder=folder: pretrain(name, tokenizer, texts, steps, folder),
            )
            before = [f"{speed['step']:.3f}", f"{steps:,}", f"{trained['tokens']:,}", f"{trained['loss']:.2f}"]
        runs = [
            results.get(
                f"{name}/{arguments.minutes}/{arguments.labels}/{seed}",
                lambda name=name, folder=folder, seed=seed: classify(
                    name, tokenizer, folder, splits, arguments.labels, seed
                ),
            )
            for seed in range(arguments.seeds)
        ]
        cells = [mean_and_deviation([run[score] for run in runs]) for score in ("accuracy", "macro_f1")]
        lines.append(f"| {name} | {' | '.join([*before, *cells])} |")
    budget = f"{arguments.minutes:g} minutes of processor time an objective"
    print(f"\n{len(texts):,} texts; {budget}; {arguments.labels:,} labels\n")
    print("\n".join(lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="runs/objectives")
    parser.add_argument("--minutes", type=float, default=10.0, help="of processor time, for every objective")
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--labels", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test-rows", type=int, default=3000)
    main(parser.parse_args())
