"""Dropout as a pure function of a seed (Srivastava et al. 2014).

There is no "training" flag in the stack: a seed is given in training, and is None otherwise. The training step
makes it from (seed, step, replica, micro-batch), every place that draws folds in its own number, so masks never
repeat within a step or between replicas, and a recomputed block draws the same mask again.
"""

from __future__ import annotations

import keras
from keras import ops

from aillm_tf.layers import fast


def fold(seed, site: int):
    """The seed of one place that draws: `seed` is (2,) int32 or None, `site` a number unique within the model."""
    return None if seed is None else seed + ops.convert_to_tensor([0, site], dtype="int32")


def dropout(x, rate: float, seed):
    """Zero a share `rate` of x and scale the rest by 1 / (1 - rate); x itself where seed is None or rate is 0.

    Args:
        x: a float tensor of any shape.
        rate: share of elements to zero, in [0, 1).
        seed: (2,) int32 tensor, or None outside training.

    Example:
        >>> dropout(keras.ops.ones((4,)), 0.5, None).shape
        TensorShape([4])
    """
    if seed is None or rate == 0.0:
        return x
    return fast.dropout(x, rate, seed)


class Key(keras.random.SeedGenerator):
    """Hands a given (2,) seed tensor to `keras.random` functions, which take no tensors."""

    def __init__(self, key):  # the parent's state variable is not wanted
        self.key = key

    def next(self, ordered=True):
        return ops.cast(self.key, "uint32")
