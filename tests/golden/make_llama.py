"""Makes the golden numbers of Llama and its kin with transformers and torch: ``python tests/golden/make_llama.py``.

Writes beside itself
    llama/          untied, grouped queries, rope scaling "llama3"
    llama_bias/     tied, biases everywhere, rope scaling "linear", inputs longer than max_position_embeddings
    mistral/        a window smaller than the input
    qwen2/          tied, biases of query, key and value; a window in the second layer only
    qwen2_classifier/
    qwen3/          norms of query and key, heads wider than hidden_size / heads
    llama.npz       their inputs (padded, packed, in two parts with a cache) and outputs
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from decoders import VOCABULARY, inputs, outputs, randomise, save, scores
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
)

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# With heads of 8 features and 64 positions, one frequency of four is kept, one is between and two are slowed down.
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}


def models() -> dict[str, torch.nn.Module]:
    eager = {"attn_implementation": "eager"}
    llama = LlamaConfig(**SIZES, max_position_embeddings=128, rope_parameters=LLAMA3)
    biased = LlamaConfig(
        **SIZES | {"num_key_value_heads": 2, "num_attention_heads": 4},
        max_position_embeddings=16,
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=True,
        rope_parameters=LINEAR,
    )
    qwen2 = Qwen2Config(
        **SIZES, tie_word_embeddings=True, use_sliding_window=True, sliding_window=5, max_window_layers=1
    )
    classifier = Qwen2Config(**SIZES, num_labels=3)
    qwen3 = Qwen3Config(**SIZES, head_dim=10, rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0})
    return {
        "llama": LlamaForCausalLM._from_config(llama, **eager),
        "llama_bias": LlamaForCausalLM._from_config(biased, **eager),
        "mistral": MistralForCausalLM._from_config(MistralConfig(**SIZES, sliding_window=5), **eager),
        "qwen2": Qwen2ForCausalLM._from_config(qwen2, **eager),
        "qwen2_classifier": Qwen2ForSequenceClassification._from_config(classifier, **eager),
        "qwen3": Qwen3ForCausalLM._from_config(qwen3, **eager),
    }


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    arrays = inputs()
    for name, model in models().items():
        randomise(model)
        save(model, HERE / name)
        arrays |= (scores if name.endswith("classifier") else outputs)(model, arrays, name)
    np.savez_compressed(HERE / "llama.npz", **arrays)
