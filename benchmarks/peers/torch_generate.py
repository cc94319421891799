"""The peer transformers + torch: one JSON line for greedy decoding with `generate`.

Command:
    cd benchmarks && python -m peers.torch_generate --precision bf16 --batch 1
"""

from __future__ import annotations

import argparse

import torch
import transformers
from harness import DECODER, NEW, PROMPT, SEED, decoding_times, random_prompts, report


def measure(precision: str, batch: int, repeats: int) -> None:
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=DECODER["vocab_size"],
        hidden_size=DECODER["hidden_size"],
        intermediate_size=DECODER["ffn_size"],
        num_hidden_layers=DECODER["layers"],
        num_attention_heads=DECODER["heads"],
        num_key_value_heads=DECODER["kv_heads"],
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = transformers.LlamaForCausalLM(config).to({"fp32": torch.float32, "bf16": torch.bfloat16}[precision]).eval()
    prompts = torch.from_numpy(random_prompts(batch)).long()

    def generate(count: int):
        with torch.inference_mode():
            found = model.generate(
                prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
            )
        assert found.shape == (batch, PROMPT + count)

    report(
        batch=batch,
        **decoding_times(generate, NEW, repeats),
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    measure(options.precision, options.batch, options.repeats)
