"""Makes the golden numbers of T5 with transformers and torch: ``python tests/golden/make_t5.py``.

Writes beside itself
    t5_v1_0/, t5_v1_1/, mt5/    tiny random models as transformers saves them: tied with scaled scores, gated and
                                untied, gated and tied
    t5.npz                      their inputs (padded on both sides, a hole in the target's mask) and outputs
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from seq2seq import batch, outputs, randomise, save
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": 60,
    "d_model": 16,
    "d_kv": 6,  # not d_model / num_heads, as in mT5
    "d_ff": 20,
    "num_heads": 2,
    "num_layers": 2,
    "num_decoder_layers": 1,
    # shorter than the inputs, so that all kinds of buckets are read
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}


def untie(model: torch.nn.Module) -> torch.nn.Module:
    """Gives the model a head of its own; transformers 5 ties T5's unless the checkpoint has two different tensors."""
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.all_tied_weights_keys.pop("lm_head.weight")
    return model


def models() -> dict[str, torch.nn.Module]:
    eager = {"attn_implementation": "eager"}
    v1_0 = T5Config(**SIZES, feed_forward_proj="relu")
    v1_1 = T5Config(**SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    return {
        "t5_v1_0": T5ForConditionalGeneration._from_config(v1_0, **eager),
        "t5_v1_1": untie(T5ForConditionalGeneration._from_config(v1_1, **eager)),
        "mt5": MT5ForConditionalGeneration._from_config(MT5Config(**SIZES), **eager),
    }


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    arrays = batch(vocab_size=60, first=2)
    for name, model in models().items():
        randomise(model)
        save(model, HERE / name)
        arrays |= outputs(model, arrays, name)
    np.savez_compressed(HERE / "t5.npz", **arrays)
