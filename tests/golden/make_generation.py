"""Makes the golden texts of every strategy with transformers: ``python tests/golden/make_generation.py FOLDER``.

FOLDER is stories260k; the other models are the tiny random ones beside this file. Writes beside itself
    generation.npz    for every case of generation_cases.py the new tokens, filled up with -1, and the scores of beams;
                      "stories": 256 tokens that stories260k decodes greedily from ``<s>``
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from generation_cases import CASES, PROMPTS, RAGGED, SOURCE_LENGTHS, SOURCES, START
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

HERE = Path(__file__).parent
STORY = 256


def inputs(name: str, model: str) -> dict[str, torch.Tensor]:
    if model in START:
        mask = np.arange(SOURCES.shape[1]) < np.array(SOURCE_LENGTHS)[:, None]
        return {"input_ids": torch.from_numpy(SOURCES).long(), "attention_mask": torch.from_numpy(mask).long()}
    if "ragged" not in name:
        ids = torch.from_numpy(PROMPTS).long()
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    longest = max(map(len, RAGGED))
    ids = np.stack([np.pad(row, (longest - len(row), 0)) for row in RAGGED])
    mask = np.stack([np.pad(np.ones(len(row)), (longest - len(row), 0)) for row in RAGGED])
    return {"input_ids": torch.from_numpy(ids).long(), "attention_mask": torch.from_numpy(mask).long()}


def new_tokens(sequences: torch.Tensor, begin: int, stops: list[int], limit: int) -> np.ndarray:
    found = np.full((len(sequences), limit), -1, np.int32)
    for row, ids in zip(found, sequences[:, begin:].tolist(), strict=True):
        ends = [place for place, index in enumerate(ids) if index in stops]
        ids = ids[: ends[0] + 1] if ends else ids
        row[: len(ids)] = ids
    return found


def decode(name: str, kind: str, options: dict) -> dict[str, np.ndarray]:
    auto = AutoModelForSeq2SeqLM if kind in START else AutoModelForCausalLM
    model = auto.from_pretrained(HERE / kind, dtype=torch.float32, attn_implementation="eager").eval()
    # what the checkpoint says of decoding shall not be mixed into the case
    model.generation_config = GenerationConfig(decoder_start_token_id=START.get(kind))
    config = GenerationConfig(
        **options, do_sample=False, decoder_start_token_id=START.get(kind), output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    feed = inputs(name, kind)
    with torch.no_grad():
        result = model.generate(**feed, generation_config=config)
    begin = 1 if kind in START else feed["input_ids"].shape[1]
    stops = options["eos_token_id"] if isinstance(options["eos_token_id"], list) else [options["eos_token_id"]]
    found = {f"{name}/tokens": new_tokens(result.sequences, begin, stops, options["max_new_tokens"])}
    if options.get("num_beams", 1) > 1:
        found[f"{name}/scores"] = result.sequences_scores.numpy()
    return found


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    arrays = {}
    for name, (kind, options) in CASES.items():
        arrays |= decode(name, kind, options)
    story = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, attn_implementation="eager").eval()
    begin = torch.tensor([[story.config.bos_token_id]])
    with torch.no_grad():
        ids = story.generate(
            begin,
            attention_mask=torch.ones_like(begin),
            max_new_tokens=STORY,
            min_new_tokens=STORY,
            do_sample=False,
        )
    arrays["stories"] = ids[0, 1:].numpy().astype(np.int32)
    np.savez_compressed(HERE / "generation.npz", **arrays)
