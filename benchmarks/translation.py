"""Training tokens a second of a small translator beside a plain torch `nn.Transformer` loop; seconds of beam search.

Multi30k en-de, 3 + 3 layers x 256, 4 heads, feed-forward 512, joint BPE of 8,000 tokens, one table for source, target
and output, dropout 0.2 of hidden states, label smoothing 0.1, AdamW, clipping. Both sides train on the same rows in the
same batches of at most 4,096 positions of source and target; torch pads each batch to its longest row, ours to one of
12 pairs of lengths. Tokens are counted without padding. Every side is a process of its own, rounds alternate, and the
ratios (printed last) are of neighbours; the first steps of ours, which compile a program for every pair of lengths, are
not timed.

Commands (from the repository's root; the second is about a minute):
    python benchmarks/translation.py train --rounds 3
    python benchmarks/translation.py beam --model runs/translation-multi30k/model
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import FOLDER, print_results, report, run_rounds, step_timer

DATA = FOLDER.parents[1] / "shared" / "data" / "multi30k"
SHAPE = {"hidden_size": 256, "layers": 3, "decoder_layers": 3, "heads": 4, "ffn_size": 512, "dropout": 0.2}
VOCABULARY, POSITIONS, LENGTH = 8000, 4096, 64
LEARNING_RATE, SMOOTHING, CLIP_NORM = 1e-3, 0.1, 1.0
WARMUP = 60  # steps that are not timed, enough for every pair of lengths


def read(name: str, data: Path):
    from aillm_tf.data.parallel import read_parallel

    return read_parallel({side: data / f"{name}.{code}.gz" for side, code in (("source", "en"), ("target", "de"))})


def make_model(tokenizer, dtype: str):
    import aillm_tf as ai

    config = ai.preset("translation-small", tokenizer.vocab_size, **SHAPE)
    limits = {"max_length": LENGTH, "max_target_length": LENGTH}
    return ai.Translation(config, tokenizer, label_smoothing=SMOOTHING, dtype=dtype, **limits)


def prepare(folder: Path, data: Path, steps: int) -> None:
    """Trains the tokenizer; writes the rows as ids and which of them make up every batch."""
    import aillm_tf as ai

    rows = read("train", data)
    texts = [text for side in rows.pairs() for text in side]
    ai.train_tokenizer(texts, "bpe", vocab_size=VOCABULARY, use="seq2seq").save(folder / "tokenizer")
    batches = make_model(ai.Tokenizer.from_folder(folder / "tokenizer"), "float32").dataset(
        rows, tokens_per_batch=POSITIONS, shuffle=True
    )
    chosen = [batches.batch_rows(step)[0] for step in range(steps)]
    sides = {
        f"{side}_{part}": array
        for side, name in (("source", "token_ids"), ("given", "target_ids"), ("target", "targets"))
        for part, array in zip(("ids", "offsets"), batches.columns[name], strict=True)
    }
    ends = np.cumsum([0, *map(len, chosen)])
    np.savez(folder / "rows.npz", rows=np.concatenate(chosen), ends=ends, lengths=batches.lengths, **sides)


def processor_timer():
    """A Keras callback whose `seconds` are those that all cores together spend after the first `WARMUP` steps."""
    import keras

    class ProcessorTimer(keras.callbacks.Callback):
        calls, seconds = 0, 0.0

        def on_train_batch_end(self, batch, logs=None):
            self.calls += 1
            if self.calls == WARMUP:
                self.start = time.process_time()
            elif self.calls > WARMUP:
                self.seconds = time.process_time() - self.start

    return ProcessorTimer()


def train_ours(folder: Path, data: Path, steps: int, dtype: str) -> None:
    import aillm_tf as ai

    model = make_model(ai.Tokenizer.from_folder(folder / "tokenizer"), dtype)
    batches = model.dataset(read("train", data), tokens_per_batch=POSITIONS, shuffle=True)
    model.compile(ai.adamw(LEARNING_RATE), clip_norm=CLIP_NORM)
    timer, processor = step_timer(WARMUP), processor_timer()
    model.fit(batches, steps=WARMUP + steps, callbacks=[timer, processor], verbose=0)
    report(seconds=timer.seconds, cpu_seconds=processor.seconds, tokens=batches.tokens(WARMUP, WARMUP + steps))


def beam(model: Path, data: Path, batch_size: int) -> None:
    import aillm_tf as ai
    from aillm_tf.metrics.translation import translation_scores

    translator, rows = ai.load(model), read("test_2016_flickr", data)
    for name in ("first, which compiles", "second"):
        start = time.perf_counter()
        written = translator.write(rows.sources, batch_size=batch_size, num_beams=5)
        print(f"beam 5 over {len(rows):,} sentences, the {name}: {time.perf_counter() - start:.1f} s")
    found = translation_scores(written, rows.references)
    for name, score in found.scores.items():
        print(f"{name} {score:.2f}  {found.signatures[name]}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "beam", "ours"], help="ours: one side of train")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of Multi30k")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40, help="train: steps timed in each process")
    parser.add_argument("--peers", default="fp32,bf16", help="train: precisions of torch")
    parser.add_argument("--dtype", default="mixed_bfloat16", help="train: of ours")
    parser.add_argument("--model", type=Path, help="beam: folder of a model")
    parser.add_argument("--batch-size", type=int, default=64, help="beam: sentences decoded at once")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.what == "beam":
        beam(options.model, options.data, options.batch_size)
    elif options.what == "ours":
        train_ours(options.folder, options.data, options.steps, options.dtype)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            prepare(Path(scratch), options.data, WARMUP + options.steps)
            same = ["--folder", scratch, "--steps", str(options.steps)]
            peers = {
                f"torch_{precision}": ["peers.torch_translation", "--precision", precision, *same]
                for precision in options.peers.split(",")
            }
            ours = ["translation", "ours", *same, "--data", str(options.data.resolve()), "--dtype", options.dtype]
            pairs = run_rounds(peers, ours, options.rounds)
        columns = {
            "tokens/s": lambda side: side["tokens"] / sum(side["seconds"]),
            # of all cores together: tells less of what else the machine does
            "tokens/CPU s": lambda side: side["tokens"] / side["cpu_seconds"],
        }
        print_results(pairs, columns)
