"""Cross-entropy over a vocabulary, without ever holding the scores of all tokens.

The scores of a chunk of tokens are computed, reduced to a few sums and dropped; the backward pass computes them again,
chunk by chunk. Memory is that of one chunk whatever the number of tokens; gradients are exact. What fits into one chunk
takes the plain path, which computes nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable

from keras import ops

from aillm_tf.layers import fast

SCORES = 2**25  # of a chunk, 128 MiB in float32


def vocabulary_loss(
    hidden,
    logits: Callable,
    targets,
    weights,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    chunk: int | None = None,
    count_hits: bool = True,
) -> dict:
    """Sums of cross-entropy, weight and hits over tokens.

    The loss of a token with scores s and target t is logsumexp(s) - (1 - e) s_t - e mean(s) + z logsumexp(s)^2, with
    label smoothing e (Szegedy et al. 2015, arXiv:1512.00567) and z-loss z (Chowdhery et al. 2022, arXiv:2204.02311).

    Args:
        hidden: (..., features), of every token.
        logits: (tokens, features) -> (tokens, vocabulary) float32. Of what it captures, gradients reach variables
            only: other tensors belong into `hidden`.
        targets: (...,) int.
        weights: (...,) float32; 0 where there is no loss. No gradient reaches them.
        label_smoothing: share of the target spread evenly over the vocabulary.
        z_loss: factor of the squared logsumexp.
        chunk: tokens whose scores are held at once; None: as many as have `SCORES` scores.
        count_hits: False leaves hits at 0 and saves passes over the scores, which training does not need.

    Returns:
        {"loss", "weight", "hits"}, float32 scalars; hits is the weight of tokens whose best score is their target's.

    Example:
        >>> table = ops.ones((9, 4))
        >>> sums = vocabulary_loss(
        ...     ops.ones((2, 3, 4)), lambda h: ops.matmul(h, table.T), ops.ones((2, 3), "int32"), ops.ones((2, 3)))
        >>> round(float(sums["loss"] / sums["weight"]), 4)  # log 9
        2.1972
    """
    hidden = ops.reshape(hidden, (-1, hidden.shape[-1]))
    targets, weights = ops.reshape(targets, (-1,)), ops.cast(ops.reshape(weights, (-1,)), "float32")

    def sums(hidden, targets, weights):
        scores = logits(hidden)
        losses = fast.cross_entropy(scores, targets, label_smoothing, z_loss)
        if not count_hits:
            return ops.stack([ops.sum(losses * weights), 0.0])
        hits = ops.equal(ops.cast(ops.argmax(scores, axis=-1), "int32"), ops.cast(targets, "int32"))
        return ops.stack([ops.sum(losses * weights), ops.sum(ops.cast(hits, "float32") * weights)])

    total = _over_chunks(sums, (hidden, targets, weights), chunk or _tokens_of_a_chunk(hidden, logits))
    return {"loss": total[0], "weight": ops.sum(weights), "hits": total[1]}


def row_losses(hidden, logits: Callable, targets, weights, *, chunk: int | None = None):
    """Sums of cross-entropy over the tokens of every row.

    Args:
        hidden, logits, chunk: as for `vocabulary_loss`.
        targets, weights: (rows, length), int and float32.

    Returns:
        (rows,) float32.
    """
    rows, length = ops.shape(targets)
    of = ops.reshape(ops.broadcast_to(ops.arange(rows, dtype="int32")[:, None], (rows, length)), (-1,))
    flat = (ops.reshape(hidden, (-1, hidden.shape[-1])), ops.reshape(targets, (-1,)), ops.reshape(weights, (-1,)), of)

    def sums(hidden, targets, weights, of):
        return ops.segment_sum(fast.cross_entropy(logits(hidden), targets) * weights, of, num_segments=rows)

    return _over_chunks(sums, flat, chunk or _tokens_of_a_chunk(flat[0], logits))


def token_losses(hidden, logits: Callable, targets, *, chunk: int | None = None) -> tuple:
    """Cross-entropy of every token, and whether its best score is the target's; not to be differentiated.

    Args:
        hidden, logits, targets, chunk: as for `vocabulary_loss`.

    Returns:
        Two float32 tensors of the shape of `targets`; of the second, 1 is a hit.
    """
    shape = ops.shape(targets)
    hidden, targets = ops.reshape(hidden, (-1, hidden.shape[-1])), ops.reshape(targets, (-1,))

    def pair(inputs):
        scores = logits(inputs[0])
        hits = ops.equal(ops.cast(ops.argmax(scores, axis=-1), "int32"), ops.cast(inputs[1], "int32"))
        return fast.cross_entropy(scores, inputs[1]), ops.cast(hits, "float32")

    chunk = chunk or _tokens_of_a_chunk(hidden, logits)
    tokens = ops.shape(hidden)[0]
    if isinstance(tokens, int) and tokens <= chunk:
        found = pair((hidden, targets))
    else:
        chunk = min(chunk, tokens) if isinstance(tokens, int) else ops.maximum(1, ops.minimum(chunk, tokens))
        padding = -tokens % chunk
        hidden = ops.reshape(ops.pad(hidden, ((0, padding), (0, 0))), (-1, chunk, hidden.shape[-1]))
        targets = ops.reshape(ops.pad(targets, ((0, padding),)), (-1, chunk))
        found = (ops.reshape(part, (-1,))[:tokens] for part in ops.map(pair, (hidden, targets)))
    return tuple(ops.reshape(part, shape) for part in found)


def _over_chunks(sums: Callable, tensors: tuple, chunk: int):
    """sums(*tensors), which is a sum over tokens, so many of them at once."""
    tokens = ops.shape(tensors[0])[0]
    if isinstance(tokens, int):
        count = max(0, tokens - 1) // chunk
    else:
        count = ops.maximum(0, tokens - 1) // chunk
    # the last chunk, which is the only one of few tokens, keeps its scores for the backward pass
    return fast.sum_of_chunks(sums, tensors, chunk, count, sums(*(x[count * chunk :] for x in tensors)))


def _tokens_of_a_chunk(hidden, logits: Callable) -> int:
    return max(128, SCORES // logits(hidden[:0]).shape[-1])
