"""Makes the golden numbers of BERT with transformers and torch: ``python tests/golden/make_bert.py [MINILM_FOLDER]``.

Writes beside itself
    bert_classifier/, bert_masked_lm/   tiny random BERTs as transformers saves them, with a tokenizer
    bert.npz                            their inputs (padded batches, segment ids) and outputs
and, when the folder of all-MiniLM-L6-v2 is given,
    minilm.npz                          a few numbers of its last hidden states on eight sentences
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForMaskedLM, BertForSequenceClassification

HERE = Path(__file__).parent
SENTENCES = [
    "a stirring, funny film",
    "The plot is thin, but the actors save it.",
    "I would not watch this again.",
    "ok",
    "Café déjà vu: 3.14 % of 1,000 people — at most!",
    "A long sentence, with several clauses, commas and numbers like 42, so that rows differ in length.",
    "你好 world",
    "refund my order #12345 now!!!",
]


def tiny_config() -> BertConfig:
    return BertConfig(
        vocab_size=120,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=24,
        type_vocab_size=2,
        id2label={0: "negative", 1: "neutral", 2: "positive"},
        label2id={"negative": 0, "neutral": 1, "positive": 2},
    )


def randomise(model: torch.nn.Module) -> None:
    """Random values everywhere: a fresh model's zeros and ones would hide a bias or a scale put in a wrong place."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in sorted(model.named_parameters()):
            noise = torch.randn(tensor.shape, generator=generator)
            scale_of_norm = name.endswith("LayerNorm.weight")
            tensor.copy_(1 + 0.2 * noise if scale_of_norm else 0.3 * noise)


def write_tokenizer(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words += ["##" + chr(code) for code in range(ord("a"), ord("z") + 1)]
    words += list("0123456789.,!?'-:;()")
    words += [f"[unused{i}]" for i in range(120 - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    config = {"do_lower_case": True, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")


def tiny() -> None:
    random = np.random.default_rng(0)
    lengths = [20, 7, 1, 13]
    token_ids = np.zeros((len(lengths), max(lengths)), np.int32)
    segment_ids = np.zeros_like(token_ids)
    for row, length in enumerate(lengths):
        token_ids[row, :length] = random.integers(5, 120, length)
        segment_ids[row, length // 2 : length] = 1
    mask = token_ids != 0
    arrays = {"token_ids": token_ids, "segment_ids": segment_ids}
    feed = {
        "input_ids": torch.from_numpy(token_ids).long(),
        "token_type_ids": torch.from_numpy(segment_ids).long(),
        "attention_mask": torch.from_numpy(mask).long(),
    }
    for name, kind in {"bert_classifier": BertForSequenceClassification, "bert_masked_lm": BertForMaskedLM}.items():
        model = kind._from_config(tiny_config(), attn_implementation="eager").eval()
        randomise(model)
        model.save_pretrained(HERE / name)
        write_tokenizer(HERE / name)
        with torch.no_grad():
            outputs = model(**feed, output_hidden_states=True)
        logits = outputs.logits.numpy()
        # Only real positions count: what stands at padding is nobody's contract.
        arrays[f"{name}_logits"] = logits if logits.ndim == 2 else logits[mask]
        arrays[f"{name}_hidden"] = outputs.hidden_states[-1].numpy()[mask]
    np.savez_compressed(HERE / "bert.npz", **arrays)


def minilm(folder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    feed = tokenizer(SENTENCES, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**feed).last_hidden_state
    mask = feed["attention_mask"]
    means = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    np.savez_compressed(
        HERE / "minilm.npz",
        token_ids=(feed["input_ids"] * mask).numpy().astype(np.int32),
        means=means.numpy(),  # (sentences, hidden) over real tokens
        first=hidden[..., :8].numpy()[mask.numpy() == 1],  # (real tokens, 8)
    )


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    tiny()
    if len(sys.argv) > 1:
        minilm(sys.argv[1])
