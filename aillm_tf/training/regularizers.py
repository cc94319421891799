"""Losses that ask for more than the right label: R-Drop, and adversarial training by moved embeddings (FGM).

Both are for tasks with `terms(logits, batch)` and `log_distributions(logits, batch)`: classifiers of texts and of
tokens, and question answering. What they add belongs to a row alone and counts as much as the row does, so neither
replicas nor micro-batches change the result. Without dropout R-Drop is plain training; so is an epsilon of 0.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf
from keras import ops

from aillm_tf.layers.embeddings import added_to_tokens


def check(task, r_drop: float | None, adversarial: float | None) -> None:
    """Raises ValueError where a task cannot be trained so."""
    if r_drop is None and adversarial is None:
        return
    name = "adversarial" if r_drop is None else "r_drop"
    if not hasattr(task, "log_distributions"):
        raise ValueError(f"training.{name} is for classification, tagging and question answering")
    if r_drop is not None and adversarial is not None:
        raise ValueError("training.r_drop and training.adversarial: give one of them")
    if min(number for number in (r_drop, adversarial) if number is not None) < 0:
        raise ValueError(f"training.{name} is below 0")
    if adversarial is not None and keras.backend.backend() != "tensorflow":
        raise ValueError("training.adversarial is for KERAS_BACKEND=tensorflow")
    if r_drop is not None and getattr(task, "has_crf", False):
        raise ValueError("training.r_drop compares the labels of single tokens, a CRF scores whole sentences: give one")


def objective(task) -> Callable:
    """The `loss_terms` that a compiled task is trained by."""
    return task.loss_terms if task.r_drop is None else r_drop(task, task.r_drop)


def r_drop(task, alpha: float) -> Callable:
    """`loss_terms(batch, seed)` of a task, of two passes with different dropout.

    (L1 + L2) / 2 + alpha (KL(p1 || p2) + KL(p2 || p1)) / 2, where p are the probabilities of a row, as its authors'
    code has it. Both passes are one, of a batch twice as large.

    Args:
        task: see `check`.
        alpha: weight of the divergence.

    Reference:
        Liang et al. 2021, arXiv:2106.14448.
    """

    def loss_terms(batch: dict, seed=None):
        twice = {name: ops.concatenate([x, x], axis=0) for name, x in batch.items()}
        logits = task.logits(twice, seed)
        total, weight = task.terms(logits, twice)
        log_p, weights = task.log_distributions(logits, twice)
        one, other = ops.split(log_p, 2, axis=0)
        divergence = ops.sum((ops.exp(one) - ops.exp(other)) * (one - other), axis=-1)
        divergence = ops.sum(divergence * ops.split(weights, 2, axis=0)[0])
        return 0.5 * (total + alpha * divergence), 0.5 * weight

    return loss_terms


def adversarial_gradients(gradients_of: Callable, task, epsilon: float) -> Callable:
    """`function(loss_terms, batch, key)`: the gradient of the mean of the plain and the adversarial loss.

    The adversarial loss is that of token embeddings moved by epsilon g / |g|, where g is the gradient of the plain loss
    with respect to all token embeddings of a row: it belongs to the row alone.

    Args:
        gradients_of: `function(loss_terms, batch, key, sources)`: gradients by the variables and `sources`, the sum of
            the loss and its weight.
        task: see `check`.
        epsilon: length of a row's perturbation.

    Reference:
        Miyato et al. 2017, arXiv:1605.07725; the mean is that of Goodfellow et al. 2015, arXiv:1412.6572.
    """

    def function(loss_terms: Callable, batch: dict, key):
        def shifted(batch: dict, seed):
            with added_to_tokens(shift):
                return loss_terms(batch, seed=seed)

        shift = ops.zeros((*ops.shape(batch["token_ids"]), task.backbone.embeddings.size))
        (*plain, slope), total, weight = gradients_of(shifted, batch, key, [shift])
        length = tf.sqrt(tf.reduce_sum(tf.square(slope), axis=[1, 2], keepdims=True))
        shift = tf.stop_gradient(epsilon * slope / tf.maximum(length, 1e-12))
        moved, harder, _ = gradients_of(shifted, batch, key)
        return [_mean(a, b) for a, b in zip(plain, moved, strict=True)], 0.5 * (total + harder), weight

    return function


def _mean(a, b):
    if isinstance(a, tf.IndexedSlices):  # rows may come twice
        return tf.IndexedSlices(0.5 * tf.concat([a.values, b.values], 0), tf.concat([a.indices, b.indices], 0))
    return 0.5 * (a + b)
