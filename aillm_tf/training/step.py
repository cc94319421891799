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


def make_train_function(task) -> Callable:
    """`function(iterator, steps) -> {"loss", "weight", "gradient_norm"}`, each (steps,) float32.

    Args:
        task: a compiled Task.
    """
    strategy, optimizer = task.strategy, task.optimizer
    variables = [v.value for v in task.trainable_variables]
    micro, clip, seed = task.accumulate, task.clip_norm, task.seed

    def gradients(batch: dict, key):
        # tape.gradient is inside too: a recomputed block is traced there
        with fast.fused(task.fuse_on_cpu), tf.GradientTape() as tape:
            total, weight = task.loss_terms(batch, seed=key)
        with fast.fused(task.fuse_on_cpu):
            grads = tape.gradient(total, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        # the gradient of an embedding table is sparse; Adam's moments decay on every row all the same
        return [tf.convert_to_tensor(g) for g in grads], total, weight

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


def make_test_function(task) -> Callable:
    """`function(iterator) -> {"sums": {name: scalar}, "rows": {name: (rows, ...)}}` over all replicas."""
    strategy = task.strategy
    evaluate = tf.function(task.evaluation, jit_compile=True) if task.jit_compile else task.evaluation

    @tf.autograph.experimental.do_not_convert
    def replica_step(batch: dict):
        with fast.fused(task.fuse_on_cpu):
            sums, rows = evaluate(batch)
        return sums, {**rows, "row": batch["row"]}

    @tf.function(reduce_retracing=True)
    def function(iterator):
        sums, rows = strategy.run(replica_step, args=(next(iterator),))
        sums = {name: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for name, value in sums.items()}
        if strategy.num_replicas_in_sync > 1:
            rows = {name: strategy.gather(value, axis=0) for name, value in rows.items()}
        return {"sums": sums, "rows": rows}

    return function
