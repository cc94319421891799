"""Tiny Shakespeare by characters in nanoGPT's setting for a CPU: aillm_tf beside plain torch.

4 layers, 4 heads, 128 wide, blocks of 64, batches of 12, 2,000 steps, dropout 0, AdamW with beta2 0.99 and decay 0.1,
pre-LN without biases in its matrices, 100 steps of warm-up and a cosine down to a tenth of the learning rate. nanoGPT's
own rate is 1e-3, for which its README gives a loss of 1.88, of samples; both sides learn faster at 2e-3. Seconds are
those of the whole training, tracing and compilation included; the loss is over the whole last tenth of the text, in
nats a character. Every side runs in a process of its own: torch in float32, as nanoGPT's is on a CPU, and in bfloat16
(autocast), ours as --dtype says.

Command (about 3 minutes a round on 2 cores):
    python benchmarks/char_lm.py --rounds 1
    python benchmarks/char_lm.py --rounds 1 --learning-rate 1e-3 --dtype float32
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
    parser.add_argument("--learning-rate", default="2e-3", help="at its peak, of every side; default: %(default)s")
    parser.add_argument("--dtype", choices=("float32", "mixed_bfloat16"), default="mixed_bfloat16", help="of ours")
    parser.add_argument("--xla", action="store_true", help="ours: compile the whole gradient with XLA")
    options = parser.parse_args()
    path = Path(options.data).resolve()
    if not path.is_file():
        raise SystemExit(f"{path}: no such file; give --data a text file")
    common = ["--data", str(path), "--steps", str(options.steps), "--learning-rate", options.learning_rate]
    peers = {
        "torch_fp32": ["peers.torch_gpt", *common],
        "torch_bf16": ["peers.torch_gpt", *common, "--dtype", "mixed_bfloat16"],
    }
    ours = ["ours_char_lm", *common, "--dtype", options.dtype, *(["--xla"] if options.xla else [])]
    print_results(run_rounds(peers, ours, options.rounds), COLUMNS)
