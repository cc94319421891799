"""Our side of `generate`: one JSON line for greedy decoding.

Command:
    cd benchmarks && python -m ours_generate --precision bf16 --batch 1
"""

from __future__ import annotations

import argparse

import keras
import tensorflow as tf
from harness import DECODER, NEW, decoding_times, random_prompts, report

import aillm_tf as ai
from aillm_tf.generation import GenerationOptions
from aillm_tf.generation.generator import Generator
from aillm_tf.models.presets import preset
from aillm_tf.weights.backbones import new_backbone

POLICIES = {"fp32": "float32", "bf16": "mixed_bfloat16"}


def measure(precision: str, batch: int, repeats: int, compiler: str) -> None:
    config = preset("llama-tiny", **DECODER, tie_embeddings=True, max_length=2048)
    generator = Generator(new_backbone(config, dtype=POLICIES[precision]), compiler=compiler)
    prompts = random_prompts(batch).tolist()
    graphs = []

    def generate(count: int):
        # the size of a text, not the number asked for, says which graph is taken
        found = generator.generate(prompts, GenerationOptions(max_new_tokens=count))
        assert [len(row) for row in found.tokens] == [count] * batch
        graphs.append(generator.compiled)

    result = decoding_times(generate, NEW, repeats)
    assert len(set(graphs[: repeats + 1])) == 1, "something was compiled after the first call"
    versions = {"aillm_tf": ai.__version__, "tensorflow": tf.__version__, "keras": keras.__version__}
    report(batch=batch, **result, versions=versions)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=list(POLICIES), default="bf16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compiler", default="auto", help="of aillm_tf.generation.generator.Generator")
    options = parser.parse_args()
    measure(options.precision, options.batch, options.repeats, options.compiler)
