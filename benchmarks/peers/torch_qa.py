"""The peer transformers + torch: one JSON line for a fine-tuning on SQuAD and its scores.

Command:
    cd benchmarks && python -m peers.torch_qa --run v2 --data FOLDER --init FOLDER --seeds 0

The peer at its best on a CPU: bf16 autocast, fused AdamW, scaled-dot-product attention, each batch padded to its
longest row, rows tokenized before the clock starts. Answers are found as run_qa.py of transformers finds them: the n
best starts and ends of each window, spans over all windows by the sum of their logits, no answer where the lowest
score of the first token is higher.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from harness import report
from peers.torch_adamw import adamw
from question_answering import EPOCHS, SETTINGS

from aillm_tf.metrics.squad import score


def read(path: Path) -> list[dict]:
    """Questions with their contexts."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [
        {**qa, "context": paragraph["context"]}
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]


def windows(tokenizer, questions: list[dict]) -> list[dict]:
    """Rows with their targets and, for the tokens of the context, their characters."""
    encoded = tokenizer(
        [question["question"] for question in questions],
        [question["context"] for question in questions],
        truncation="only_second",
        max_length=SETTINGS["max_length"],
        stride=SETTINGS["stride"],
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    rows = []
    for i, number in enumerate(encoded["overflow_to_sample_mapping"]):
        spans = [
            span if text == 1 else None
            for span, text in zip(encoded["offset_mapping"][i], encoded.sequence_ids(i), strict=True)
        ]
        row = {name: encoded[name][i] for name in ("input_ids", "token_type_ids", "attention_mask")}
        row |= {"start_positions": 0, "end_positions": 0}
        inside = [place for place, span in enumerate(spans) if span]
        for answer in questions[number]["answers"][:1]:
            first, last = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            if inside and spans[inside[0]][0] <= first and spans[inside[-1]][1] >= last:
                row["start_positions"] = max(place for place in inside if spans[place][0] <= first)
                row["end_positions"] = min(place for place in inside if spans[place][1] >= last)
        rows.append({"row": row, "question": number, "spans": spans})
    return rows


def answers(
    questions: list[dict], rows: list[dict], logits: list[tuple], version: str
) -> tuple[list[str], list[float]]:
    """The text of each question's best span, or "", and the probability of no answer rather than it."""
    best = [(-np.inf, "")] * len(questions)
    nulls = [np.inf] * len(questions)
    for row, (start, end) in zip(rows, logits, strict=True):
        number, spans = row["question"], row["spans"]
        nulls[number] = min(nulls[number], float(start[0] + end[0]))
        starts, ends = (np.argsort(values)[: -SETTINGS["n_best"] - 1 : -1] for values in (start, end))
        for a in starts:
            for b in ends:
                if a >= len(spans) or b >= len(spans) or not spans[a] or not spans[b]:
                    continue
                if b < a or b - a + 1 > SETTINGS["max_answer_length"]:
                    continue
                total = float(start[a] + end[b])
                if total > best[number][0]:
                    best[number] = total, questions[number]["context"][spans[a][0] : spans[b][1]]
    no_answer = [float(1 / (1 + np.exp(total - null))) for (total, _), null in zip(best, nulls, strict=True)]
    return [text for _, text in best], no_answer if version == "v2" else [0.0] * len(best)


def run(version: str, data: Path, init: str, seed: int) -> None:
    torch.manual_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(init)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(init, dtype=torch.float32)
    began = time.perf_counter()
    questions = {name: read(data / f"{name}.json") for name in ("train", "test")}
    rows = {name: windows(tokenizer, part) for name, part in questions.items()}
    tokenized = time.perf_counter()
    batch = SETTINGS["batch"]
    steps = EPOCHS[version] * -(-len(rows["train"]) // batch)
    optimizer = adamw(model, SETTINGS["learning_rate"], SETTINGS["weight_decay"])
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, round(SETTINGS["warmup"] * steps), steps)
    chance = np.random.default_rng(seed)
    model.train()
    for _ in range(EPOCHS[version]):
        order = chance.permutation(len(rows["train"]))
        for at in range(0, len(order), batch):
            inputs = tokenizer.pad([rows["train"][i]["row"] for i in order[at : at + batch]], return_tensors="pt")
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(**inputs).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), SETTINGS["clip_norm"])
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    trained = time.perf_counter()
    model.eval()
    logits = []
    for at in range(0, len(rows["test"]), batch):
        part = [row["row"] for row in rows["test"][at : at + batch]]
        keys = ("input_ids", "token_type_ids", "attention_mask")
        inputs = tokenizer.pad([{key: row[key] for key in keys} for row in part], return_tensors="pt")
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            out = model(**inputs)
        logits += zip(out.start_logits.float().numpy(), out.end_logits.float().numpy(), strict=True)
    texts, no_answer = answers(questions["test"], rows["test"], logits, version)
    golds = [[answer["text"] for answer in question["answers"]] for question in questions["test"]]
    said = ["" if p > 0.5 else text for p, text in zip(no_answer, texts, strict=True)]
    scores = score(said, golds, "v2.0" if version == "v2" else "v1.1").summary
    if version == "v2":
        scores["best_f1"] = score(texts, golds, "v2.0", no_answer).summary["best_f1"]
    report(
        scores=scores,
        tokenize_seconds=tokenized - began,
        train_seconds=trained - tokenized,
        score_seconds=time.perf_counter() - trained,
        windows=len(rows["train"]),
        steps=steps,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", choices=["v1", "v2"], required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--init", required=True)
    parser.add_argument("--seeds", type=int, default=0)
    options = parser.parse_args()
    run(options.run, options.data, options.init, options.seeds)
