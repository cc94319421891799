"""The program behind `fast.sum_of_chunks`: two loops of static shapes, one forward and one backward.

Automatic differentiation of a loop keeps what every iteration computed, and `tf.recompute_grad` fails inside of one
that reads variables: the backward loop is written out.
"""

from __future__ import annotations

import tensorflow as tf


def sum_of_chunks(function, tensors: tuple, chunk: int, count, start: tf.Tensor) -> tf.Tensor:
    """See `fast.sum_of_chunks`."""

    def cut(i) -> list[tf.Tensor]:
        # XLA wants the size of a slice at a place that is not known yet as a constant
        return [tf.slice(x, [i * chunk, *[0] * (len(x.shape) - 1)], [chunk, *x.shape[1:]]) for x in tensors]

    @tf.custom_gradient
    def total(first, start):
        def add(i, sums):
            return i + 1, sums + function(*cut(i))

        _, sums = tf.while_loop(lambda i, _: i < count, add, [0, start], parallel_iterations=1)

        def gradient(d, variables=None):
            def add_gradients(i, rows, *sums):
                with tf.GradientTape() as tape:
                    part, *rest = cut(i)
                    tape.watch(part)
                    value = function(part, *rest)
                found = tape.gradient(
                    value, [part, *variables], output_gradients=d, unconnected_gradients=tf.UnconnectedGradients.ZERO
                )
                sums = (a + tf.convert_to_tensor(b) for a, b in zip(sums, found[1:], strict=True))
                return i + 1, rows.write(i, found[0]), *sums

            variables = variables or []
            rows = tf.TensorArray(first.dtype, count, element_shape=[chunk, *first.shape[1:]])
            zeros = [tf.zeros(v.shape, v.dtype) for v in variables]
            _, rows, *sums = tf.while_loop(
                lambda i, *_: i < count, add_gradients, [0, rows, *zeros], parallel_iterations=1
            )
            done = tf.reshape(rows.stack(), tf.concat([[-1], tf.shape(first)[1:]], 0))
            rest = tf.shape(first)[0] - tf.shape(done)[0]
            gradient = tf.concat([done, tf.zeros([rest, *first.shape[1:]], first.dtype)], 0)
            return (gradient, d), sums

        return sums, gradient

    return total(tensors[0], start)
