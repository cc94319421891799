"""Which documents are prose: the published rules of Gopher and C4 on length, symbols, lines and repetition.

Notable here:
- Every number is measured for a batch of documents at once, on the arrays of `aillm_tf.text.units`.
- A character of a script without spaces counts as a word, so the rules on counts and on repetition hold for Chinese,
  too; the rule on the length of words looks at scripts with spaces only.
- A document falls under one reason, the first that applies, so the counts of a report add up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from aillm_tf.text.languages import languages
from aillm_tf.text.units import ALONE, LETTER, PUNCTUATION, SPACE, Units, ngrams, runs_in_order, span_hashes, tables

_BULLETS = np.array([ord(character) for character in "*-•‣●○■□▪▫◦※·➢★–—"])
_TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
_REPEATED_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
_LEAST_SHARE = min(_REPEATED_NGRAMS.values()) / max(_REPEATED_NGRAMS.values())
_KEPT = np.uint64(40)  # bits of a hash beside the number of its document


@dataclasses.dataclass(frozen=True)
class QualityRules:
    """What a document must be like to stay; the numbers are Gopher's.

    Args:
        min_words, max_words: words it may have.
        languages: codes (see `aillm_tf.text.languages`) of which its language must be one; empty: any.
        rules: False: only the length and the language are looked at.
    """

    min_words: int = 50
    max_words: int = 100_000
    languages: tuple[str, ...] = ()
    rules: bool = True


def measure(texts: Sequence[str], units: Units) -> dict[str, np.ndarray]:
    """The numbers that the rules look at.

    Args:
        texts: the documents; lines end in "\\n".
        units: their words.

    Returns:
        name -> (documents,) float64. Shares of lines and characters are of all lines, and of all characters of words;
        of several equal lines or n-grams, all but the first are repeated.
    """
    kind = tables().kind[units.codes]
    words = np.maximum(units.counts, 1)
    size = units.end - units.begin
    alone = (kind[units.begin] & ALONE) > 0
    documents = len(texts)
    spaced = np.bincount(units.document[~alone], minlength=documents)
    characters = np.maximum(np.bincount(units.document, size, documents), 1)

    # Between spaces; where punctuation stands alone, as in texts that were tokenized, it is no word.
    blank = np.r_[True, (kind & SPACE) > 0]
    begin = np.flatnonzero(blank[:-1] & ~blank[1:])
    holds = np.bitwise_or.reduceat(kind, begin) if len(begin) else kind[:0]
    document = np.repeat(np.arange(documents), np.diff(np.searchsorted(begin, units.starts)))
    tokens = np.maximum(np.bincount(document[holds & ~np.uint8(SPACE) != PUNCTUATION], minlength=documents), 1)
    lettered = np.bincount(document[holds & LETTER > 0], minlength=documents)
    marks = np.array([text.count("#") + text.count("…") + text.count("...") for text in texts])
    return {
        "words": units.counts.astype(float),
        "word_length": np.bincount(units.document[~alone], size[~alone], documents) / np.maximum(spaced, 1),
        "spaced_share": spaced / words,
        "symbol_ratio": marks / words,
        "lettered_share": lettered / tokens,
        **_lines(units, documents),
        **_repetition(units, size, characters),
    }


def _lines(units: Units, documents: int) -> dict[str, np.ndarray]:
    end = np.flatnonzero(units.codes == ord("\n"))
    begin = np.r_[0, end[:-1] + 1] if len(end) else end
    full = end > begin
    begin, end = begin[full], end[full]
    document = np.searchsorted(units.starts, begin, "right") - 1
    lines = np.maximum(np.bincount(document, minlength=documents), 1)
    last = units.codes[end - 1]
    dots = (
        (last == ord(".")) & (units.codes[end - 2] == ord(".")) & (units.codes[end - 3] == ord(".")) & (end - begin > 2)
    )
    repeated = _repeated(_within(span_hashes(units.prefix, begin, end), document))
    characters = np.maximum(np.bincount(document, end - begin, documents), 1)
    return {
        "bullet_lines": np.bincount(document[np.isin(units.codes[begin], _BULLETS)], minlength=documents) / lines,
        "ellipsis_lines": np.bincount(document[dots | (last == ord("…"))], minlength=documents) / lines,
        "repeated_lines": np.bincount(document[repeated], minlength=documents) / lines,
        "repeated_line_characters": np.bincount(document[repeated], (end - begin)[repeated], documents) / characters,
    }


def _repeated(keys: np.ndarray) -> np.ndarray:
    """Which entries are copies of an earlier one: (entries,) bool."""
    order, starts = runs_in_order(keys)
    copies = np.ones(len(keys), bool)
    if len(keys):
        copies[np.minimum.reduceat(order, starts)] = False
    return copies


def _within(hashes: np.ndarray, document: np.ndarray) -> np.ndarray:
    """Keys in the order of documents, in which 40 bits of the hash are left."""
    return (document.astype(np.uint64) << _KEPT) | (hashes >> np.uint64(24))


def _repetition(units: Units, size: np.ndarray, characters: np.ndarray) -> dict[str, np.ndarray]:
    documents = len(characters)
    shares = {f"top_{n}_grams": np.zeros(documents) for n in _TOP_NGRAMS}
    shares |= {f"repeated_{n}_grams": np.zeros(documents) for n in _REPEATED_NGRAMS}
    before = np.r_[0, np.cumsum(size)]
    longest = np.zeros(documents, np.int64)
    np.maximum.at(longest, units.document, size)
    for n, at, hashes in ngrams(units, max(_REPEATED_NGRAMS), [*_TOP_NGRAMS, *_REPEATED_NGRAMS]):
        # Sorting alone is fast, and says for most documents that they need no second look. What longer repeated
        # n-grams cover, shorter ones cover, too.
        if n <= min(_REPEATED_NGRAMS):
            keys = np.sort(_within(hashes, units.document[at]))
            starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]][: len(keys)])
            times = np.diff(np.r_[starts, len(keys)])
            owner = (keys[starts] >> _KEPT).astype(np.int64)
            most = np.zeros(documents, np.int64)
            if n in _TOP_NGRAMS:
                np.maximum.at(most, owner, np.where(times > 1, times, 0))
            else:
                np.add.at(most, owner, times - 1)
            suspects = most * n * longest > {**_TOP_NGRAMS, **_REPEATED_NGRAMS}[n] * characters * _LEAST_SHARE
        chosen = suspects[units.document[at]]
        at = at[chosen]
        if not len(at):
            continue
        keys = _within(hashes[chosen], units.document[at])
        if n in _TOP_NGRAMS:
            order, starts = runs_in_order(keys)
            times = np.diff(np.r_[starts, len(order)])
            one = at[order[starts]]
            owner = units.document[one]
            top = (times == most[owner]) & (times > 1)
            np.maximum.at(
                shares[f"top_{n}_grams"], owner[top], (times * (before[one + n] - before[one]) / characters[owner])[top]
            )
        else:
            copies = at[_repeated(keys)]
            edges = np.zeros(len(size) + 1, np.int64)
            edges[copies] += 1
            np.add.at(edges, copies + n, -1)
            inside = np.cumsum(edges[:-1]) > 0
            shares[f"repeated_{n}_grams"] = np.bincount(units.document[inside], size[inside], documents) / characters
    return shares


# What each rule asks of the measures, in the order in which they are tried: true where a document must go.
Measures = Mapping[str, np.ndarray]
_SHAPE: dict[str, Callable[[Measures], np.ndarray]] = {
    "words are too short or too long": lambda m: (m["spaced_share"] > 0.5) & (abs(m["word_length"] - 6.5) > 3.5),
    "many # or ...": lambda m: m["symbol_ratio"] > 0.1,
    "few words have letters": lambda m: m["lettered_share"] < 0.8,
    "most lines are bullets": lambda m: m["bullet_lines"] > 0.9,
    "many lines end in ...": lambda m: m["ellipsis_lines"] > 0.3,
    "repeats lines": lambda m: (m["repeated_lines"] > 0.3) | (m["repeated_line_characters"] > 0.2),
    "one phrase over and over": lambda m: _any_above(m, "top", _TOP_NGRAMS),
    "repeats passages": lambda m: _any_above(m, "repeated", _REPEATED_NGRAMS),
}


def _any_above(measures: Measures, kind: str, most: Mapping[int, float]) -> np.ndarray:
    return np.any([measures[f"{kind}_{n}_grams"] > share for n, share in most.items()], axis=0)


def judge(
    texts: Sequence[str], units: Units, rules: QualityRules = QualityRules()
) -> tuple[list[str | None], np.ndarray]:
    """Why each document should go.

    Args:
        texts: the documents.
        units: their words.
        rules: what to ask of them.

    Returns:
        One reason a document, None for those that stay; and (documents,) languages.

    Example:
        >>> from aillm_tf.text.units import split_units
        >>> texts = ["Buy now! " * 30, "short"]
        >>> judge(texts, split_units(texts))[0]
        ['one phrase over and over', 'too few words']

    Reference:
        Rae et al., "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", 2021, appendix A1,
        https://arxiv.org/abs/2112.11446; Raffel et al., "Exploring the Limits of Transfer Learning" (C4), 2020.
    """
    words = units.counts
    found = languages(units)
    verdicts: dict[str, np.ndarray | Collection] = {
        "too few words": words < rules.min_words,
        "too many words": words > rules.max_words,
    }
    if rules.languages:
        verdicts["another language"] = ~np.isin(found.astype(str), rules.languages)
    if rules.rules:
        verdicts["placeholder text"] = np.array(["lorem ipsum" in text.lower() for text in texts], bool)
        measures = measure(texts, units)
        verdicts |= {reason: rule(measures) for reason, rule in _SHAPE.items()}
    reasons: list[str | None] = [None] * len(texts)
    for reason, bad in reversed(verdicts.items()):
        for document in np.flatnonzero(bad):
            reasons[document] = reason
    return reasons, found
