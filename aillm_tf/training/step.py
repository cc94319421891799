"""The replica-exact training step.

The loss of a step is (sum over rows) / (sum of weights) over the global batch. Sums and weights are added over
micro-batches and replicas first, then divided, then clipped by global norm, then applied once, so that neither
the number of replicas nor that of micro-batches changes the result beyond the rounding of a sum. Keras's own
`fit` averages replica means and clips before it reduces; both change the result with the number of replicas.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from aillm_tf.layers import fast


def dropout_seed(seed: int, step, replica, micro):
    """(2,) int32 that is different for every step, replica and micro-batch."""
    key = tf.constant([seed & 0x7FFFFFFF, 0], tf.int32)
    for number in (step, replica, micro):
        key = tf.random.experimental.stateless_fold_in(key, tf.cast(number, tf.int32))
    # sites are added to the second word (layers/dropout.py): room for them without overflow
    return tf.bitwise.bitwise_and(key, tf.constant([-1, 0x3FFFFFFF], tf.int32))


def distinct_rows(gradient):
    """A gradient of rows, with the repeated ones added up; other gradients as they are."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, at = tf.unique(gradient.indices)
    return tf.IndexedSlices(tf.math.unsorted_segment_sum(gradient.values, at, tf.size(rows)), rows)


def make_train_function(task) -> Callable:
    """`function(iterator, steps) -> {"loss", "weight", "gradient_norm"}`, each (steps,) float32.

    Args:
        task: a compiled Task.
    """
    strategy, optimizer = task.strategy, task.optimizer
    variables = [v.value for v in task.trainable_variables]
    micro, clip, seed = task.accumulate, task.clip_norm, task.seed
    # a token table's gradient may stay a few rows where nothing is to be added to it
    keep_rows = micro == 1 and strategy.num_replicas_in_sync == 1 and not task.jit_compile

    def gradients(batch: dict, key):
        # tape.gradient is inside too: a recomputed block is traced there
        with fast.fused(task.fuse_on_cpu), tf.GradientTape() as tape:
            total, weight = task.loss_terms(batch, seed=key)
        with fast.fused(task.fuse_on_cpu):
            grads = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [distinct_rows(g) if keep_rows else tf.convert_to_tensor(g) for g in grads], total, weight

    if task.jit_compile:
        gradients = tf.function(gradients, jit_compile=True)

    def accumulated(batch: dict, step, replica):
        if micro == 1:
            return gradients(batch, dropout_seed(seed, step, replica, 0))

        def slice_of(i):
            def cut(x):
                return tf.reshape(x, tf.concat([[micro, -1], tf.shape(x)[1:]], 0))[i]

            return {name: tf.ensure_shape(cut(x), [None, *x.shape[1:]]) for name, x in batch.items()}

        def body(i, *sums):
            grads, total, weight = gradients(slice_of(i), dropout_seed(seed, step, replica, i))
            return i + 1, *(a + b for a, b in zip(sums, [*grads, total, weight], strict=True))

        zeros = [*(tf.zeros(v.shape, v.dtype) for v in variables), tf.zeros(()), tf.zeros(())]
        _, *sums = tf.while_loop(lambda i, *_: i < micro, body, [0, *zeros], parallel_iterations=1)
        return sums[:-2], sums[-2], sums[-1]

    @tf.autograph.experimental.do_not_convert
    def replica_step(batch: dict):
        context = tf.distribute.get_replica_context()
        step = optimizer.local_step()
        grads, total, weight = accumulated(batch, step, context.replica_id_in_sync_group)
        if strategy.num_replicas_in_sync > 1:
            *grads, total, weight = context.all_reduce(tf.distribute.ReduceOp.SUM, [*grads, total, weight])
        # a batch without any weight (every row skipped) must not divide by zero
        factor = 1.0 / tf.maximum(weight, 1e-8)
        norm = tf.linalg.global_norm(grads) * factor
        if clip:
            factor = factor * tf.minimum(1.0, clip / tf.maximum(norm, 1e-12))
        optimizer.update(grads, factor)
        return {"loss": total, "weight": weight, "gradient_norm": norm}

    @tf.function(reduce_retracing=True)
    def function(iterator, steps):
        names = ("loss", "weight", "gradient_norm")
        arrays = [tf.TensorArray(tf.float32, steps) for _ in names]
        for i in tf.range(steps):
            result = strategy.run(replica_step, args=(next(iterator),))
            # equal on all replicas after the reduction: the first one speaks
            first = {name: strategy.experimental_local_results(result[name])[0] for name in names}
            arrays = [array.write(i, first[name]) for array, name in zip(arrays, names, strict=True)]
        return {name: array.stack() for name, array in zip(names, arrays, strict=True)}

    return function


def by_halves(function: Callable, batch: dict) -> tuple[dict, dict]:
    """`function(batch) -> (sums, rows)` on both halves of a batch, side by side, sums added and rows joined.

    On a CPU the parts of one half that keep a single core busy overlap with the matmuls of the other: 9 % less time
    for a batch of 32 x 128 on 2 cores, by benchmarks/train_step.py.
    """
    count = next(iter(batch.values())).shape[0]
    if count is None or count % 2:
        return function(batch)
    halves = [{name: x[part] for name, x in batch.items()} for part in (slice(count // 2), slice(count // 2, None))]
    (sums, rows), (more_sums, more_rows) = map(function, halves)
    return (
        {name: sums[name] + more_sums[name] for name in sums},
        {name: tf.concat([rows[name], more_rows[name]], 0) for name in rows},
    )


def make_test_function(task) -> Callable:
    """`function(iterator) -> {"sums": {name: scalar}, "rows": {name: (rows, ...)}}` over all replicas."""
    strategy = task.strategy
    evaluate = tf.function(task.evaluation, jit_compile=True) if task.jit_compile else task.evaluation

    @tf.autograph.experimental.do_not_convert
    def replica_step(batch: dict):
        with fast.fused(task.fuse_on_cpu):
            sums, rows = by_halves(evaluate, batch) if task.fuse_on_cpu else evaluate(batch)
        return sums, {**rows, "row": batch["row"]}

    @tf.function(reduce_retracing=True)
    def function(iterator):
        sums, rows = strategy.run(replica_step, args=(next(iterator),))
        sums = {name: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for name, value in sums.items()}
        if strategy.num_replicas_in_sync > 1:
            rows = {name: strategy.gather(value, axis=0) for name, value in rows.items()}
        return {"sums": sums, "rows": rows}

    return function
