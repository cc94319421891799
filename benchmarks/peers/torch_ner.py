"""The peer transformers + torch of `ner.py`: one JSON line for training and scoring a token classifier.

Command (`ner.py` runs it):
    cd benchmarks && python -m peers.torch_ner --run FOLDER --init FOLDER --seeds 0

FOLDER has train.conll and test.conll. As transformers' example for token classification: the label of a token is that
of its first piece, the other pieces have none; what is longer than 256 tokens is cut off and counts as O.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from harness import report
from ner import SETTINGS
from peers.torch_adamw import adamw
from seqeval.metrics import f1_score, precision_score, recall_score


def read(path: Path) -> list[tuple[list[str], list[str]]]:
    blocks = path.read_text(encoding="utf-8").strip("\n").split("\n\n")
    return [tuple(map(list, zip(*(line.split("\t") for line in block.split("\n")), strict=True))) for block in blocks]


def main(data: Path, init: str, seed: int) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(init)
    train, test = read(data / "train.conll"), read(data / "test.conll")
    labels = ["O", *sorted({tag for _, tags in train for tag in tags} - {"O"})]
    torch.manual_seed(seed)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        init, num_labels=len(labels), dtype=torch.float32
    )
    optimizer = adamw(model, SETTINGS["learning_rate"], SETTINGS["weight_decay"])

    def encoded(sentences):
        rows = tokenizer(
            [words for words, _ in sentences],
            is_split_into_words=True,
            truncation=True,
            max_length=SETTINGS["max_length"],
        )
        firsts = []
        for i in range(len(sentences)):
            words = rows.word_ids(i)
            firsts.append([-1 if w is None or w == before else w for before, w in zip([None, *words], words)])  # noqa: B905
        return rows["input_ids"], firsts

    train_ids, train_firsts = encoded(train)
    test_ids, test_firsts = encoded(test)
    targets = [
        [-100 if w < 0 else labels.index(tags[w]) for w in firsts]
        for firsts, (_, tags) in zip(train_firsts, train, strict=True)
    ]
    size, chance = SETTINGS["batch"], np.random.default_rng(seed)
    per_epoch = -(-len(train) // size)
    steps = SETTINGS["epochs"] * per_epoch
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, int(SETTINGS["warmup"] * steps), steps)

    def padded(ids, chosen):
        return dict(tokenizer.pad({"input_ids": [ids[row] for row in chosen]}, return_tensors="pt"))

    def train_epoch():
        model.train()
        order = chance.permutation(len(train))
        for start in range(0, len(train), size):
            chosen = order[start : start + size]
            inputs = padded(train_ids, chosen)
            length = inputs["input_ids"].shape[1]
            goal = torch.tensor([targets[row] + [-100] * (length - len(targets[row])) for row in chosen])
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**inputs, labels=goal).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["clip_norm"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()

    def predict() -> list[list[str]]:
        model.eval()
        found = [["O"] * len(words) for words, _ in test]
        order = sorted(range(len(test)), key=lambda row: len(test_ids[row]))
        for start in range(0, len(test), 64):
            chosen = order[start : start + 64]
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                best = model(**padded(test_ids, chosen)).logits.argmax(-1).tolist()
            for row, numbers in zip(chosen, best, strict=True):
                for word, number in zip(test_firsts[row], numbers, strict=False):
                    if word >= 0:
                        found[row][word] = labels[number]
        return found

    epoch_seconds = []
    for _ in range(SETTINGS["epochs"]):
        start = time.perf_counter()
        train_epoch()
        epoch_seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    true, guessed = [tags for _, tags in test], predict()
    score_seconds = time.perf_counter() - start
    scores = {
        name: float(score(true, guessed))
        for name, score in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score))
    }
    report(scores=scores, epoch_seconds=epoch_seconds, score_seconds=score_seconds, steps=steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder with train.conll and test.conll")
    parser.add_argument("--init", required=True, help="folder of the pretrained BERT")
    parser.add_argument("--seeds", type=int, default=0, help="the seed")
    options = parser.parse_args()
    main(options.run, options.init, options.seeds)
