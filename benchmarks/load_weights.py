"""Loads a made-up Llama of 500 M parameters, and reads the same files with safetensors.numpy: seconds and peak memory.

    python benchmarks/load_weights.py [--dtype float32|bfloat16] [--into float32|bfloat16] [--small]

The folder (sharded safetensors, random numbers) is made in a temporary place first. Each side runs in processes of its
own, in turns; files are in the page cache for both. Time is from opening the folder to the last byte in its place: for
us that is a built model whose variables have their values, for safetensors.numpy a dict of arrays. Peak memory is the
process's largest resident set, TensorFlow's own 0.7 GB included; `growth` is what it grew by while loading. The aims:
at most 1.3 times the weights' bytes in the target type, at most 1.5 times the seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import tempfile
import time
from pathlib import Path

import harness

SIZES = {"hidden": 1536, "layers": 16, "heads": 12, "kv_heads": 4, "ffn": 4096, "vocab": 32000}
SMALL = {"hidden": 64, "layers": 2, "heads": 4, "kv_heads": 2, "ffn": 160, "vocab": 512}


def tensor_shapes(hidden: int, layers: int, heads: int, kv_heads: int, ffn: int, vocab: int) -> dict[str, list[int]]:
    """Names and shapes of a Llama's tensors."""
    narrow = hidden // heads * kv_heads
    shapes = {"model.embed_tokens.weight": [vocab, hidden]}
    for i in range(layers):
        layer = f"model.layers.{i}."
        shapes |= {layer + f"self_attn.{name}_proj.weight": [hidden, hidden] for name in "qo"}
        shapes |= {layer + f"self_attn.{name}_proj.weight": [narrow, hidden] for name in "kv"}
        shapes |= {layer + f"mlp.{name}_proj.weight": [ffn, hidden] for name in ("gate", "up")}
        shapes |= {layer + "mlp.down_proj.weight": [hidden, ffn]}
        shapes |= {layer + f"{name}_layernorm.weight": [hidden] for name in ("input", "post_attention")}
    return shapes | {"model.norm.weight": [hidden], "lm_head.weight": [vocab, hidden]}


def fabricate(folder: Path, dtype: str, sizes: dict[str, int], shards: int = 4) -> int:
    """Writes the folder; returns the number of parameters."""
    import ml_dtypes  # noqa: F401  numpy's name for bfloat16
    import numpy as np

    from aillm_tf.weights.tensor_file import save_file

    shapes = tensor_shapes(**sizes)
    noise = np.random.default_rng(0).standard_normal(1 << 20, np.float32).astype(dtype) * np.array(0.02, dtype)
    names = list(shapes)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard * len(names) // shards : (shard + 1) * len(names) // shards]
        save_file({name: np.resize(noise, shapes[name]) for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": sizes["vocab"],
        "hidden_size": sizes["hidden"],
        "intermediate_size": sizes["ffn"],
        "num_hidden_layers": sizes["layers"],
        "num_attention_heads": sizes["heads"],
        "num_key_value_heads": sizes["kv_heads"],
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return sum(math.prod(shape) for shape in shapes.values())


def resident() -> int:
    """Bytes of this process that are in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def load_with_safetensors(folder: Path) -> dict:
    """The peer: every shard, by the numpy side of the safetensors package."""
    import ml_dtypes  # noqa: F401  without it numpy, and so safetensors.numpy, knows no bfloat16
    from safetensors.numpy import load_file

    before, start = resident(), time.perf_counter()
    arrays = {}
    for file in sorted(folder.glob("*.safetensors")):
        arrays |= load_file(file)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "before": before, "parameters": sum(array.size for array in arrays.values())}


def load_with_ours(folder: Path, into: str) -> dict:
    """Ours: a built decoder, every variable with its values."""
    import keras
    import tensorflow as tf

    from aillm_tf.weights.backbones import load_backbone

    tf.zeros(1) + 1  # what TensorFlow sets up at its first operation is not loading
    keras.Variable([0.0])
    before, start = resident(), time.perf_counter()
    backbone, _ = load_backbone(folder, dtype=into)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "before": before, "parameters": backbone.count_params()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of the files")
    parser.add_argument("--into", default="float32", choices=["float32", "bfloat16"], help="of the model's weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a Llama of 0.2 M parameters, to try the command")
    parser.add_argument("--side", choices=["ours", "safetensors"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        harness.report(
            **load_with_ours(options.folder, options.into)
            if options.side == "ours"
            else load_with_safetensors(options.folder)
        )
        return

    with tempfile.TemporaryDirectory() as name:
        parameters = fabricate(Path(name), options.dtype, SMALL if options.small else SIZES)
        size = parameters * (4 if options.into == "float32" else 2)
        print(f"{parameters / 1e6:.1f} M parameters, {options.dtype} to {options.into}, {size / 1e9:.2f} GB there")
        side = ["load_weights", "--folder", name, "--into", options.into, "--side"]
        pairs = harness.run_rounds({"safetensors.numpy": [*side, "safetensors"]}, [*side, "ours"], options.rounds)
    columns = {
        "seconds": lambda result: result["seconds"],
        "peak / weights": lambda result: result["peak_rss_mb"] * 1e6 / size,
        "growth / weights": lambda result: (result["peak_rss_mb"] * 1e6 - result["before"]) / size,
    }
    harness.print_results(pairs, columns)


if __name__ == "__main__":
    main()
