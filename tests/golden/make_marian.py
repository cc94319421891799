"""Makes the golden numbers of Marian with transformers and torch: ``python tests/golden/make_marian.py``.

Writes beside itself
    marian/, marian_separate/   tiny random models as transformers saves them: one vocabulary, and one for each side
    marian.npz                  their inputs (padded on both sides, a hole in the target's mask) and outputs
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from seq2seq import batch, outputs, randomise, save
from transformers import MarianConfig, MarianMTModel

HERE = Path(__file__).parent
SIZES = {
    "vocab_size": 60,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 28,
    "activation_function": "swish",
    "scale_embedding": True,
    "pad_token_id": 59,
    "eos_token_id": 0,
    "decoder_start_token_id": 59,
}
CONFIGS = {
    "marian": MarianConfig(**SIZES),
    "marian_separate": MarianConfig(
        **SIZES | {"pad_token_id": 47, "decoder_start_token_id": 47},
        decoder_vocab_size=48,
        share_encoder_decoder_embeddings=False,
    ),
}


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    arrays = batch(vocab_size=47, first=2)
    for name, config in CONFIGS.items():
        model = MarianMTModel._from_config(config, attn_implementation="eager")
        model.generation_config.update(num_beams=4, max_length=512, bad_words_ids=[[config.pad_token_id]])
        randomise(model)
        save(model, HERE / name)
        arrays |= outputs(model, arrays, name)
    np.savez_compressed(HERE / "marian.npz", **arrays)
