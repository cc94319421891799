"""Decoding by the formulas of the papers, slowly: every score from the whole text, no cache, one row."""

from __future__ import annotations

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def states(backbone, ids) -> np.ndarray:
    """(tokens, hidden)."""
    # one shape for all lengths, so that nothing is compiled again; what follows a token does not change its state
    padded = np.zeros((1, 32), "int32")
    padded[0, : len(ids)] = ids
    return np.asarray(backbone({"token_ids": padded}))[0, : len(ids)]


def next_log_probs(backbone, ids) -> np.ndarray:
    return log_softmax(np.asarray(backbone.logits(states(backbone, ids)[-1:]))[0])


def contrastive(backbone, prompt, count: int, k: int, alpha: float) -> list[int]:
    """Su et al. 2022, equation 4."""
    ids = list(prompt)
    for _ in range(count):
        p = np.exp(next_log_probs(backbone, ids))
        past = states(backbone, ids)
        past = past / np.linalg.norm(past, axis=-1, keepdims=True)
        scores = {}
        for v in np.argsort(-p)[:k]:
            h = states(backbone, [*ids, v])[-1]
            scores[v] = (1 - alpha) * p[v] - alpha * (past @ (h / np.linalg.norm(h))).max()
        ids.append(int(max(scores, key=scores.get)))
    return ids[len(prompt) :]


def diverse_beams(backbone, prompt, count: int, groups: int, beams: int, penalty: float) -> list[list[int]]:
    """Vijayakumar et al. 2018, algorithm 1 with Hamming diversity; no token ends a text."""
    running = [[(0.0, list(prompt))] for _ in range(groups)]
    for _ in range(count):
        taken: list[int] = []
        for group in range(groups):
            candidates = []
            for score, ids in running[group]:
                lowered = next_log_probs(backbone, ids) - penalty * np.bincount(taken, minlength=30)
                candidates += [(score + lowered[v], [*ids, v]) for v in np.argsort(-lowered)[:beams]]
            running[group] = sorted(candidates, key=lambda pair: -pair[0])[:beams]
            taken += [ids[-1] for _, ids in running[group]]
    found = sorted((pair for group in running for pair in group), key=lambda pair: -pair[0])
    return [[int(i) for i in ids[len(prompt) :]] for _, ids in found]


def best_beam(backbone, prompt, count: int, beams: int) -> list[int]:
    """Beam search where no token ends a text."""
    return diverse_beams(backbone, prompt, count, 1, beams, 0.0)[0]
