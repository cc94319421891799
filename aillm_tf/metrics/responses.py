"""Scores of a dialogue model: BLEU and diversity of what it answers, and the perplexity to be better than."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from aillm_tf.metrics.translation import check_rows, mostly_chinese

# a Chinese character, a word of other letters, or a sign
WORD = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W\u3400-\u4dbf\u4e00-\u9fff]+|[^\w\s]")


def response_scores(written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU, distinct-1 and distinct-2 of a corpus of answers.

    Args:
        written: one answer a row.
        references: one or more answers a row.

    Returns:
        "bleu", 0 to 100, by sacreBLEU, of Chinese on characters; "distinct1" and "distinct2", 0 to 1.

    Raises:
        ValueError: no rows, not as many references, or a row without one.
        ModuleNotFoundError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics import BLEU
    except ModuleNotFoundError:
        raise ModuleNotFoundError("scores of answers need sacrebleu: pip install sacrebleu") from None
    check_rows(written, references)
    most = max(map(len, references))
    # None where a row has fewer references than others
    streams = [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]
    tokenize = "zh" if mostly_chinese([texts[0] for texts in references]) else "13a"
    bleu = BLEU(tokenize=tokenize).corpus_score(list(written), streams).score
    return {"bleu": bleu, "distinct1": distinct(written, 1), "distinct2": distinct(written, 2)}


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words (characters of Chinese) of all texts together, as a share of all their n-grams.

    Example:
        >>> distinct(["I do not know.", "I do."], 1)  # I, do, not, know and the stop, of eight
        0.625

    Reference:
        Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models, arXiv:1510.03055.
    """
    found = []
    for text in texts:
        words = WORD.findall(text.lower())
        found += zip(*(words[i:] for i in range(n)), strict=False)
    return len(set(found)) / len(found) if found else 0.0


def unigram_perplexity(train: np.ndarray, targets: np.ndarray, vocab_size: int) -> float:
    """Perplexity of targets under the frequencies of tokens in training targets, each counted once more.

    Args:
        train: (tokens,) int, targets of training.
        targets: (tokens,) int, those to be scored.
        vocab_size: how many different tokens there could be.

    Example:
        >>> round(unigram_perplexity(np.array([0, 0, 1]), np.array([0, 1]), vocab_size=2), 3)  # 3/5 and 2/5
        2.041
    """
    counts = np.bincount(train, minlength=vocab_size) + 1.0
    return math.exp(-float(np.mean(np.log(counts / counts.sum())[targets])))
