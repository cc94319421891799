"""Makes the golden numbers of GPT-2 with transformers and torch: ``python tests/golden/make_gpt2.py``.

Writes beside itself
    gpt2/, gpt2_classifier/     tiny random models as transformers saves them
    gpt2.npz                    their inputs (padded, packed, in two parts with a cache) and outputs
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import transformers
from decoders import VOCABULARY, inputs, outputs, randomise, save, scores
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

HERE = Path(__file__).parent
CONFIG = GPT2Config(
    vocab_size=VOCABULARY,
    n_positions=24,
    n_embd=16,
    n_layer=2,
    n_head=2,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=1,
    id2label={0: "negative", 1: "neutral", 2: "positive"},
    label2id={"negative": 0, "neutral": 1, "positive": 2},
)

if __name__ == "__main__":
    print(f"transformers {transformers.__version__}")
    arrays = inputs()
    for name, kind, compute in (
        ("gpt2", GPT2LMHeadModel, outputs),
        ("gpt2_classifier", GPT2ForSequenceClassification, scores),
    ):
        model = kind._from_config(CONFIG, attn_implementation="eager")
        randomise(model)
        save(model, HERE / name)
        arrays |= compute(model, arrays, name)
    np.savez_compressed(HERE / "gpt2.npz", **arrays)
