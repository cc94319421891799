"""The peer plain torch: one JSON line for nanoGPT's CPU setting on characters.

Command:
    cd benchmarks && python -m peers.torch_gpt --data ../../shared/data/tinyshakespeare/input.txt

The peer at its best on a CPU without a compiler: fused AdamW, torch's own attention kernel, a batch cut out of one
tensor, losses left on the device, all cores.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from harness import CHARACTERS, report
from torch import nn
from torch.nn import functional

SHAPE, TRAINING = CHARACTERS["shape"], CHARACTERS["training"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        width = SHAPE["hidden_size"]
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (
            part.view(batch, length, SHAPE["heads"], -1).transpose(1, 2)
            for part in self.qkv(self.norm_1(x)).split(width, dim=2)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norm_2(x))))


class GPT(nn.Module):
    def __init__(self, vocabulary: int):
        super().__init__()
        width = SHAPE["hidden_size"]
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(SHAPE["max_length"], width)
        self.blocks = nn.ModuleList(Block() for _ in range(SHAPE["layers"]))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                # nanoGPT draws what is added to the residual stream smaller
                scale = 1 / math.sqrt(2 * SHAPE["layers"]) if name.endswith(("out.weight", "down.weight")) else 1.0
                nn.init.normal_(parameter, std=0.02 * scale)

    def forward(self, ids, targets):
        x = self.token(ids) + self.position.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        scores = self.norm(x) @ self.token.weight.T
        return functional.cross_entropy(scores.flatten(0, 1), targets.flatten())


def measure(path: str, steps: int, dtype: str, peak: float) -> None:
    torch.manual_seed(0)
    text = Path(path).read_text(encoding="utf-8")
    number = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([number[character] for character in text])
    cut = int(CHARACTERS["train_share"] * len(ids))
    train, held_out = ids[:cut], ids[cut:]
    model, length = GPT(len(number)), SHAPE["max_length"]
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": TRAINING["weight_decay"]}, {"params": others, "weight_decay": 0.0}],
        lr=peak,
        betas=(0.9, TRAINING["beta_2"]),
        fused=True,
    )

    def rate(step: int) -> float:
        low, warmup = peak * TRAINING["final_share"], TRAINING["warmup"]
        if step < warmup:
            return peak * (step + 1) / (warmup + 1)
        return low + 0.5 * (1 + math.cos(math.pi * (step - warmup) / (TRAINING["steps"] - warmup))) * (peak - low)

    def batch():
        starts = torch.randint(len(train) - length, (TRAINING["batch_size"],))
        rows = train[starts[:, None] + torch.arange(length + 1)]
        return rows[:, :-1], rows[:, 1:]

    def step(number: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = rate(number)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "mixed_bfloat16"):
            loss = model(*batch())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), TRAINING["clip_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    start, cpu = time.perf_counter(), time.process_time()
    for number in range(steps):
        step(number)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
    with torch.inference_mode():
        whole = (len(held_out) - 1) // length * length
        rows = held_out[:whole].view(-1, length), held_out[1 : whole + 1].view(-1, length)
        losses = [model(x, y) * len(x) for x, y in zip(*(part.split(64) for part in rows), strict=True)]
    report(
        train_seconds=seconds,
        cpu_seconds=cpu_seconds,
        steps=steps,
        validation_loss=float(sum(losses) / len(rows[0])),
        parameters=sum(p.numel() for p in model.parameters()),
        versions={"torch": torch.__version__},
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="text file")
    parser.add_argument("--steps", type=int, default=TRAINING["steps"], help="fewer, to try it out")
    parser.add_argument("--dtype", choices=("float32", "mixed_bfloat16"), default="float32")
    parser.add_argument("--learning-rate", type=float, default=TRAINING["learning_rate"], help="at its peak")
    options = parser.parse_args()
    measure(options.data, options.steps, options.dtype, options.learning_rate)
