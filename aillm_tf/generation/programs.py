"""A step of one token on a CPU: each block is one XLA program, the cache is written between them.

What a step costs is reading the weights once. TensorFlow's kernels add some microseconds for each of the seventy
element-wise operations of a block, and one XLA program for a whole step takes a minute to compile; a program for a
block, which all blocks share with their weights as arguments, takes a second. It attends to the cache as if the new
token were in it, so nothing of the cache is copied; TensorFlow writes the new entries in place.

With one row the product of a vector and a matrix is all there is, and XLA reads bfloat16 weights at full speed where
each unit's weights lie side by side; so a backbone that computes in bfloat16 is given such copies (`Weights`).
"""

from __future__ import annotations

import keras
import tensorflow as tf
from keras import ops


class Weights:
    """Kernels of a backbone in bfloat16, each (outputs, inputs), made once and filled anew before every text."""

    def __init__(self, backbone):
        table = backbone.target_table if backbone.config.decoder_layers else backbone.embeddings.token
        self._copies = {}  # id of a variable: the variable, its copy, whether that is turned
        for variable in backbone.variables:
            if variable.name == "kernel" or (variable is table and backbone.config.tie_embeddings):
                turned = variable is not table
                shape = variable.shape[::-1] if turned else variable.shape
                copy = tf.Variable(tf.zeros(shape, tf.bfloat16), trainable=False)
                self._copies[id(variable)] = (variable, copy, turned)
        self.fill = tf.function(self._fill, autograph=False)

    def _fill(self):
        for variable, copy, turned in self._copies.values():
            value = tf.cast(tf.convert_to_tensor(variable.value), tf.bfloat16)
            copy.assign(tf.transpose(value) if turned else value)

    def given(self, variable) -> tf.Tensor:
        """What a program is given for a variable."""
        copy = self._copies.get(id(variable))
        return tf.convert_to_tensor(variable.value if copy is None else copy[1])

    def whole(self, variable, given: tf.Tensor) -> tf.Tensor:
        """The variable's value, within the program, from what it was given."""
        copy = self._copies.get(id(variable))
        if copy is None:
            return given
        value = tf.cast(given, tf.float32)
        return tf.transpose(value) if copy[2] else value  # last, so that XLA makes it a part of the product


def _write_in_place(cache, entry, at):
    """`write_slots` for one token a row, into the tensor that is given.

    Whoever else holds that tensor sees the entry too, but never reads it: slots are read up to a row's own position.
    """
    rows, heads, capacity, width = ops.shape(cache)
    first = tf.reshape(tf.range(rows * heads) * capacity, (rows, heads))
    places = tf.reshape(first + tf.reshape(at, (-1, 1)) % capacity, [-1])
    flat = tf.raw_ops.InplaceUpdate(
        x=tf.reshape(cache, (-1, width)), i=places, v=tf.reshape(tf.cast(entry, cache.dtype), (-1, width))
    )
    return tf.reshape(flat, (rows, heads, capacity, width))


class Programs:
    """The programs of a backbone, to be used by `aillm_tf.layers.fast.steps_by`.

    Args:
        weights: copies that the programs read; None: the variables themselves.
        compiled: False for TensorFlow's own operations in their place, and only the cache is written in place.
    """

    def __init__(self, weights: Weights | None = None, *, compiled: bool = True):
        self._weights, self._compiled, self._programs = weights, compiled, {}

    def block(self, stack, i: int, *, x, cache, at, bias=None, angles=None, memory_bias=None, **_):
        """Block i of a stack, for x (rows, 1, hidden); see `aillm_tf.layers.fast.steps_by`."""
        # all have the same variables, in the same order
        block = stack.block(0 if self._compiled else i)

        def compute(x, bias, angles, memory_bias, cache, at):
            y, new = block(x, bias=bias, angles=angles, memory_bias=memory_bias, cache=cache, at=at, write=False)
            return y, new["self"]

        inputs = (x, bias, angles, memory_bias, cache, at)
        y, entries = self._run(compute, block.variables, stack.block(i).variables, inputs)
        written = {name: _write_in_place(cache["self"][name], entry, at) for name, entry in entries.items()}
        return y, {**cache, "self": written}

    def head(self, head, hidden, table):
        """Scores over the vocabulary, (rows, hidden) -> (rows, vocabulary) float32."""
        tied = head.config.tie_embeddings
        variables = [*head.variables, *([table] if tied else [])]
        return self._run(lambda hidden: head(hidden, table=table), variables, variables, (hidden,))

    def _run(self, compute, known, variables, inputs: tuple):
        """compute(*inputs) as a program that knows the variables `known`, with the values of `variables`."""
        if not self._compiled:
            return compute(*inputs)
        key = id(known[0])
        if key not in self._programs:

            def program(values, inputs):
                if self._weights is not None:
                    values = [self._weights.whole(*pair) for pair in zip(known, values, strict=True)]
                with keras.StatelessScope(state_mapping=list(zip(known, values, strict=True))):
                    return compute(*inputs)

            self._programs[key] = tf.function(program, jit_compile=True, autograph=False)
        values = [
            tf.convert_to_tensor(variable.value) if self._weights is None else self._weights.given(variable)
            for variable in variables
        ]
        return self._programs[key](values, inputs)
