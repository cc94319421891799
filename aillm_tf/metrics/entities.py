"""Scores of named entities as seqeval computes them, confusion by type, and the worst errors.

An entity is right if its type and both of its ends are. seqeval, whose last release is of 2020, is not needed to run
this; the tests compare with it on thousands of random and adversarial predictions, to the last bit.

Reference:
    Tjong Kim Sang & De Meulder, "Introduction to the CoNLL-2003 Shared Task", 2003, https://arxiv.org/abs/cs/0306050;
    https://github.com/chakki-works/seqeval
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from aillm_tf.data.tags import Entity, entities
from aillm_tf.metrics.bootstrap import Scores, Tally, ratio

Sentences = Sequence[Sequence[str]]
NONE = "(none)"  # in the confusion: there is no entity there


def entity_scores(targets: Sentences, predicted: Sentences) -> dict[str, float]:
    """Scores over all entities.

    Args:
        targets: tags of each sentence.
        predicted: as many tags for each.

    Returns:
        ``f1``, ``precision``, ``recall`` over all types together (seqeval's default, which is conlleval's rule);
        ``macro_f1``, the mean over the types that occur; ``strict_f1``, ``strict_precision`` and ``strict_recall``, for
        which a predicted entity has to begin with B (seqeval's ``mode="strict", scheme=IOB2``); ``token_accuracy``;
        and ``examples``, sentences.

    Raises:
        ValueError: no sentence, or not as many tags as targets.

    Example:
        >>> scores = entity_scores([["B-PER", "I-PER", "O"]], [["I-PER", "I-PER", "O"]])
        >>> scores["f1"], scores["strict_f1"]
        (1.0, 0.0)
    """
    _check(targets, predicted)
    by_type = type_scores(targets, predicted)
    precision, recall, f1 = _ratios(*_total(by_type))
    strict_precision, strict_recall, strict_f1 = _ratios(*_total(type_scores(targets, predicted, strict=True)))
    tokens = sum(map(len, targets))
    right = sum(a == b for row, other in zip(targets, predicted, strict=True) for a, b in zip(row, other, strict=True))
    return {
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "macro_f1": sum(row["f1"] for row in by_type) / len(by_type) if by_type else 0.0,
        "strict_f1": strict_f1,
        "strict_precision": strict_precision,
        "strict_recall": strict_recall,
        "token_accuracy": right / tokens if tokens else 0.0,
        "examples": len(targets),
    }


def type_scores(targets: Sentences, predicted: Sentences, strict: bool = False) -> list[dict[str, Any]]:
    """Scores of each type that occurs in targets or predictions, sorted by name.

    Args:
        targets, predicted: as `entity_scores` takes them.
        strict: as seqeval's strict mode in IOB2.

    Returns:
        One dict a type: ``type``, ``precision``, ``recall``, ``f1``, and the counts ``entities`` (in targets),
        ``predicted`` and ``right``.
    """
    _check(targets, predicted)
    counts: dict[str, Counter] = {}
    for row, other in zip(targets, predicted, strict=True):
        true, guessed = set(entities(row, strict)), set(entities(other, strict))
        for name, found in (("entities", true), ("predicted", guessed), ("right", true & guessed)):
            for entity in found:
                counts.setdefault(entity.type, Counter())[name] += 1
    rows = []
    for kind, count in sorted(counts.items()):
        precision, recall, f1 = _ratios(count["right"], count["predicted"], count["entities"])
        own = {name: count[name] for name in ("entities", "predicted", "right")}
        rows.append({"type": kind, "precision": precision, "recall": recall, "f1": f1, **own})
    return rows


def entity_tally(targets: Sentences, predicted: Sentences) -> Tally:
    """What `entity_scores` is made of: entities that are right, predicted and true, by type and sentence.

    Args:
        targets, predicted: as `entity_scores` takes them.
    """
    _check(targets, predicted)
    kinds = sorted({entity.type for row in (*targets, *predicted) for entity in entities(row)})
    columns = {kind: i for i, kind in enumerate(kinds)}
    counts = np.zeros((len(targets), 2, 3, len(kinds)))  # sentence, default or strict, right / predicted / true, type
    tokens = np.zeros((len(targets), 2))
    for i, (row, other) in enumerate(zip(targets, predicted, strict=True)):
        tokens[i] = sum(a == b for a, b in zip(row, other, strict=True)), len(row)
        for strict in (0, 1):
            true, guessed = set(entities(row, bool(strict))), set(entities(other, bool(strict)))
            for place, found in enumerate((true & guessed, guessed, true)):
                for entity in found:
                    counts[i, strict, place, columns[entity.type]] += 1

    def scores(sums: np.ndarray) -> Scores:
        parts = sums[..., 2:].reshape(*sums.shape[:-1], 2, 3, len(kinds))
        found: Scores = {}
        for strict, name in ((0, ""), (1, "strict_")):
            right, guessed, true = np.moveaxis(parts[..., strict, :, :].sum(-1), -1, 0)
            found |= {
                f"{name}f1": ratio(2 * right, guessed + true),
                f"{name}precision": ratio(right, guessed),
                f"{name}recall": ratio(right, true),
            }
        right, guessed, true = np.moveaxis(parts[..., 0, :, :], -2, 0)
        found["macro_f1"] = ratio(ratio(2 * right, guessed + true).sum(-1), (guessed + true > 0).sum(-1))
        return {**found, "token_accuracy": ratio(sums[..., 0], sums[..., 1])}

    statistics = np.concatenate([tokens, counts.reshape(len(targets), -1)], axis=1)
    return Tally(statistics, scores, [tuple(row) for row in targets])


def _total(by_type: Sequence[dict]) -> tuple[int, int, int]:
    return tuple(sum(row[name] for row in by_type) for name in ("right", "predicted", "entities"))


def _ratios(right: int, predicted: int, true: int) -> tuple[float, float, float]:
    """Precision, recall, F1; a ratio with nothing below the line is 0."""
    precision, recall = right / predicted if predicted else 0.0, right / true if true else 0.0
    # In seqeval's order of operations, so that not even the last bit differs.
    return precision, recall, 2 * precision * recall / (precision + recall) if right else 0.0


def type_confusion(targets: Sentences, predicted: Sentences) -> tuple[list[str], list[list[int]]]:
    """What type entities were taken for, whatever their ends.

    An entity is compared with the predicted one of which it shares most tokens, each with one at most.

    Returns:
        Names of rows and columns, the types and last "(none)", and the counts: rows are true types, columns predicted
        ones. The last row counts entities that are not there, the last column those that were missed.

    Example:
        >>> type_confusion([["B-PER", "O", "B-LOC"]], [["B-ORG", "I-ORG", "O"]])
        (['LOC', 'ORG', 'PER', '(none)'], [[0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    """
    _check(targets, predicted)
    pairs: Counter = Counter()
    for row, other in zip(targets, predicted, strict=True):
        true, guessed = entities(row), entities(other)
        shared = sorted(
            ((min(a.end, b.end) - max(a.start, b.start), a == b, a, b) for a in true for b in guessed), reverse=True
        )
        free_true, free_guessed = set(true), set(guessed)
        for overlap, _, a, b in shared:
            if overlap > 0 and a in free_true and b in free_guessed:
                pairs[a.type, b.type] += 1
                free_true.discard(a)
                free_guessed.discard(b)
        pairs.update((a.type, NONE) for a in free_true)
        pairs.update((NONE, b.type) for b in free_guessed)
    names = [*sorted({kind for pair in pairs for kind in pair} - {NONE}), NONE]
    return names, [[pairs[true, guessed] for guessed in names] for true in names]


def worst_sentences(targets: Sentences, predicted: Sentences, losses: Sequence[float], most: int = 20) -> list[int]:
    """Sentences with wrong entities, those with the highest loss first.

    Args:
        targets, predicted: as `entity_scores` takes them.
        losses: of each sentence.
        most: how many at most.
    """
    _check(targets, predicted)
    wrong = [
        i for i, (row, other) in enumerate(zip(targets, predicted, strict=True)) if entities(row) != entities(other)
    ]
    return sorted(wrong, key=lambda i: -losses[i])[:most]


def compared(targets: Sequence[str], predicted: Sequence[str]) -> list[tuple[Entity, str]]:
    """The entities of a sentence in order, each "right", "missed" (in targets alone) or "wrong" (predicted alone)."""
    true, guessed = set(entities(targets)), set(entities(predicted))
    kinds = {"right": true & guessed, "missed": true - guessed, "wrong": guessed - true}
    found = [(entity, kind) for kind, members in kinds.items() for entity in members]
    return sorted(found, key=lambda pair: (pair[0].start, pair[0].end, pair[1]))


def _check(targets: Sentences, predicted: Sentences) -> None:
    if not len(targets):
        raise ValueError("no sentence to score: is the data file empty, or was every sentence skipped?")
    if [len(row) for row in targets] != [len(row) for row in predicted]:
        raise ValueError("targets and predictions differ in the number of sentences or of their tags")
