"""Makes the golden numbers of BART and mBART with transformers and torch: ``python tests/golden/make_bart.py``.

Writes beside itself
    bart/, mbart/       tiny random models for conditional generation as transformers saves them
    bart_classifier/, bart_spans/   BARTs of one layer a side for classification and for question answering
    bart.npz            their inputs (padded on both sides, a hole in the target's mask) and outputs
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import transformers
from seq2seq import batch, outputs, randomise, save
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BartForQuestionAnswering,
    BartForSequenceClassification,
    MBartConfig,
    MBartForConditionalGeneration,
)

HERE = Path(__file__).parent
EOS = 2
SIZES = {
    "vocab_size": 60,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 28,
    "eos_token_id": EOS,
}
SMALL = SIZES | {"decoder_layers": 1}
LABELS = ["contradiction", "neutral", "entailment"]


def models() -> dict[str, torch.nn.Module]:
    named = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    configs = {
        "bart": (BartForConditionalGeneration, BartConfig(**SIZES)),
        "mbart": (MBartForConditionalGeneration, MBartConfig(**SIZES, scale_embedding=True, decoder_start_token_id=2)),
        "bart_classifier": (BartForSequenceClassification, BartConfig(**SMALL, **named)),
        "bart_spans": (BartForQuestionAnswering, BartConfig(**SMALL)),
    }
    return {name: kind._from_config(config, attn_implementation="eager") for name, (kind, config) in configs.items()}


def head_outputs(model: torch.nn.Module, arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Scores of a classifier, or of every real token to begin and to end an answer."""
    ids = torch.from_numpy(arrays["sentence_ids"]).long()
    with torch.no_grad():
        result = model(input_ids=ids, attention_mask=(ids != 1).long())
    if name == "bart_classifier":
        return {f"{name}_logits": result.logits.numpy()}
    scores = torch.stack([result.start_logits, result.end_logits], -1).numpy()
    return {f"{name}_logits": scores[arrays["sentence_ids"] != 1]}


def sentences() -> np.ndarray:
    """<s> words </s> <pad> ..., of which BART's classifier reads the state of the decoder at </s>."""
    random = np.random.default_rng(1)
    ids = np.full((3, 12), 1, np.int32)
    for row, length in zip(ids, [12, 5, 8], strict=True):
        row[:length] = [0, *random.integers(4, 60, length - 2), EOS]
    return ids


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    arrays = batch(vocab_size=60, first=4) | {"sentence_ids": sentences()}
    for name, model in models().items():
        if name == "bart":
            model.generation_config.update(forced_bos_token_id=0, num_beams=4, no_repeat_ngram_size=3)
        randomise(model)
        save(model, HERE / name)
        arrays |= (outputs if name in ("bart", "mbart") else head_outputs)(model, arrays, name)
    np.savez_compressed(HERE / "bart.npz", **arrays)
