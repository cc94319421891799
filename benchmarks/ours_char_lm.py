"""Our side of `char_lm`: one JSON line for nanoGPT's CPU setting on characters.

Command:
    cd benchmarks && python -m ours_char_lm --data ../../shared/data/tinyshakespeare/input.txt
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import tensorflow as tf
from harness import CHARACTERS, SEED, report

import aillm_tf as ai
from aillm_tf.training.optimizer import AdamW
from aillm_tf.training.schedule import schedule

SHAPE, TRAINING = CHARACTERS["shape"], CHARACTERS["training"]
STEPS_PER_EXECUTION = 50


def measure(path: str, steps: int, jit_compile: bool | str, dtype: str, peak: float) -> None:
    text = Path(path).read_text(encoding="utf-8")
    cut = int(CHARACTERS["train_share"] * len(text))
    tokenizer = ai.train_tokenizer([text], "char", min_frequency=1, use="decoder")
    config = ai.TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        norm_placement="pre",
        norm_epsilon=1e-5,
        embedding_norm=False,
        bias=False,
        dropout=0.0,
        attention_dropout=0.0,
        **SHAPE,
    )
    model = ai.CausalLM(config, tokenizer, dtype=dtype, seed=SEED)
    rate = schedule(
        peak,
        TRAINING["steps"],
        warmup=TRAINING["warmup"],
        kind="cosine",
        end=peak * TRAINING["final_share"],
    )
    optimizer = AdamW(rate, weight_decay=TRAINING["weight_decay"], beta_2=TRAINING["beta_2"])
    model.compile(
        optimizer,
        clip_norm=TRAINING["clip_norm"],
        steps_per_execution=STEPS_PER_EXECUTION,
        jit_compile=jit_compile,
    )
    train = model.dataset([text[:cut]], layout="stream", batch_size=TRAINING["batch_size"], shuffle=True, seed=SEED)
    held_out = model.dataset([text[cut:]], layout="stream", batch_size=64)
    start, cpu = time.perf_counter(), time.process_time()
    model.fit(train, steps=steps, verbose=0)  # with tracing and compilation
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    scores = model.evaluate(held_out, verbose=0)
    report(
        train_seconds=seconds,
        cpu_seconds=cpu_seconds,
        steps=steps,
        validation_loss=scores["loss"],
        bits_per_byte=scores["bits_per_byte"],
        parameters=model.count_params(),
        versions={"aillm_tf": ai.__version__, "tensorflow": tf.__version__},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="text file")
    parser.add_argument("--steps", type=int, default=TRAINING["steps"], help="fewer, to try it out")
    parser.add_argument("--xla", action="store_true", help="compile the whole gradient with XLA")
    parser.add_argument("--dtype", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--learning-rate", type=float, default=TRAINING["learning_rate"], help="at its peak")
    options = parser.parse_args()
    measure(options.data, options.steps, options.xla or "auto", options.dtype, options.learning_rate)
