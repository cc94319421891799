"""torch's side of benchmarks/translation.py: a plain training loop over `nn.Transformer`.

Attention and the inside of the feed-forward network have no dropout, as ours has not, so that attention takes torch's
fast kernel.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
from harness import report, times
from torch import nn
from translation import CLIP_NORM, LEARNING_RATE, LENGTH, SHAPE, SMOOTHING, VOCABULARY, WARMUP


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        size = SHAPE["hidden_size"]
        self.scale = math.sqrt(size)
        self.token = nn.Embedding(VOCABULARY, size)
        nn.init.normal_(self.token.weight, std=size**-0.5)
        frequency = torch.exp(-math.log(10_000.0) * torch.arange(size // 2) / (size // 2))
        angle = torch.arange(LENGTH)[:, None] * frequency
        self.register_buffer("position", torch.cat([angle.sin(), angle.cos()], -1))
        self.dropout = nn.Dropout(SHAPE["dropout"])
        self.transformer = nn.Transformer(
            size,
            SHAPE["heads"],
            SHAPE["layers"],
            SHAPE["decoder_layers"],
            SHAPE["ffn_size"],
            SHAPE["dropout"],
            batch_first=True,
            norm_first=True,
        )
        for layer in [*self.transformer.encoder.layers, *self.transformer.decoder.layers]:
            layer.self_attn.dropout = layer.dropout.p = 0.0
            if hasattr(layer, "multihead_attn"):
                layer.multihead_attn.dropout = 0.0

    def embed(self, ids):
        return self.dropout(self.token(ids) * self.scale + self.position[: ids.shape[1]])

    def forward(self, source, given, padding):
        causal = nn.Transformer.generate_square_subsequent_mask(given.shape[1])
        hidden = self.transformer(
            self.embed(source),
            self.embed(given),
            tgt_mask=causal,
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        return nn.functional.linear(hidden, self.token.weight)


def read_batches(file: Path) -> tuple[list[dict[str, torch.Tensor]], np.ndarray]:
    """Batches padded to their longest row, and the tokens of each."""
    data = np.load(file)
    batches, tokens = [], []
    for first, last in zip(data["ends"][:-1], data["ends"][1:], strict=True):
        rows, batch = data["rows"][first:last], {}
        for side, fill in (("source", 0), ("given", 0), ("target", -100)):
            ids, offsets = data[f"{side}_ids"], data[f"{side}_offsets"]
            columns = [torch.from_numpy(ids[offsets[row] : offsets[row + 1]].astype("int64")) for row in rows]
            batch[side] = nn.utils.rnn.pad_sequence(columns, batch_first=True, padding_value=fill)
        lengths = torch.from_numpy(data["lengths"][rows, 0])
        batch["padding"] = torch.arange(batch["source"].shape[1])[None] >= lengths[:, None]
        batches.append(batch)
        tokens.append(data["lengths"][rows].sum())
    return batches, np.array(tokens)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--folder", type=Path, required=True, help="made by benchmarks/translation.py")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Translator().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
    batches, tokens = read_batches(options.folder / "rows.npz")
    # torch compiles nothing: a few steps warm it up, and the timed ones are the same as ours
    queue = iter([*batches[:5], *batches[WARMUP:]])

    def step():
        batch = next(queue)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bf16"):
            logits = model(batch["source"], batch["given"], batch["padding"])
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), batch["target"].flatten(), label_smoothing=SMOOTHING, ignore_index=-100
        )
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()

    times(step, 5, warmup=0)
    start = time.process_time()
    seconds = times(step, options.steps, warmup=0)
    report(
        seconds=seconds,
        cpu_seconds=time.process_time() - start,
        tokens=int(tokens[WARMUP : WARMUP + options.steps].sum()),
        versions={"torch": torch.__version__},
    )
