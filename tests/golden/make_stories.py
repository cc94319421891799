"""Makes the golden numbers of stories260k, a real Llama: ``python tests/golden/make_stories.py FOLDER``.

Writes beside itself stories.npz: the tokens that transformers decodes greedily from ``<s>``, and their scores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
TOKENS = 48

if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager").eval()
    begin = torch.tensor([[model.config.bos_token_id]])
    with torch.no_grad():
        token_ids = model.generate(begin, attention_mask=torch.ones_like(begin), max_length=TOKENS, do_sample=False)
        logits = model(token_ids).logits
    np.savez_compressed(
        HERE / "stories.npz",
        token_ids=token_ids.numpy().astype(np.int32),
        logits=logits.numpy().astype(np.float32),
    )
