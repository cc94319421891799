"""Scores of summaries by rouge-score: ROUGE-1, -2, -L and -Lsum, F-measures; and the baseline of the first sentences.

Notable here:
- Chinese is compared character by character; everything else as rouge-score does by default, lower-cased words of Latin
  letters and digits, without stemming.
- Of several references the best counts, for each of the four scores on its own, as in the script of Lin (2004).
- ROUGE-Lsum compares sentence by sentence, found by their punctuation.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from aillm_tf.metrics.bootstrap import Tally, mean_tally
from aillm_tf.metrics.translation import CHINESE, check_rows

# Punctuation with a space behind it; Chinese punctuation, or half-width one behind a Chinese character; a line's end.
SENTENCE = re.compile(
    r"[.!?][\"')\]]*\s+"
    r"|(?:[。！？；]|(?<=[\u4e00-\u9fff])[!?;])[。！？；!?;…]*[”’」』）)]*(?![。！？；!?;…”’」』）)，、,])"
    r"|\n+"
)
KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")

logger = logging.getLogger("aillm_tf")


def sentences(text: str) -> list[str]:
    """Splits a text after full stops, question and exclamation marks, and at line ends.

    Example:
        >>> sentences("It rained. Was it cold? Yes!")
        ['It rained.', 'Was it cold?', 'Yes!']
        >>> sentences("今天下雨。很冷！")
        ['今天下雨。', '很冷！']
    """
    ends = [match.end() for match in SENTENCE.finditer(text)]
    parts = [text[start:end].strip() for start, end in zip([0, *ends], [*ends, len(text)], strict=True)]
    return [part for part in parts if part]


def lead(text: str, count: int) -> str:
    """The first `count` sentences: what a summary has to be better than."""
    return " ".join(sentences(text)[:count])


class Words:
    """What rouge-score calls a tokenizer: Chinese characters, and words as it splits them by default."""

    def __init__(self):
        from rouge_score import tokenizers

        self._words = tokenizers.DefaultTokenizer(use_stemmer=False)

    def tokenize(self, text: str) -> list[str]:
        tokens, at = [], 0
        for character in CHINESE.finditer(text):
            tokens += [*self._words.tokenize(text[at : character.start()]), character[0]]
            at = character.end()
        return tokens + self._words.tokenize(text[at:])


def summary_scores(summaries: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """ROUGE of a corpus, the mean over rows.

    Args:
        summaries: one text a row.
        references: one or more texts a row.

    Returns:
        "rouge1", "rouge2", "rougeL", "rougeLsum", F-measures from 0 to 100.

    Raises:
        ValueError: no rows, not as many references, or a row without one.
        ModuleNotFoundError: rouge-score is not installed.

    Example:
        >>> scores = summary_scores(["the cat sat"], [["the cat sat down", "a dog"]])
        >>> round(scores["rouge1"], 1)
        85.7

    Reference:
        Lin 2004, ROUGE: A Package for Automatic Evaluation of Summaries, https://aclanthology.org/W04-1013
    """
    rows = _rows(summaries, references)
    return {kind: sum(values) / len(summaries) for kind, values in rows.items()}


def summary_tally(summaries: Sequence[str], references: Sequence[Sequence[str]]) -> Tally:
    """The scores of `summary_scores`, row by row.

    Args:
        summaries, references: as there.
    """
    return mean_tally(_rows(summaries, references), [tuple(texts) for texts in references])


def _rows(summaries: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Kind of ROUGE -> the F-measure of every row, 0 to 100."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError:
        raise ModuleNotFoundError("scores of summaries need rouge-score: pip install rouge-score") from None
    check_rows(summaries, references)
    words = Words()
    empty = sum(not any(words.tokenize(text) for text in texts) for texts in references)
    if empty:
        logger.warning(
            "%d of %d references hold no Latin letter, digit or Chinese character: ROUGE is 0 there",
            empty,
            len(references),
        )
    scorer = RougeScorer(KINDS, tokenizer=words)
    rows: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for summary, texts in zip(summaries, references, strict=True):
        lines = ["\n".join(sentences(text)) for text in (summary, *texts)]
        for kind, score in scorer.score_multi(lines[1:], lines[0]).items():
            rows[kind].append(100.0 * score.fmeasure)
    return rows


def lead_scores(
    sources: Sequence[str], references: Sequence[Sequence[str]], count: int | None = None
) -> tuple[int, dict[str, float]]:
    """Scores of the first sentences of every source.

    Args:
        sources: one text a row.
        references: one or more summaries a row.
        count: how many sentences; None: as many as references have on average, at least one.

    Returns:
        How many sentences, and what `summary_scores` says of them.
    """
    if count is None:
        lengths = [len(sentences(text)) for texts in references for text in texts]
        count = max(1, round(sum(lengths) / len(lengths)))
    return count, summary_scores([lead(source, count) for source in sources], references)
