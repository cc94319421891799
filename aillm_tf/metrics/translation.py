"""Scores of translations by sacreBLEU: BLEU, chrF and TER, each with the signature that says how it was computed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aillm_tf.metrics.bootstrap import Scores, Tally

CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")


class TranslationScores(NamedTuple):
    """``scores``: "bleu", "chrf", "ter" (lower is better), 0 to 100; ``signatures``: the same names to sacreBLEU's."""

    scores: dict[str, float]
    signatures: dict[str, str]


def translation_scores(
    translations: Sequence[str], references: Sequence[Sequence[str]], *, tokenize: str | None = None
) -> TranslationScores:
    """Scores of a corpus.

    Args:
        translations: one text a row.
        references: one or more texts a row.
        tokenize: how BLEU splits words, one of sacreBLEU's names; None: "zh" where most of the references' letters are
            Chinese, else "13a". The signature says which.

    Returns:
        Scores and signatures.

    Raises:
        ValueError: no rows, not as many references, or a row without one.
        ModuleNotFoundError: sacrebleu is not installed.

    Example:
        >>> found = translation_scores(["Das ist ein Test."], [["Das ist ein Test."]])
        >>> round(found.scores["bleu"], 1), found.signatures["bleu"].split("|")[0]
        (100.0, 'nrefs:1')

    Reference:
        Post 2018, A Call for Clarity in Reporting BLEU Scores, https://aclanthology.org/W18-6319
    """
    metrics, streams = _metrics(translations, references, tokenize)
    scores = {name: metric.corpus_score(list(translations), streams).score for name, metric in metrics.items()}
    return TranslationScores(scores, {name: str(metric.get_signature()) for name, metric in metrics.items()})


def translation_tally(
    translations: Sequence[str], references: Sequence[Sequence[str]], *, tokenize: str | None = None
) -> Tally:
    """What `translation_scores` is made of: sacreBLEU's own statistics of every row.

    Args:
        translations, references, tokenize: as for `translation_scores`.
    """
    metrics, streams = _metrics(translations, references, tokenize)
    parts = {
        name: np.array(metric._extract_corpus_statistics(list(translations), streams), float)
        for name, metric in metrics.items()
    }
    ends = np.cumsum([part.shape[1] for part in parts.values()])[:-1]

    def scores(sums: np.ndarray) -> Scores:
        return {
            name: np.apply_along_axis(lambda row, of=metrics[name]: of._compute_score_from_stats(row).score, -1, part)
            for name, part in zip(parts, np.split(sums, ends, axis=-1), strict=True)
        }

    return Tally(np.concatenate([*parts.values()], axis=1), scores, [tuple(texts) for texts in references])


def _metrics(translations: Sequence[str], references: Sequence[Sequence[str]], tokenize: str | None):
    """sacreBLEU's metrics by name, and the references as it takes them."""
    try:
        from sacrebleu.metrics import BLEU, CHRF, TER
    except ModuleNotFoundError:
        raise ModuleNotFoundError("scores of translations need sacrebleu: pip install sacrebleu") from None
    check_rows(translations, references)
    if tokenize is None:
        tokenize = "zh" if mostly_chinese([texts[0] for texts in references]) else "13a"
    most = max(map(len, references))
    # None where a row has fewer references than others
    streams = [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]
    return {"bleu": BLEU(tokenize=tokenize), "chrf": CHRF(), "ter": TER(asian_support=tokenize == "zh")}, streams


def mostly_chinese(texts: Sequence[str]) -> bool:
    """Whether most of the letters of texts are Chinese.

    Example:
        >>> mostly_chinese(["今天下雨", "rain"]), mostly_chinese(["我们用 TensorFlow"])
        (False, False)
    """
    letters = [letter for text in texts for letter in text if letter.isalpha()]
    return 2 * len(CHINESE.findall("".join(letters))) > len(letters)


def check_rows(written: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises ValueError where texts and references do not belong together."""
    if not written or len(written) != len(references):
        raise ValueError(
            f"{len(written)} texts and {len(references)} rows of references: give one for each, at least 1"
        )
    for row, texts in enumerate(references):
        if isinstance(texts, str) or not texts:
            raise ValueError(f"row {row}: references are a list of one or more texts, not {texts!r:.60}")
