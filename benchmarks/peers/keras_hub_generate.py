"""The peer KerasHub on TensorFlow: one JSON line for greedy decoding with `generate`, compiled by XLA as it does.

Command:
    cd benchmarks && python -m peers.keras_hub_generate --precision fp32 --batch 1
"""

from __future__ import annotations

import argparse
import os

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from harness import DECODER, NEW, PROMPT, SEED, decoding_times, random_prompts, report


def measure(precision: str, batch: int, repeats: int) -> None:
    keras.utils.set_random_seed(SEED)
    backbone = keras_hub.models.LlamaBackbone(
        vocabulary_size=DECODER["vocab_size"],
        num_layers=DECODER["layers"],
        num_query_heads=DECODER["heads"],
        num_key_value_heads=DECODER["kv_heads"],
        hidden_dim=DECODER["hidden_size"],
        intermediate_dim=DECODER["ffn_size"],
        tie_word_embeddings=True,
        dtype={"fp32": "float32", "bf16": "bfloat16"}[precision],
    )
    model = keras_hub.models.LlamaCausalLM(backbone, preprocessor=None)
    model.compile(sampler="greedy")
    prompts = random_prompts(batch)

    def generate(count: int):
        # without a preprocessor, prompts come padded to the length of the whole text
        token_ids = np.pad(prompts, [(0, 0), (0, count)])
        mask = np.arange(PROMPT + count)[None] < np.full((batch, 1), PROMPT)
        found = model.generate({"token_ids": token_ids, "padding_mask": mask.astype("int32")}, stop_token_ids=None)
        assert found["token_ids"].shape == (batch, PROMPT + count)

    report(
        batch=batch,
        **decoding_times(generate, NEW, repeats),
        versions={"tensorflow": tf.__version__, "keras": keras.__version__, "keras_hub": keras_hub.__version__},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    measure(options.precision, options.batch, options.repeats)
