"""What the tests of pretraining tasks share: tokenizers, shapes and real text, small enough for seconds."""

from pathlib import Path

import numpy as np
import pytest

WIKITEXT = Path(__file__).parents[3] / "shared" / "data" / "wikitext2"
SHAPE = {"hidden_size": 16, "layers": 1, "heads": 2, "ffn_size": 32, "max_length": 64}
SHAPE |= {"dropout": 0.0, "attention_dropout": 0.0, "initializer_range": 0.2}
OPTIONS = {"max_length": 16, "dtype": "float32"}


def batch_of(data, step=0):
    """A batch as numpy arrays."""
    return {name: value.numpy() for name, value in next(iter(data.batches(step))).items()}


def clean_row(data, row):
    ids, offsets = data.columns["token_ids"]
    return ids[offsets[row] : offsets[row + 1]]


def paragraphs(split, shortest=200):
    """Paragraphs of WikiText-2, headings and short ones left out."""
    path = WIKITEXT / f"{split}.txt"
    if not path.exists():
        pytest.skip(f"WikiText-2 does not lie beside the repository ({path.name})")
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if len(line) > shortest]


def unigram_loss(train, held_out, special_ids):
    """Cross-entropy, in nats a token, of guessing each token by its frequency in the training rows."""
    counts = np.bincount(train, minlength=max(train.max(), held_out.max()) + 1) + 1.0
    counts[special_ids] = 0.0
    held_out = held_out[~np.isin(held_out, special_ids)]
    return float(-np.log(counts[held_out] / counts.sum()).mean())
