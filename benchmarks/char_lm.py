"""Tiny Shakespeare by characters in nanoGPT's setting for a CPU: aillm_tf beside plain torch.

4 layers, 4 heads, 128 wide, blocks of 64, batches of 12, 2,000 steps, dropout 0, learning rate 1e-3 to 1e-4 (cosine,
100 steps of warm-up), AdamW with beta2 0.99 and decay 0.1, pre-LN without biases in its matrices. Seconds are those of
the whole training, tracing and compilation included; the loss is over the whole last tenth of the text, in nats a
character. nanoGPT's README gives 1.88. Every side runs in a process of its own.

Command:
    python benchmarks/char_lm.py --rounds 1
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import CHARACTERS, print_results, run_rounds

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "tinyshakespeare" / "input.txt"
COLUMNS = {
    "train s": lambda result: result["train_seconds"],
    "cpu s": lambda result: result["cpu_seconds"],
    "validation loss": lambda result: result["validation_loss"],
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", default=str(DATA), help="text file; default: %(default)s")
    parser.add_argument("--steps", type=int, default=CHARACTERS["training"]["steps"], help="fewer, to try it out")
    parser.add_argument("--xla", action="store_true", help="ours: compile the whole gradient with XLA")
    options = parser.parse_args()
    path = Path(options.data).resolve()
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; give --data a text file")
    common = ["--data", str(path), "--steps", str(options.steps)]
    ours = ["ours_char_lm", *common, *(["--xla"] if options.xla else [])]
    print_results(run_rounds({"torch": ["peers.torch_gpt", *common]}, ours, options.rounds), COLUMNS)
