"""Floating-point operations of a training step, from the config, and the peak of the device: for MFU.

Counted are the multiplications and additions of matrix products, two operations each, as the formula has them: full
attention also where it is causal or windowed, no recomputation, nothing for element-wise work. The backward pass
counts twice the forward pass, less where kernels are frozen. These are the conventions of PaLM's appendix B, so that
figures compare.
"""

from __future__ import annotations

import functools
import math
import os
import time

MEASURED_SIZE = 1024  # of the matrices whose product measures a device that is not in the table

# Dense bfloat16 (float16 where there is none) operations a second, of one device, from the vendors' data sheets.
GPU_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "T4": 65e12,
    "V100": 125e12,
}
TPU_PEAKS = {"v2": 45e12, "v3": 123e12, "v4": 275e12, "v5litepod": 197e12, "v5p": 459e12, "v6e": 918e12}


def block_flops(config, tokens: int, memory: int = 0) -> int:
    """Forward operations of one layer on one row.

    Args:
        config: a TransformerConfig.
        tokens: of the row.
        memory: tokens of the encoder's output that a decoder's layer looks at; 0: there is none.

    Example:
        >>> from aillm_tf.models.config import TransformerConfig
        >>> config = TransformerConfig(vocab_size=10, hidden_size=4, layers=1, heads=2, ffn_size=8)
        >>> block_flops(config, tokens=3)  # 3 tokens: 4 * 2*4*4 (qkv, out) + 2 * 2*4*8 (ffn) + 2 * 2*3*4 (scores, sum)
        912
    """
    hidden = config.hidden_size
    if config.cell == "lstm":  # input and state, four gates
        return tokens * 2 * 2 * hidden * 4 * hidden
    query, key_value = config.heads * config.head_width, config.key_value_heads * config.head_width
    attention = tokens * (2 * hidden * (query + 2 * key_value) + 2 * query * hidden + 4 * tokens * query)
    feedforward = tokens * 2 * hidden * config.ffn_size * (3 if config.gated else 2)
    cross = 0
    if memory:
        cross = tokens * (4 * hidden * query + 4 * memory * query) + memory * 4 * hidden * key_value
    return attention + feedforward + cross


def row_flops(config, tokens: int, target_tokens: int = 0, predictions: int = 0) -> int:
    """Forward operations of one row of the whole model.

    Args:
        config: a TransformerConfig.
        tokens: of the row, or of the source.
        target_tokens: of the target, of an encoder-decoder.
        predictions: positions with scores over the vocabulary.
    """
    width = config.embedding_size or config.hidden_size
    total = config.layers * block_flops(config, tokens)
    total += config.decoder_layers * block_flops(config, target_tokens, memory=tokens) if target_tokens else 0
    if width != config.hidden_size:
        total += (tokens + target_tokens) * 2 * width * config.hidden_size
    return total + predictions * 2 * width * (config.decoder_vocab_size or config.vocab_size)


def _masked(task, length: int) -> int:
    from aillm_tf.data.noise import predictions_per_row

    count, width = predictions_per_row(length, task.rate), task.config.embedding_size or task.config.hidden_size
    return row_flops(task.config, length, predictions=count) + count * 2 * task.config.hidden_size * width


def _causal(task, length: int) -> int:
    return row_flops(task.config, length, predictions=length)


def _replaced(task, length: int) -> int:
    from aillm_tf.data.noise import predictions_per_row

    small, count = task.generator.config, predictions_per_row(length, task.rate)
    hidden, width = task.config.hidden_size, small.embedding_size
    generator = small.layers * block_flops(small, length) + length * 2 * width * small.hidden_size
    generator += count * 2 * width * (small.hidden_size + small.vocab_size)
    return row_flops(task.config, length) + length * 2 * hidden * (hidden + 1) + generator


def _denoised(task, length: int) -> int:
    source, target = (int(width) for width in task.widths(length))
    return row_flops(task.config, source, target, target)


def _autoencoded(task, length: int) -> int:
    config = task.config
    decoder = config.decoder_layers * block_flops(config, length, memory=1)  # it looks at the vector alone
    return row_flops(config, length, predictions=length) + decoder + 4 * config.hidden_size * task.size


# What the objective adds to the backbone, by the name of the task; others have a head of a few numbers, not counted.
OF_TASK = {
    "MaskedLM": _masked,
    "CausalLM": _causal,
    "ReplacedToken": _replaced,
    "Denoising": _denoised,
    "Autoencoder": _autoencoded,
}


def step_flops(task, data, step: int) -> float:
    """Operations of one optimizer step, forward and backward.

    Args:
        task: a Task.
        data: the Dataset it trains on.
        step: counted from 0.
    """
    if hasattr(data, "parts"):  # a Mixture: the step is one objective's
        name = data.name_of(step)
        return step_flops(task.tasks[name], data.parts[name], data.steps_of(name, step, step)[0])
    rows, lengths, _ = data._planned(step)
    positions = sum(lengths)
    kind = next((kind.__name__ for kind in type(task).__mro__ if kind.__name__ in OF_TASK), None)
    if kind:
        row = OF_TASK[kind](task, positions)
    elif len(lengths) > 1:
        source, target = lengths
        row = row_flops(task.config, source, target, target)
    else:
        row = row_flops(task.config, positions)
    twice = 2.0 if task.r_drop is not None or task.adversarial is not None else 1.0
    return twice * (2.0 + _trained_share(task)) * len(rows) * row


def _trained_share(task) -> float:
    """Share of the backbone's kernels of which a step computes the gradient."""
    kernels = [(math.prod(v.shape), v.trainable) for v in task.backbone.weights if v.name == "kernel"]
    return sum(size for size, trained in kernels if trained) / max(1, sum(size for size, _ in kernels))


def utilization_peak(task) -> float:
    """The most operations a second that all devices of a task's strategy can do together; 0 where it is not known."""
    from aillm_tf.training.strategy import of_several_processes, on_jax

    if on_jax():
        return 0.0
    strategy, cpu = task.strategy, not task.on_tpu and not task.jit_compile
    several = of_several_processes(strategy)
    # replicas that are logical CPUs of one machine share it
    devices = (strategy.extended._num_workers if several else 1) if cpu else strategy.num_replicas_in_sync
    return devices * peak_flops(task.compute_dtype)[0]


@functools.cache
def peak_flops(dtype: str = "float32") -> tuple[float, str]:
    """The most operations a second that one device of this process can do.

    Args:
        dtype: of the matrices, where the device has to be measured: a CPU, or a GPU that is not in the table.

    Returns:
        The number, and where it comes from, in words.
    """
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    if tf.config.list_physical_devices("TPU"):
        kind = os.environ.get("TPU_ACCELERATOR_TYPE", "").partition("-")[0]
        return TPU_PEAKS.get(kind, 0.0), f"data sheet of TPU {kind}" if kind in TPU_PEAKS else "unknown TPU"
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "")
        for known, peak in GPU_PEAKS.items():
            if known in name or all(word in name for word in known.split()):
                return peak, f"data sheet of {name}, dense bfloat16"
    return _measured(dtype), f"a product of {dtype} matrices of {MEASURED_SIZE} x {MEASURED_SIZE}, measured"


def _measured(dtype: str) -> float:
    import tensorflow as tf

    matrix = tf.random.stateless_normal((MEASURED_SIZE, MEASURED_SIZE), (0, 0))
    matrix = tf.cast(matrix, dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    product().numpy()
    best, end = float("inf"), time.perf_counter() + 0.3
    while time.perf_counter() < end:
        begin = time.perf_counter()
        product().numpy()
        best = min(best, time.perf_counter() - begin)
    return 2.0 * MEASURED_SIZE**3 / best
