"""What `fast.fused` computes on a CPU: the element-wise parts of a block, as XLA programs or by oneDNN."""

from __future__ import annotations

import contextvars
import functools
import math

import tensorflow as tf

matmul = tf.matmul


def _program(function):
    """Compile with XLA, once a shape."""
    return tf.function(function, jit_compile=True, autograph=False, reduce_retracing=True)


# draws for a program that is compiled for a device which is not there; see aillm_tf.tpu.lower
other_bytes: contextvars.ContextVar = contextvars.ContextVar("aillm_random_bytes", default=None)


def random_bytes(like: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Uniform uint8 in the shape of `like`: a quarter of the random numbers that uniform floats need."""
    if other_bytes.get():
        return other_bytes.get()(like, seed)
    shape = tf.shape(like)
    count = tf.reduce_prod(shape)
    words = tf.random.stateless_uniform([(count + 3) // 4], seed, minval=None, maxval=None, dtype=tf.uint32)
    noise = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:count]
    return tf.ensure_shape(tf.reshape(noise, shape), like.shape)


def _noise(like: tf.Tensor, seed: tf.Tensor | None, threshold: int) -> tf.Tensor:
    return random_bytes(like, seed) if threshold else tf.zeros([0], tf.uint8)


def _drop(x: tf.Tensor, noise: tf.Tensor, threshold: int) -> tf.Tensor:
    if not threshold:
        return x
    keep = tf.cast(noise, tf.int32) >= threshold
    return tf.where(keep, x * (256.0 / (256 - threshold)), tf.zeros((), x.dtype))


def _float(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, tf.float32)


def _sum(x: tf.Tensor) -> tf.Tensor:
    """(..., n) float32 -> (..., 1).

    A product with ones, within an XLA program: XLA's reduction keeps the order of the sum, so it cannot add several
    numbers at once, and takes up to five times as long.
    """
    return tf.tensordot(x, tf.ones([tf.shape(x)[-1], 1]), 1)


def _mean(x: tf.Tensor) -> tf.Tensor:
    return _sum(x) / tf.cast(tf.shape(x)[-1], tf.float32)


def dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """x W + b, whose bias gradient is a product with ones: oneDNN sums faster than TensorFlow's reduction."""

    @tf.custom_gradient
    def function(x, kernel, bias):
        def gradient(dy):
            ones = tf.ones([1, tf.shape(dy)[0]], dy.dtype)
            return (
                tf.matmul(dy, kernel, transpose_b=True),
                tf.matmul(x, dy, transpose_a=True),
                tf.reshape(tf.matmul(ones, dy), [-1]),
            )

        return tf.nn.bias_add(tf.matmul(x, kernel), bias), gradient

    return tf.matmul(x, kernel) if bias is None else function(x, kernel, bias)


@_program
def _gelu(x):
    y = _float(x)
    return tf.cast(0.5 * y * (1.0 + tf.math.erf(y * math.sqrt(0.5))), x.dtype)


@_program
def _gelu_gradient(x, dy):
    y = _float(x)
    phi = 0.5 * (1.0 + tf.math.erf(y * math.sqrt(0.5)))
    return tf.cast(_float(dy) * (phi + y * tf.exp(-0.5 * y * y) / math.sqrt(2.0 * math.pi)), x.dtype)


@tf.custom_gradient
def gelu(x: tf.Tensor):
    return _gelu(x), lambda dy: _gelu_gradient(x, dy)


@functools.cache
def _dropout_program(threshold: int):
    return _program(lambda x, noise: tf.cast(_drop(_float(x), noise, threshold), x.dtype))


def dropout(x: tf.Tensor, noise: tf.Tensor, threshold: int) -> tf.Tensor:
    program = _dropout_program(threshold)

    @tf.custom_gradient
    def function(x):
        return program(x, noise), lambda dy: program(dy, noise)

    return function(x)


@functools.cache
def _norm_programs(epsilon: float, threshold: int, added: bool):
    def summed(x, residual, noise):
        h = _drop(_float(x), noise, threshold)
        return h + _float(residual) if added else h

    def normal(h):
        h = h - _mean(h)
        rstd = tf.math.rsqrt(_mean(tf.square(h)) + epsilon)
        return h * rstd, rstd

    def forward(x, residual, scale, bias, noise):
        return tf.cast(normal(summed(x, residual, noise))[0] * scale + bias, x.dtype)

    def backward(x, residual, scale, noise, dy):
        n, rstd = normal(summed(x, residual, noise))
        dy = _float(dy)
        d = dy * scale
        d = rstd * (d - _mean(d) - n * _mean(d * n))
        dx = tf.cast(_drop(d, noise, threshold), x.dtype)
        return dx, tf.cast(d, x.dtype) if threshold else None, tf.reduce_sum(dy * n, 0), tf.reduce_sum(dy, 0)

    return _program(forward), _program(backward)


def add_norm(x, residual, scale, bias, epsilon: float, threshold: int, seed) -> tf.Tensor:
    """LayerNorm(dropout(x) + residual), or of x alone; see `fast.add_norm`."""
    forward, backward = _norm_programs(epsilon, threshold, residual is not None)
    shape, features = tf.shape(x), x.shape[-1]

    @tf.custom_gradient
    def function(x, residual, scale, bias):  # (tokens, features), so that a program is not asked for several ranks
        def gradient(dy):
            dx, d, d_scale, d_bias = backward(x, residual, scale, noise, dy)
            return dx, d if threshold else dx, d_scale, d_bias

        return forward(x, residual, scale, bias, noise), gradient

    x = tf.reshape(x, [-1, features])
    noise = _noise(x, seed, threshold)
    residual = tf.zeros([], x.dtype) if residual is None else tf.reshape(tf.cast(residual, x.dtype), [-1, features])
    return tf.reshape(function(x, residual, tf.convert_to_tensor(scale), tf.convert_to_tensor(bias)), shape)


@functools.cache
def _softmax_gradients(scale: float, threshold: int):
    def of_bias(p, noise, dy):
        p, d = _float(p), _drop(_float(dy), noise, threshold)
        return p * (d - _sum(p * d))

    return _program(lambda p, noise, dy: tf.cast(of_bias(p, noise, dy) * scale, dy.dtype)), _program(of_bias)


def softmax(scores, bias, noise, scale: float, threshold: int) -> tf.Tensor:
    """dropout(softmax(scores scale + bias)).

    Where scores are a product, oneDNN scales and adds within it. It takes five hundred times as long to add what is the
    same for all rows and heads: then the scale comes last, and is computed alone.
    """
    of_scores, of_bias = _softmax_gradients(scale, threshold)

    def weights(scores, bias):
        factor = tf.constant(scale, scores.dtype)
        if bias.shape.rank == 0:
            return tf.nn.softmax(scores * factor)
        if bias.shape[:2] == (1, 1):
            return tf.nn.softmax((scores + tf.cast(bias / scale, scores.dtype)) * factor)
        return tf.nn.softmax(scores * factor + tf.cast(bias, scores.dtype))

    @tf.custom_gradient
    def function(scores, bias):
        p = weights(scores, bias)

        def gradient(dy):
            # computed only for a learned bias: for a mask nobody asks, and the graph is pruned
            summed = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(scores), s1=tf.shape(bias)).r1
            d_bias = tf.reshape(tf.reduce_sum(of_bias(p, noise, dy), summed), tf.shape(bias))
            return of_scores(p, noise, dy), d_bias

        return _dropout_program(threshold)(p, noise) if threshold else p, gradient

    return function(scores, tf.zeros([]) if bias is None else bias)


def attention(q, k, v, bias, scale: float, threshold: int, seed) -> tf.Tensor:
    """dropout(softmax(q k^T scale + bias)) v, see `fast.attention`."""
    scores = matmul(q, k, transpose_b=True)  # (batch, heads, query, key)
    return matmul(softmax(scores, bias, _noise(scores, seed, threshold), scale, threshold), v)


@functools.cache
def _cross_entropy_programs(smoothing: float, z_loss: float):
    def at(targets, scores):
        # not static once programs were asked for several vocabularies
        return tf.range(tf.shape(scores)[-1])[None] == tf.cast(targets, tf.int32)[:, None]

    def forward(scores, targets):
        top = tf.reduce_max(scores, -1, keepdims=True)
        normalizer = tf.math.log(tf.reduce_sum(tf.exp(scores - top), -1)) + top[:, 0]
        loss = normalizer - (1.0 - smoothing) * tf.reduce_sum(tf.where(at(targets, scores), scores, 0.0), -1)
        if smoothing:
            loss = loss - smoothing * tf.reduce_mean(scores, -1)
        return loss + z_loss * tf.square(normalizer), normalizer

    def backward(scores, targets, normalizer, d):
        p = tf.exp(scores - normalizer[:, None]) * (1.0 + 2.0 * z_loss * normalizer)[:, None]
        wanted = tf.where(at(targets, scores), 1.0 - smoothing, 0.0) + smoothing / tf.cast(
            tf.shape(scores)[-1], tf.float32
        )
        return (p - wanted) * d[:, None]

    return _program(forward), _program(backward)


def cross_entropy(scores: tf.Tensor, targets: tf.Tensor, smoothing: float, z_loss: float) -> tf.Tensor:
    """The loss of every row of scores, see `fast.cross_entropy`."""
    forward, backward = _cross_entropy_programs(smoothing, z_loss)

    @tf.custom_gradient
    def function(scores):
        loss, normalizer = forward(scores, targets)
        return loss, lambda d: backward(scores, targets, normalizer, d)

    return function(scores)
