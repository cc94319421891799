"""Makes the golden numbers of Gemma 1, 2 and 3 with transformers and torch: ``python tests/golden/make_gemma.py``.

Writes beside itself
    gemma/          one key head, heads wider than hidden_size / heads
    gemma2/         norms before and after, soft caps that bend, a window in the first layer, another scale of scores
    gemma3_text/    norms of query and key, two bases of rotary positions, linear scaling of the wide one
    gemma.npz       their inputs (padded, packed, in two parts with a cache) and outputs
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from decoders import VOCABULARY, inputs, outputs, randomise, save
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
)

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 10,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}


def models() -> dict[str, torch.nn.Module]:
    eager = {"attn_implementation": "eager"}
    gemma2 = Gemma2Config(
        **SIZES,
        sliding_window=5,
        query_pre_attn_scalar=7,
        final_logit_softcapping=2.0,
        attn_logit_softcapping=1.5,
    )
    gemma3 = Gemma3TextConfig(
        **SIZES,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=7,
        rope_parameters=ROPE,
    )
    return {
        "gemma": GemmaForCausalLM._from_config(GemmaConfig(**SIZES), **eager),
        "gemma2": Gemma2ForCausalLM._from_config(gemma2, **eager),
        "gemma3_text": Gemma3ForCausalLM._from_config(gemma3, **eager),
    }


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    arrays = inputs()
    for name, model in models().items():
        randomise(model, scale_of_norm=0.0)  # Gemma adds 1 to it
        save(model, HERE / name)
        arrays |= outputs(model, arrays, name)
    np.savez_compressed(HERE / "gemma.npz", **arrays)
