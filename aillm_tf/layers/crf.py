"""A linear-chain conditional random field over labels: likelihood, exact best sequence, marginals.

Positions that are not part of the chain (padding, special tokens, further pieces of a word) are skipped: the state goes
past them unchanged, so that the neighbours of a word are the words beside it. Everything is float32 and in log space.

Reference:
    Lafferty et al., "Conditional Random Fields", 2001; Huang et al. 2015, https://arxiv.org/abs/1508.01991
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import ops

from aillm_tf.layers.base import Layer

IMPOSSIBLE = -1e4  # added to scores: exp() of it is 0, yet sums of it stay finite
# An optimizer like Adam moves a weight by about the learning rate a step. Encoders are fine-tuned at rates with which
# transitions of a size that matters would take 10,000 steps; those stored here count for so much more.
RATE = 100.0


class CRF(Layer):
    """Scores of neighbouring labels, beside the scores of single ones that a model gives.

    Args:
        labels: how many.
        allowed: (labels, labels) bool, label j may follow label i; None: any may.
        opening: (labels,) bool, the label may be the first of a text; None: any may.

    Example:
        >>> layer = CRF(3)
        >>> layer.build()
        >>> logits = ops.convert_to_tensor([[[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]]])
        >>> layer.decode(logits, ops.ones((1, 2), "int32"), ops.ones(1, "int32"))
        <tf.Tensor: shape=(1, 2), dtype=int32, numpy=array([[1, 0]], dtype=int32)>
    """

    def __init__(
        self,
        labels: int,
        allowed: Sequence | np.ndarray | None = None,
        opening: Sequence | np.ndarray | None = None,
        *,
        name: str = "crf",
        dtype=None,
    ):
        super().__init__(name=name, dtype=dtype)
        self.labels = labels
        self.penalty = np.where(np.ones((labels, labels), bool) if allowed is None else allowed, 0.0, IMPOSSIBLE)
        self.opening_penalty = np.where(np.ones(labels, bool) if opening is None else opening, 0.0, IMPOSSIBLE)

    def build(self, input_shape=None):
        self.start = self.weight("start", (self.labels,), "zeros")
        self.transition = self.weight("transition", (self.labels, self.labels), "zeros")
        self.end = self.weight("end", (self.labels,), "zeros")

    def scores(self):
        """start (labels,), transition (labels, labels) from row to column, end (labels,)."""
        stored = (ops.cast(weight, "float32") for weight in (self.start, self.transition, self.end))
        # The gradient is that of the score itself: clipping by the global norm must not see RATE.
        start, transition, end = (weight + ops.stop_gradient((RATE - 1.0) * weight) for weight in stored)
        return start, transition + ops.convert_to_tensor(self.penalty, dtype="float32"), end

    def starts(self, opens):
        """(batch, labels): of the first label of every row; `opens` (batch,) is 1 where a row begins its text."""
        penalty = ops.convert_to_tensor(self.opening_penalty, dtype="float32")
        return self.scores()[0] + ops.cast(opens, "float32")[:, None] * penalty

    def log_likelihood(self, logits, targets, chain, opens):
        """log p(targets) of every row.

        Args:
            logits: (batch, length, labels) float32.
            targets: (batch, length) int32; anything outside of the chain.
            chain: (batch, length), 1 at the positions of the chain.
            opens: (batch,), 1 where the row begins its text, 0 where it may begin within an entity.

        Returns:
            (batch,) float32; 0 for a row without any position.
        """
        _, transition, end = self.scores()
        inside = ops.cast(chain, "float32")
        picked = ops.one_hot(targets, self.labels, dtype="float32") * inside[:, :, None]
        single = ops.sum(picked * logits, axis=(1, 2))
        # The label before each position, within the chain: `last` remembers it over what is skipped.
        last, before = self._carried(picked)  # (batch, labels), (batch, length, labels)
        pairs = ops.sum(ops.matmul(before, transition) * picked, axis=(1, 2))
        opening = picked * (1.0 - ops.sum(before, axis=-1, keepdims=True))
        edges = ops.sum(opening * self.starts(opens)[:, None], axis=(1, 2)) + ops.sum(last * end, axis=-1)
        alphas = self._forward(logits, chain, opens)
        total = ops.logsumexp(alphas[-1] + end, axis=-1)
        some = ops.max(inside, axis=1)
        return (single + pairs + edges - total) * some

    @staticmethod
    def _carried(picked):
        """One-hot labels -> that of the last position of the chain, and for each position of the one before it."""

        def step(carry, here):
            there = ops.sum(here, axis=-1, keepdims=True)
            return carry * (1.0 - there) + here, carry

        last, before = ops.scan(step, ops.zeros_like(picked[:, 0]), ops.transpose(picked, (1, 0, 2)))
        return last, ops.transpose(before, (1, 0, 2))

    def _forward(self, logits, chain, opens):
        """(length, batch, labels): log of the sum over all ways that are in a label at a position, or came from it."""
        start, transition = self.starts(opens), self.scores()[1]
        begun = ops.zeros_like(logits[:, 0, :1])  # 1 once a position of the chain has come

        def step(carry, here):
            alpha, begun = carry
            emission, inside = here[:, :-1], here[:, -1:]
            ways = ops.logsumexp(alpha[:, :, None] + transition, axis=1)
            new = emission + ops.where(begun > 0, ways, start)
            carry = ops.where(inside > 0, new, alpha), ops.maximum(begun, inside)
            return carry, carry

        first = ops.zeros_like(logits[:, 0])
        _, (alphas, _) = ops.scan(step, (first, begun), self._by_time(logits, chain))
        return alphas

    @staticmethod
    def _by_time(logits, chain):
        """(length, batch, labels + 1), the flag last: over one tensor `ops.scan` goes also where its length varies."""
        both = ops.concatenate([logits, ops.cast(chain, "float32")[:, :, None]], axis=-1)
        return ops.transpose(both, (1, 0, 2))

    def decode(self, logits, chain, opens):
        """The best sequence of labels (Viterbi).

        Args:
            logits: (batch, length, labels) float32.
            chain: (batch, length), 1 at the positions of the chain.
            opens: (batch,), as in `log_likelihood`.

        Returns:
            (batch, length) int32; outside of the chain the label before.
        """
        start, (_, transition, end) = self.starts(opens), self.scores()
        stay = ops.zeros_like(logits[:, 0], "int32") + ops.arange(self.labels, dtype="int32")  # (batch, labels)
        begun = ops.zeros_like(logits[:, 0, :1])

        def step(carry, here):
            best, begun, _ = carry
            emission, inside = here[:, :-1], here[:, -1:]
            ways = best[:, :, None] + transition  # (batch, from, to)
            new = emission + ops.where(begun > 0, ops.max(ways, axis=1), start)
            back = ops.cast(ops.argmax(ways, axis=1), "int32")
            back = ops.where((inside > 0) & (begun > 0), back, stay)
            carry = ops.where(inside > 0, new, best), ops.maximum(begun, inside), back
            return carry, carry

        (best, _, _), (_, _, backs) = ops.scan(
            step, (ops.zeros_like(logits[:, 0]), begun, stay), self._by_time(logits, chain)
        )
        last = ops.cast(ops.argmax(best + end, axis=-1), "int32")[:, None]  # (batch, 1)

        def trace(label, back):
            return ops.take_along_axis(back, label, axis=1), label

        _, labels = ops.scan(trace, last, backs, reverse=True)  # (length, batch, 1)
        return ops.transpose(labels[:, :, 0])

    def marginals(self, logits, chain, opens):
        """The probability of every label at every position, over all sequences.

        Args:
            logits: (batch, length, labels) float32.
            chain: (batch, length), 1 at the positions of the chain.
            opens: (batch,), as in `log_likelihood`.

        Returns:
            (batch, length, labels) float32; meaningless outside of the chain.
        """
        _, transition, end = self.scores()

        def step(beta, here):
            emission, inside = here[:, :-1], here[:, -1:]
            ways = ops.logsumexp(transition + (emission + beta)[:, None, :], axis=-1)
            return ops.where(inside > 0, ways, beta), beta

        _, betas = ops.scan(step, ops.zeros_like(logits[:, 0]) + end, self._by_time(logits, chain), reverse=True)
        return ops.transpose(ops.softmax(self._forward(logits, chain, opens) + betas, axis=-1), (1, 0, 2))
