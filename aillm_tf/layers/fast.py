"""Backend-specific fast paths, each with a `keras.ops` twin that it is tested against.

On a CPU, TensorFlow's element-wise kernels are built for old instruction sets and each makes a pass over memory.
Within `fused()` (training and evaluation steps, on a CPU), the element-wise parts of a block are small XLA programs
between oneDNN matmuls: one pass forward and one backward each, compiled for the machine. XLA's matmuls and random
numbers are slower than TensorFlow's there, so those stay outside. Where XLA compiles the whole step (TPU and GPU) it
fuses by itself; there, within `fused(xla=True)`, only what the backward pass keeps is written down. Everywhere else the
twins run: on other backends, and in exports, which TensorFlow Serving must be able to load.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools

import keras
from keras import ops

_steps = contextvars.ContextVar("aillm_steps", default=None)
_fused = contextvars.ContextVar("aillm_fused", default=False)
_xla = contextvars.ContextVar("aillm_xla", default=False)


@functools.cache
def xla_on_cpu() -> bool:
    """Whether this TensorFlow has XLA for CPUs: the package tensorflow-tpu has it for TPUs only."""
    import tensorflow as tf

    with tf.init_scope(), tf.device("CPU:0"):
        try:
            tf.function(tf.identity, jit_compile=True)(tf.zeros(()))
        except tf.errors.NotFoundError:  # no "transfer manager for platform Host"
            return False
    return True


@contextlib.contextmanager
def fused(on: bool = True, *, xla: bool = False):
    """Graphs traced within this context use the fused programs of a CPU; or, with `xla`, are compiled by XLA whole."""
    tensorflow = keras.backend.backend() == "tensorflow"
    tokens = _fused.set(on and tensorflow and xla_on_cpu()), _xla.set(xla and tensorflow)
    try:
        yield
    finally:
        _fused.reset(tokens[0])
        _xla.reset(tokens[1])


def dense(x, kernel, bias):
    """x W + b for x (tokens, inputs) in the dtype of W."""
    if _fused.get():
        return _programs().dense(x, kernel, bias)
    y = ops.matmul(x, kernel)
    return y if bias is None else y + bias


def matmul_rows(x, rows):
    """x rows^T for x (tokens, features) and rows (outputs, features), of which no transposed copy is made."""
    if keras.backend.backend() == "tensorflow":
        return _programs().matmul(x, rows, transpose_b=True)
    return ops.matmul(x, ops.transpose(rows))


def gelu(x):
    """Gaussian error linear unit, x Phi(x) (Hendrycks & Gimpel 2016)."""
    if _fused.get():
        return _programs().gelu(x)
    if _xla.get():
        return _xla_programs().gelu(x)
    return ops.gelu(x, approximate=False)


def dropout(x, rate: float, seed):
    """Dropout of x from a (2,) int32 seed; on TensorFlow every path drops the same elements."""
    if _fused.get():
        programs = _programs()
        return programs.dropout(x, programs.random_bytes(x, seed), _threshold(rate))
    if keras.backend.backend() == "tensorflow":
        keep = ops.cast(_programs().random_bytes(x, seed), "int32") >= _threshold(rate)
        return ops.where(keep, x * (256.0 / (256 - _threshold(rate))), ops.zeros_like(x))
    from aillm_tf.layers.dropout import Key

    keep = keras.random.uniform(ops.shape(x), seed=Key(seed)) >= rate
    return ops.where(keep, x * (1.0 / (1.0 - rate)), ops.zeros_like(x))


def add_norm(x, residual, scale, bias, epsilon: float, rate: float = 0.0, seed=None):
    """LayerNorm(dropout(x) + residual), statistics in float32, result in the dtype of x."""
    threshold = 0 if seed is None else _threshold(rate)
    if _fused.get():
        return _programs().add_norm(x, residual, scale, bias, epsilon, threshold, seed)
    if _xla.get() and residual is not None:
        return _xla_programs().add_norm(x, residual, scale, bias, epsilon, threshold, seed)
    if seed is not None and rate:
        x = dropout(x, rate, seed)
    h = ops.cast(x, "float32")
    if residual is not None:
        h = h + ops.cast(residual, "float32")
    h = h - ops.mean(h, axis=-1, keepdims=True)
    h = h * ops.rsqrt(ops.mean(ops.square(h), axis=-1, keepdims=True) + epsilon)
    return ops.cast(h * ops.cast(scale, "float32") + ops.cast(bias, "float32"), x.dtype)


def attention(q, k, v, bias, scale: float, rate: float = 0.0, seed=None):
    """dropout(softmax(q k^T scale + bias)) v, softmax in float32.

    Args:
        q, k, v: (batch, heads, query, width), (batch, heads, key, width) twice.
        bias: float32, broadcastable to (batch, heads, query, key), or None.
        rate, seed: dropout of the attention weights.
    """
    threshold = 0 if seed is None else _threshold(rate)
    # for one query there is little to fuse, and a program for every number of keys would be compiled
    if _fused.get() and q.shape[2] != 1:
        return _programs().attention(q, k, v, bias, scale, threshold, seed)
    if _xla.get():
        return _xla_programs().attention(q, k, v, bias, scale, threshold, seed)
    scores = ops.cast(ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))), "float32")
    if bias is not None:
        # (q k^T + bias / scale) scale: with the scale first, TensorFlow on a CPU would fuse all three into an operation
        # of oneDNN that takes a hundred times as long where the bias is the same for all rows of a batch
        scores = scores + bias * (1.0 / scale)
    scores = scores * scale
    weights = ops.cast(ops.softmax(scores, axis=-1), q.dtype)
    if seed is not None and rate:
        weights = dropout(weights, rate, seed)
    return ops.matmul(weights, v)


def cross_entropy(scores, targets, label_smoothing: float = 0.0, z_loss: float = 0.0):
    """logsumexp(s) - (1 - e) s_t - e mean(s) + z logsumexp(s)^2 of every row, with label smoothing e and z-loss z.

    Args:
        scores: (tokens, vocabulary) float32.
        targets: (tokens,) int.

    Returns:
        (tokens,) float32.
    """
    if _fused.get():
        return _programs().cross_entropy(scores, targets, label_smoothing, z_loss)
    normalizer = ops.logsumexp(scores, axis=-1)
    at_target = ops.equal(ops.arange(scores.shape[-1]), ops.expand_dims(ops.cast(targets, "int32"), -1))
    loss = normalizer - (1.0 - label_smoothing) * ops.sum(ops.where(at_target, scores, 0.0), axis=-1)
    if label_smoothing:
        loss = loss - label_smoothing * ops.mean(scores, axis=-1)
    return loss + z_loss * ops.square(normalizer) if z_loss else loss


def recomputed(function):
    """`function` of positional tensors with one result, all else of which is computed again in the backward pass."""
    return _xla_programs().recomputed(function) if _xla.get() else keras.remat(function)


def sum_of_chunks(function, tensors: tuple, chunk: int, count, start):
    """`start` and the sum of function(*rows) over chunks of rows; each is computed again in the backward pass.

    Args:
        function: as many tensors (chunk, ...) as there are -> a tensor like `start`.
        tensors: (rows, ...) each, of at least `chunk * count` rows. Gradients reach the first of them, and variables
            that the function reads.
        chunk: rows of a chunk.
        count: number of chunks: an int, or on TensorFlow a scalar tensor, which may be 0.
        start: float32 tensor.
    """
    if isinstance(count, int) and not count:
        return start  # XLA refuses a loop that cuts more rows than there are, also where it is never entered
    if keras.backend.backend() == "tensorflow":
        from aillm_tf.layers.chunks_tf import sum_of_chunks

        return sum_of_chunks(function, tensors, chunk, count, start)
    part = keras.remat(function)
    return sum((part(*(x[i * chunk : (i + 1) * chunk] for x in tensors)) for i in range(count)), start=start)


@contextlib.contextmanager
def steps_by(programs):
    """Within this context a step of one token a row with a cache is computed by `programs`.

    Args:
        programs: has `block(stack, i, **inputs)` in place of block i of a stack, and `head(head, hidden, table)` in
            place of a `Head`; each returns what that does.
    """
    token = _steps.set(programs)
    try:
        yield
    finally:
        _steps.reset(token)


def block_of_step(block: functools.partial, stack, i: int):
    """`block`, the call of block i of a stack, or the program of `steps_by` in its place."""
    programs = _steps.get()
    return block if programs is None else functools.partial(programs.block, stack, i, **block.keywords)


def head_of_step(head):
    """`head`, or the program of `steps_by` in its place."""
    programs = _steps.get()
    return head if programs is None else functools.partial(programs.head, head)


def _threshold(rate: float) -> int:
    """Bytes below this number are dropped: the rate is rounded to 1/256, and the scale is that of the rounded rate."""
    return min(255, max(1, round(rate * 256))) if rate else 0


@functools.cache
def _programs():
    from aillm_tf.layers import fused_cpu

    return fused_cpu


@functools.cache
def _xla_programs():
    from aillm_tf.layers import fused_xla

    return fused_xla
