"""The parts of a block whose backward passes decide how much memory a step moves, for steps that XLA compiles whole.

A TPU waits for memory rather than for arithmetic. What is written down here keeps tensors of the compute dtype only,
and computes everything in float32 again in the backward pass; automatic differentiation keeps the float32. A barrier
keeps XLA from finding out that it has computed the same before, and from keeping that after all.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from aillm_tf.layers.fused_cpu import random_bytes


def _float(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32)


def _again(*tensors: tf.Tensor) -> list[tf.Tensor]:
    """The tensors, of which XLA does not know that they are those of the forward pass."""
    return gen_xla_ops.xla_optimization_barrier(tensors)


def _drop(x: tf.Tensor, noise: tf.Tensor | None, threshold: int) -> tf.Tensor:
    if noise is None:
        return x
    return tf.where(tf.cast(noise, tf.int32) >= threshold, x * (256.0 / (256 - threshold)), tf.zeros((), x.dtype))


def _noise(like: tf.Tensor, seed: tf.Tensor | None, threshold: int) -> tf.Tensor | None:
    return random_bytes(like, seed) if threshold and seed is not None else None


def _cumulative(x: tf.Tensor) -> tf.Tensor:
    return 0.5 * (1.0 + tf.math.erf(x * math.sqrt(0.5)))


@tf.custom_gradient
def gelu(x: tf.Tensor):
    """x Phi(x), of which x alone is kept."""

    def gradient(dy):
        z = _float(_again(x)[0])
        density = tf.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)
        return tf.cast(_float(dy) * (_cumulative(z) + z * density), x.dtype)

    return tf.cast(_float(x) * _cumulative(_float(x)), x.dtype), gradient


def add_norm(x, residual, scale, bias, epsilon: float, threshold: int, seed) -> tf.Tensor:
    """LayerNorm(dropout(x) + residual), of which x, the residual and the random bytes are kept."""
    noise = _noise(x, seed, threshold)

    @tf.custom_gradient
    def function(x, residual, scale, bias):
        def normal(x, residual):
            h = _drop(_float(x), noise, threshold) + _float(residual)
            h = h - tf.reduce_mean(h, -1, keepdims=True)
            rstd = tf.math.rsqrt(tf.reduce_mean(tf.square(h), -1, keepdims=True) + epsilon)
            return h * rstd, rstd

        def gradient(dy):
            n, rstd = normal(*_again(x, residual))
            dy = _float(dy)
            d = dy * scale
            d = rstd * (d - tf.reduce_mean(d, -1, keepdims=True) - n * tf.reduce_mean(d * n, -1, keepdims=True))
            rows = list(range(len(x.shape) - 1))
            dx = tf.cast(_drop(d, noise, threshold), x.dtype)
            return dx, tf.cast(d, x.dtype), tf.reduce_sum(dy * n, rows), tf.reduce_sum(dy, rows)

        return tf.cast(normal(x, residual)[0] * scale + bias, x.dtype), gradient

    return function(x, tf.cast(residual, x.dtype), *(_float(tf.convert_to_tensor(v)) for v in (scale, bias)))


def attention(q, k, v, bias, scale: float, threshold: int, seed) -> tf.Tensor:
    """dropout(softmax(q k^T scale + bias)) v, of which q, k, v, the softmax, the result and random bytes are kept."""

    @tf.custom_gradient
    def function(q, k, v, bias):
        scores = _float(tf.matmul(q, k, transpose_b=True)) * scale  # (batch, heads, query, key)
        weights = tf.cast(tf.nn.softmax(scores if bias is None else scores + bias), q.dtype)
        noise = _noise(weights, seed, threshold)
        context = tf.matmul(_drop(weights, noise, threshold), v)

        def gradient(d):
            p, y = _again(weights, context)
            dv = tf.matmul(_drop(p, noise, threshold), d, transpose_a=True)
            # the sum over keys of p dp is that over the width of d y (Dao et al. 2022, arXiv:2205.14135)
            total = tf.reduce_sum(_float(d) * _float(y), -1, keepdims=True)
            dp = _drop(_float(tf.matmul(d, v, transpose_b=True)), noise, threshold)
            ds = _float(p) * (dp - total)
            # a mask's gradient, which nobody asks for, is pruned
            db = tf.reduce_sum(ds, [i for i in range(4) if bias.shape[i] == 1], keepdims=True)
            ds = tf.cast(ds * scale, q.dtype)
            return tf.matmul(ds, k), tf.matmul(ds, q, transpose_a=True), dv, db

        return context, gradient

    return function(q, k, v, tf.zeros((1, 1, 1, 1)) if bias is None else bias)


def recomputed(function: Callable) -> Callable:
    """`function` of tensors, of which the backward pass keeps the tensors alone and computes the rest again.

    `tf.recompute_grad` adds a zero to the tensors, made of the incoming gradient. XLA finds out that it is zero, and
    that it computed all this before.
    """

    @tf.custom_gradient
    def call(*tensors):
        def gradient(dy, variables=None):  # which TensorFlow gives where the function reads any
            *inputs, dy = _again(*tensors, dy)
            sources = [x for x in inputs if x.dtype.is_floating]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                y = function(*inputs)
            found = tape.gradient(y, [*sources, *(variables or ())], output_gradients=dy)
            of_sources = iter(found[: len(sources)])
            of_inputs = [next(of_sources) if x.dtype.is_floating else None for x in inputs]
            return of_inputs if variables is None else (of_inputs, found[len(sources) :])

        return function(*tensors), gradient

    return call
