"""What one training step of BERT-base moves and holds on a TPU, by the TPU compiler: aillm_tf beside KerasHub.

BERT of 768 x 3072 with 12 heads, vocabulary 30,522, two classes; batch 32 x 128 on one chip; mixed bfloat16, dropout
0.1, AdamW. Both steps are lowered by TensorFlow, draw their dropout from the device's own generator, update variables
in place, and are compiled by libtpu for one chip of a TPU v5e. No TPU is needed. The compiler takes minutes and
gigabytes, more for each layer, so the numbers of 12 layers are those of the last two of --layers, continued in a
straight line; layers are alike.

Command (needs jax and libtpu, see docs/preflight.md; 10 minutes and 9 GB on 2 cores):
    python benchmarks/tpu_compile.py --layers 2,3
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from harness import FOLDER, run_side

sys.path.insert(0, str(FOLDER.parent))  # the checkout, where it is not installed

from aillm_tf.tpu.compiler import compile_for_tpu

SIDES = {"keras_hub": "peers.keras_hub_tpu", "ours": "ours_tpu"}
NUMBERS = {"bytes accessed, GB": "bytes_accessed", "temporaries, GB": "temp_bytes", "FLOP, T": "flops"}
UNITS = {"bytes_accessed": 1e9, "temp_bytes": 1e9, "flops": 1e12}
TARGET = 12  # layers of BERT-base


def measured(layers: list[int], topology: str) -> dict[str, dict[int, dict]]:
    """Side -> layers -> what the compiler says, continued to `TARGET` layers."""
    found: dict[str, dict[int, dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side, module in SIDES.items():
            for count in layers:
                file = Path(folder, f"{side}-{count}.mlir")
                run_side([module, "--layers", str(count), "--out", str(file)])
                said = compile_for_tpu(file.read_text(encoding="utf-8"), topology, 1)
                print(f"{side}, {count} layers: compiled in {said['seconds']:.0f} s", file=sys.stderr, flush=True)
                found.setdefault(side, {})[count] = {name: said[name] for name in NUMBERS.values()}
    if TARGET not in layers and len(layers) > 1:
        first, last = layers[-2:]
        for of in found.values():
            slopes = {name: (of[last][name] - of[first][name]) / (last - first) for name in of[last]}
            of[TARGET] = {name: of[last][name] + (TARGET - last) * slope for name, slope in slopes.items()}
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="2,3", help="how many to compile with, ascending; default: %(default)s")
    parser.add_argument("--topology", default="v5e:2x4", help="whose chip; default: %(default)s")
    options = parser.parse_args()
    layers = [int(count) for count in options.layers.split(",")]
    found = measured(layers, options.topology)
    for title, name in NUMBERS.items():
        for count in found["ours"]:
            peer, ours = (found[side][count][name] / UNITS[name] for side in SIDES)
            how = "" if count in layers else " (continued)"
            print(f"{title}, {count} layers{how}: KerasHub {peer:.3f}, ours {ours:.3f}, ratio {ours / peer:.3f}")
