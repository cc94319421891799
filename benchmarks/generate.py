"""Tokens per second of greedy decoding: aillm_tf beside transformers + torch and KerasHub.

A Llama of 30 layers x 576, 9 heads, 3 key and value heads, feed-forward 1536, vocabulary 49,152, random weights;
prompts of 64 tokens, 128 new ones, no end token; batches of 1 and of 8. Every side in a process of its own; each call
is timed after a first that compiles. "tokens/s" counts the new tokens of all rows over the whole call, the prompt
included; "first token s" is a call for one token. The best of fp32 and bf16 counts for each side.

Command (about 8 minutes on 2 cores):
    python benchmarks/generate.py
"""

from __future__ import annotations

import argparse
import statistics

from harness import NEW, chosen, print_results, run_rounds

PEERS = {
    f"{name}_{precision}": [f"peers.{name}_generate", "--precision", precision]
    for name in ("torch", "keras_hub")
    for precision in ("fp32", "bf16")
}
COLUMNS = {
    "tokens/s": lambda result: result["batch"] * NEW / statistics.median(result["seconds"]),
    "first token s": lambda result: statistics.median(result["first_token"]),
    "first call s": lambda result: result["first_call_seconds"],
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated, of: %(default)s")
    parser.add_argument("--batches", default="1,8", help="rows of a call: %(default)s")
    parser.add_argument("--repeats", type=int, default=3, help="calls timed in each process")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="of ours")
    options = parser.parse_args()
    for batch in options.batches.split(","):
        settings = ["--batch", batch, "--repeats", str(options.repeats)]
        peers = {name: [*command, *settings] for name, command in chosen(options.peers, PEERS).items()}
        ours = ["ours_generate", "--precision", options.precision, *settings]
        print(f"batch {batch}")
        print_results(run_rounds(peers, ours, options.rounds), COLUMNS)
        print()
