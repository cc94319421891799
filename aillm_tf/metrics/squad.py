"""Exact match and F1 of extracted answers, as the official scripts of SQuAD v1.1, SQuAD v2.0 and CMRC 2018 count them.

All three compare the text of an answer with every annotator's text and keep the best score. SQuAD compares bags of
English words: lower case, without ASCII punctuation and without "a", "an" and "the". CMRC compares sequences: every
Chinese character is a token, and F1 is of the longest stretch that both texts share.

v1.1 and v2.0 differ in what an answer without any word is worth: v2.0 has questions without an answer, whose only right
answer is the empty one; in v1.1 two texts without words match exactly and yet share no word, F1 0.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from aillm_tf.metrics.bootstrap import Scores as Resamples
from aillm_tf.metrics.bootstrap import Tally

Kind = Literal["v1.1", "v2.0", "cmrc"]

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
# what CMRC leaves out; it means to drop the ellipsis too, yet looks for two of them in one character
_CMRC_DROPS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_CHINESE = re.compile(r"([\u4e00-\u9fa5])")
# Stretches of other scripts are cut into words as the Penn Treebank does it (Marcus et al. 1993).
_CUTS = tuple(
    re.compile(pattern)
    for pattern in (
        r"\.{2,}|[;@#$%&?!()\[\]{}<>\"“‘”«»]|,(?!\d)",
        r"(?<!\.)\.(?=[\])}>\"'”» ]*$)",
        r"(?<!\S)'(?:(?=tis\b|twas\b)|(?!re|ve|ll|m|t|s|d|n)(?=\w))",
        r"n't(?!\S)|'(?:s|m|d|ll|re|ve)?(?!\S)",
        r"(?<=\bcan)(?=not\b)|(?<=\b(?:gim|lem))(?=me\b)|(?<=\b(?:gon|wan))(?=na\b)|(?<=\bgot)(?=ta\b)",
    )
)


def normalize(text: str) -> str:
    """A SQuAD answer as it is compared: lower case, no punctuation, no articles, single spaces.

    Example:
        >>> normalize("The  Eiffel-Tower, a landmark!")
        'eiffeltower landmark'
    """
    return " ".join(_ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str, kind: Kind = "v2.0") -> float:
    """1.0 where both texts are the same once normalized, else 0.0."""
    if kind == "cmrc":
        return float(_without_punctuation(answer) == _without_punctuation(gold))
    return float(normalize(answer) == normalize(gold))


def f1(answer: str, gold: str, kind: Kind = "v2.0") -> float:
    """Harmonic mean of precision and recall of the words (CMRC: characters) of an answer.

    Args:
        answer: what was found.
        gold: what an annotator marked.
        kind: whose rules.

    Example:
        >>> f1("the Norse leader Rollo", "Rollo")
        0.5
        >>> f1("罗洛公爵", "公爵罗洛", "cmrc")
        0.5
    """
    if kind == "cmrc":
        found, wanted = _cmrc_tokens(answer), _cmrc_tokens(gold)
        shared = _longest_shared_stretch(found, wanted)
    else:
        found, wanted = normalize(answer).split(), normalize(gold).split()
        if kind == "v2.0" and not (found and wanted):
            return float(found == wanted)
        shared = (Counter(found) & Counter(wanted)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(found), shared / len(wanted)
    return 2 * precision * recall / (precision + recall)


def rules(scoring: Literal["squad", "cmrc"], unanswerable: bool) -> Kind:
    """Whose rules the answers of a model with these options are scored by."""
    return "cmrc" if scoring == "cmrc" else "v2.0" if unanswerable else "v1.1"


class Scores(NamedTuple):
    """Scores of a set of answers.

    Args:
        summary: metric -> value, in per cent, with the names of the official scripts.
        exact, f1: float64 (questions,), 0 to 1.
    """

    summary: dict[str, float]
    exact: np.ndarray
    f1: np.ndarray


def score(
    answers: Sequence[str],
    golds: Sequence[Sequence[str]],
    kind: Kind = "v2.0",
    no_answer: Sequence[float] | None = None,
) -> Scores:
    """Scores answers, one a question.

    Args:
        answers: what was found; "" says that the question has no answer.
        golds: what the annotators of each question marked; none where it has no answer.
        kind: whose rules: "v1.1", "v2.0" or "cmrc".
        no_answer: probability that a question has no answer. With it the best scores that a threshold on it could
            reach are in the summary too ("best_f1", "best_f1_thresh", ...), as in the script for v2.0.

    Returns:
        :class:`Scores`; in v2.0 the summary has HasAns_ and NoAns_ scores too.

    Raises:
        ValueError: nothing to score, columns of different length, or a question without gold answers in v1.1.

    Reference:
        Rajpurkar et al. 2016 (arXiv:1606.05250) and 2018 (arXiv:1806.03822); Cui et al. 2019 (arXiv:1810.07366)
    """
    if not len(golds) or len(answers) != len(golds):
        raise ValueError(f"{len(answers)} answers for {len(golds)} questions: give one for each, and at least one")
    has_answer = np.array([bool(len(texts)) for texts in golds])
    if kind == "v1.1" and not has_answer.all():
        raise ValueError(f"question {int(has_answer.argmin())} has no gold answer: v1.1 has none such, score as v2.0")
    found = np.array([_question(answer, texts, kind) for answer, texts in zip(answers, golds, strict=True)])
    exact, f1s = found.T
    summary = _means(exact, f1s, "")
    if kind == "v2.0" or (kind == "cmrc" and not has_answer.all()):
        for name, rows in (("HasAns_", has_answer), ("NoAns_", ~has_answer)):
            if rows.any():
                summary |= _means(exact[rows], f1s[rows], name)
    if no_answer is not None:
        said = np.array([bool(answer) for answer in answers])
        for name, column in (("exact", exact), ("f1", f1s)):
            best, threshold = best_threshold(column, np.asarray(no_answer), has_answer, said)
            summary |= {f"best_{name}": best, f"best_{name}_thresh": threshold}
    return Scores(summary, exact, f1s)


def answer_tally(exact: np.ndarray, f1s: np.ndarray, golds: Sequence[Sequence[str]], keys: Sequence[str]) -> Tally:
    """What the summary of :func:`score` is made of.

    Args:
        exact, f1s: (questions,) of the answers found, 0 to 1.
        golds: as for :func:`score`.
        keys: ids of the questions.
    """
    has_answer = np.array([bool(len(texts)) for texts in golds])
    kinds = {"": np.ones_like(has_answer)}
    if not has_answer.all():
        kinds |= {name: rows for name, rows in (("HasAns_", has_answer), ("NoAns_", ~has_answer)) if rows.any()}
    columns = [column * rows for rows in kinds.values() for column in (exact, f1s, 1.0)]

    def scores(sums: np.ndarray) -> Resamples:
        found: Resamples = {}
        for i, name in enumerate(kinds):
            exact, f1s, count = np.moveaxis(sums[..., 3 * i : 3 * i + 3], -1, 0)
            count = np.where(count, count, np.nan)
            found |= {f"{name}exact": 100 * exact / count, f"{name}f1": 100 * f1s / count}
        return found

    return Tally(np.stack(columns, axis=-1).astype(float), scores, keys, {"exact": np.asarray(exact) > 0})


def best_threshold(
    scores: np.ndarray, no_answer: np.ndarray, has_answer: np.ndarray, said: np.ndarray
) -> tuple[float, float]:
    """The probability of no answer above which to answer nothing, so that the mean score is highest.

    Args:
        scores: (questions,) of the answers found, 0 to 1.
        no_answer: (questions,) probability that there is none.
        has_answer: (questions,) bool, whether there is one.
        said: (questions,) bool, whether the answer found is any text at all.

    Returns:
        (mean score in per cent, threshold).
    """
    order = np.argsort(no_answer, kind="stable")
    gains = np.where(has_answer, scores, -1.0 * said)[order]
    # beginning with no answer to any question
    totals = np.cumsum(np.concatenate([[(~has_answer).sum()], gains]))
    best = int(totals.argmax())
    return 100.0 * float(totals[best]) / len(scores), float(no_answer[order[best - 1]]) if best else 0.0


def score_predictions(
    predictions: Mapping[str, str],
    golds: Mapping[str, Sequence[str]],
    kind: Kind = "v2.0",
    no_answer: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Scores a predictions file: question id -> text, as the official scripts read it.

    Args:
        predictions: the file's contents. Ids that are no question are not looked at.
        golds: question id -> the annotators' texts.
        kind, no_answer: as for :func:`score`, by question id.

    Returns:
        The summary. In v1.1 and CMRC a question without a prediction scores 0.

    Raises:
        ValueError: v2.0 and a question without a prediction, where the official script stops too; names some.

    Example:
        >>> score_predictions({"q1": "Rollo"}, {"q1": ["Rollo", "the Norse Rollo"]}, "v1.1")
        {'exact': 100.0, 'f1': 100.0, 'total': 1}
    """
    missing = [name for name in golds if name not in predictions]
    if missing and kind == "v2.0":
        raise ValueError(
            f"{len(missing)} of {len(golds)} questions have no prediction, such as {', '.join(missing[:3])}: give each "
            'one, "" for no answer'
        )
    names = [name for name in golds if name in predictions]
    columns = [predictions[name] for name in names], [golds[name] for name in names]
    if not missing:
        return score(*columns, kind, None if no_answer is None else [no_answer[name] for name in names]).summary
    found = score(*columns, kind) if names else Scores({}, np.zeros(0), np.zeros(0))
    share = 100.0 / len(golds)
    return {"exact": found.exact.sum() * share, "f1": found.f1.sum() * share, "total": len(golds)}


def _question(answer: str, golds: Sequence[str], kind: Kind) -> tuple[float, float]:
    if kind == "v2.0":
        golds = [gold for gold in golds if normalize(gold)]
    golds = golds or [""]
    if kind == "cmrc" and golds == [""]:  # CMRC has no such questions; counted as in SQuAD v2.0
        return (float(not answer),) * 2
    return max(exact_match(answer, gold, kind) for gold in golds), max(f1(answer, gold, kind) for gold in golds)


def _means(exact: np.ndarray, f1s: np.ndarray, name: str) -> dict[str, float]:
    total = len(exact)
    means = (100.0 * float(sum(column)) / total for column in (exact, f1s))
    return dict(zip((f"{name}exact", f"{name}f1", f"{name}total"), (*means, total), strict=True))


def _without_punctuation(text: str) -> str:
    return text.lower().strip().translate(_CMRC_DROPS)


def _cmrc_tokens(text: str) -> list[str]:
    parts = _CHINESE.split(_without_punctuation(text))  # every second one is a Chinese character
    return [token for i, part in enumerate(parts) for token in ([part] if i % 2 else _words(part))]


def _words(text: str) -> list[str]:
    for cut in _CUTS:
        text = cut.sub(r" \g<0> ", text)
    return text.split()


def _longest_shared_stretch(a: Sequence[str], b: Sequence[str]) -> int:
    longest, above = 0, [0] * (len(b) + 1)
    for token in a:
        row = [0] * (len(b) + 1)
        for i, other in enumerate(b):
            if token == other:
                row[i + 1] = above[i] + 1
        longest, above = max(longest, max(row)), row
    return longest
