"""The peer transformers + torch: one JSON line for a training step, or for epochs of SST-2.

Command:
    cd benchmarks && python -m peers.torch_bert step --precision bf16 --steps 10
    cd benchmarks && python -m peers.torch_bert epoch --precision bf16 --init FOLDER --data ../../shared/data/sst2

The peer at its best on a CPU: fused AdamW, the faster of the two attention implementations, rows tokenized before
the clock starts, inference with weights in bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from harness import (
    BATCH,
    CLASSES,
    CLIP_NORM,
    LEARNING_RATE,
    MAX_LENGTH,
    SEED,
    SHAPE,
    WARMUP_STEPS,
    WEIGHT_DECAY,
    random_batch,
    read_rows,
    report,
    times,
)
from peers.torch_adamw import adamw


def autocast(precision: str):
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def make_model(attention: str) -> torch.nn.Module:
    config = transformers.BertConfig(
        vocab_size=SHAPE["vocab_size"],
        hidden_size=SHAPE["hidden_size"],
        num_hidden_layers=SHAPE["layers"],
        num_attention_heads=SHAPE["heads"],
        intermediate_size=SHAPE["ffn_size"],
        hidden_dropout_prob=SHAPE["dropout"],
        attention_probs_dropout_prob=SHAPE["dropout"],
        num_labels=CLASSES,
        attn_implementation=attention,
    )
    return transformers.BertForSequenceClassification(config)


def measure_step(precision: str, steps: int) -> None:
    token_ids, segment_ids, labels = (torch.from_numpy(array).long() for array in random_batch())
    inputs = {"input_ids": token_ids, "token_type_ids": segment_ids, "attention_mask": torch.ones_like(token_ids)}

    def trainer(attention: str):
        torch.manual_seed(SEED)
        model = make_model(attention).train()
        optimizer = adamw(model, LEARNING_RATE, WEIGHT_DECAY)

        def step() -> float:
            optimizer.zero_grad()
            with autocast(precision):
                loss = model(**inputs, labels=labels).loss
            loss.backward()
            optimizer.step()
            return loss.item()

        return model, step

    def classifier(model: torch.nn.Module):
        model.eval()
        if precision == "bf16":
            model.to(torch.bfloat16)

        def classify() -> np.ndarray:
            with torch.inference_mode():
                return model(**inputs).logits.float().softmax(-1).numpy()

        return classify

    def faster(calls: dict) -> str:
        return min(calls, key=lambda name: statistics.median(times(calls[name], 3, warmup=1)))

    sides = {attention: trainer(attention) for attention in ("sdpa", "eager")}
    train_attention = faster({name: step for name, (_, step) in sides.items()})
    train_seconds = times(sides[train_attention][1], steps)
    classifiers = {name: classifier(model) for name, (model, _) in sides.items()}
    inference_attention = faster(classifiers)
    report(
        train_seconds=train_seconds,
        inference_seconds=times(classifiers[inference_attention], steps),
        attention={"train": train_attention, "inference": inference_attention},
        versions={"torch": torch.__version__, "transformers": transformers.__version__},
    )


def measure_epochs(precision: str, init: str, data: str, epochs: int, limit: int | None) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(init)
    torch.manual_seed(SEED)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        init, num_labels=CLASSES, dtype=torch.float32
    )
    optimizer = adamw(model, LEARNING_RATE, WEIGHT_DECAY)
    sets = {}
    for name in ("train", "dev"):
        texts, labels = read_rows(Path(data) / f"{name}.tsv", limit)
        sets[name] = tokenizer(texts, truncation=True, max_length=MAX_LENGTH)["input_ids"], np.array(labels)
    rows, labels = sets["train"]
    steps = epochs * -(-len(rows) // BATCH)
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP_STEPS, steps)
    chance = np.random.default_rng(SEED)

    def batch(name: str, chosen) -> dict[str, torch.Tensor]:
        ids, targets = sets[name]
        padded = tokenizer.pad({"input_ids": [ids[row] for row in chosen]}, return_tensors="pt")
        return {**padded, "labels": torch.from_numpy(targets[chosen])}

    def train_epoch() -> None:
        model.train()
        order = chance.permutation(len(rows))
        for start in range(0, len(rows), BATCH):
            inputs = batch("train", order[start : start + BATCH])
            with autocast(precision):
                loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    def accuracy() -> float:
        model.eval()
        right, total = 0, len(sets["dev"][0])
        for start in range(0, total, BATCH):
            inputs = batch("dev", np.arange(start, min(start + BATCH, total)))
            with torch.inference_mode(), autocast(precision):
                right += int((model(**inputs).logits.argmax(-1) == inputs["labels"]).sum())
        return right / total

    epoch_seconds, accuracies = [], []
    for _ in range(epochs):
        start = time.perf_counter()
        train_epoch()
        epoch_seconds.append(time.perf_counter() - start)
        accuracies.append(accuracy())
    report(epoch_seconds=epoch_seconds, accuracy=accuracies, steps=steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["step", "epoch"])
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--steps", type=int, default=10, help="step: how many are timed")
    parser.add_argument("--init", help="epoch: folder of the pretrained BERT")
    parser.add_argument("--data", help="epoch: folder with train.tsv and dev.tsv")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--limit", type=int, help="epoch: rows of each file, to try it out")
    options = parser.parse_args()
    if options.what == "step":
        measure_step(options.precision, options.steps)
    else:
        measure_epochs(options.precision, options.init, options.data, options.epochs, options.limit)
