"""Does a summarizer from scratch learn? A few rows of SciTLDR, learned by heart, written again and scored.

Commands (the second trains T5-small's shape, 60 M parameters, and takes about half an hour on 2 cores):
    python benchmarks/summarization.py
    python benchmarks/summarization.py --preset t5-small --max-length 384 --learning-rate 1e-3 --steps 300
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "scitldr" / "train.jsonl"


def learned_by_heart(
    data: Path, preset: str, *, rows: int, steps: int, batch_size: int, max_length: int, learning_rate: float
) -> dict:
    """Scores of the training rows themselves, and seconds of training and writing."""
    import aillm_tf as ai
    from aillm_tf.data.parallel import clean_parallel, read_parallel

    pairs = clean_parallel(read_parallel(data))[0].take(range(rows))
    texts = [text for side in pairs.pairs() for text in side]
    tokenizer = ai.train_tokenizer(texts, "bpe", vocab_size=2000, use="seq2seq")
    shape = ai.preset(preset, tokenizer.vocab_size, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
    model = ai.Summarization(shape, tokenizer, max_length=max_length, max_target_length=128)
    # one length: a program is compiled for each
    training = model.dataset(pairs, batch_size=batch_size, shuffle=True, fixed_length=True)
    model.compile(ai.adamw(learning_rate, steps=steps, warmup=0.1, schedule="cosine", weight_decay=0.0))
    start = time.perf_counter()
    history = model.fit(training, steps=steps).history
    trained = time.perf_counter()
    scores = model.text_scores(model.write(pairs.sources), pairs.references)
    seconds = {"training": trained - start, "writing": time.perf_counter() - trained}
    return {"scores": scores, "loss": history["loss"][-1], "seconds": seconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--preset", default="t5-tiny")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a source")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    print(json.dumps(learned_by_heart(**vars(parser.parse_args())), indent=1))
