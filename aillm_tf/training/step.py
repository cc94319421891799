"""The replica-exact training step.

The loss of a step is (sum over rows) / (sum of weights) over the global batch. Sums and weights are added over
micro-batches and replicas first, then divided, then clipped by global norm, then applied once, so that neither
the number of replicas nor that of micro-batches changes the result beyond the rounding of a sum. Keras's own
`fit` averages replica means and clips before it reduces; both change the result with the number of replicas.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import tensorflow as tf

from aillm_tf.layers import fast
from aillm_tf.training.regularizers import adversarial_gradients, objective
from aillm_tf.training.strategy import on_jax


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


def programs() -> ModuleType:
    """The module whose `make_..._function(task)` compute with the backend of Keras: this one, or `jax_step`."""
    if not on_jax():
        return sys.modules[__name__]
    from aillm_tf.training import jax_step

    return jax_step


RESULTS = ("loss", "weight", "gradient_norm", "skipped", "leaving")


def make_train_function(task) -> Callable:
    """`function(iterator, steps, leaving) -> {name: (steps,) float32}` for the names in `RESULTS`.

    `loss` and `weight` are sums over the global batch. `skipped` is 1 where the guard left the step out. A loss or
    gradient that is not finite is not applied, and neither are the steps after it in the same call: the weights stay
    those that the faulty step began with. `leaving` (float32 scalar) comes back summed over all replicas: with
    several workers, all hear of the signal that one got.

    Args:
        task: a compiled Task.
    """
    strategy = task.strategy
    keep_sums_in_order()
    replica_step = make_replica_step(task, strategy.num_replicas_in_sync)

    @tf.function(reduce_retracing=True)
    def function(iterator, steps, leaving=0.0):
        arrays = [tf.TensorArray(tf.float32, steps) for _ in RESULTS]
        sound = tf.constant(True)
        for i in tf.range(steps):
            result = strategy.run(replica_step, args=(next(iterator), sound, leaving))
            # equal on all replicas after the reduction: the first one speaks
            first = {name: strategy.experimental_local_results(value)[0] for name, value in result.items()}
            sound = first["sound"]
            arrays = [array.write(i, first[name]) for array, name in zip(arrays, RESULTS, strict=True)]
        return {name: array.stack() for name, array in zip(RESULTS, arrays, strict=True)}

    return function


def keep_sums_in_order() -> None:
    """Lets the functions that this thread calls add up gradients as they are written down.

    TensorFlow's memory optimizer takes a CPU for one of 256 MB, and where a step seems to need more it adds them up in
    the order in which they are ready: the last bits then differ from run to run, and in nested loops (micro-batches,
    several replicas) the step fails, as its "tmp_var" already exists.
    """
    from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
    from tensorflow.python.eager import context  # the options of calls have no public name

    options = context.context().function_call_options
    config = config_pb2.ConfigProto.FromString(options.config_proto_serialized)
    config.graph_options.rewrite_options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    context.context().function_call_options = context.FunctionCallOptions(options.executor_type, config)


def make_replica_step(task, replicas: int, context: Callable = tf.distribute.get_replica_context) -> Callable:
    """`function(batch, sound, leaving)`: one step as each replica runs it.

    Args:
        task: a compiled Task.
        replicas: in all.
        context: gives the replica's number and its reduction, as `tf.distribute.get_replica_context` does.
    """
    optimizer, variables = task.optimizer, [v.value for v in task.trainable_variables]
    micro, clip, seed, guard = task.accumulate, task.clip_norm, task.seed, task.guard
    several = hasattr(task, "turn")  # objectives, of which each step has one
    # a token table's gradient may stay a few rows where nothing is to be added to it, and where shapes may be dynamic
    compiled = task.jit_compile or task.on_tpu
    keep_rows = micro == 1 and replicas == 1 and not compiled and not several

    def gradients_of(loss_terms, batch: dict, key, sources=()):
        # tape.gradient is inside too: a recomputed block is traced there
        with fast.fused(task.fuse_on_cpu, xla=compiled), tf.GradientTape() as tape:
            tape.watch(sources)
            total, weight = loss_terms(batch, seed=key)
        with fast.fused(task.fuse_on_cpu, xla=compiled):
            by = [*variables, *sources]
            grads = tape.gradient(total, by, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [g if keep_rows else tf.convert_to_tensor(g) for g in grads], total, weight

    loss_terms = objective(task)
    whole = gradients_of if task.adversarial is None else adversarial_gradients(gradients_of, task, task.adversarial)

    def gradients(batch: dict, key):
        if not several:
            grads, total, weight = whole(loss_terms, batch, key)
            return [distinct_rows(g) for g in grads], total, weight
        number, objectives = task.turn(batch)
        # the backward pass is within the branch: nothing of the others is computed, and nothing is handed out of it
        return tf.switch_case(number, [functools.partial(gradients_of, *each, key) for each in objectives])

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
    def replica_step(batch: dict, sound, leaving):
        replica, step = context(), optimizer.local_step()
        grads, total, weight = accumulated(batch, step, replica.replica_id_in_sync_group)
        if replicas > 1:
            mine = [*grads, total, weight, tf.identity(leaving)]  # on this replica's device, unlike an argument
            *grads, total, weight, leaving = replica.all_reduce(tf.distribute.ReduceOp.SUM, mine)
        # a batch without any weight (every row skipped) must not divide by zero
        factor = 1.0 / tf.maximum(weight, 1e-8)
        norm = tf.linalg.global_norm(grads) * factor
        if clip:
            factor = factor * tf.minimum(1.0, clip / tf.maximum(norm, 1e-12))
        sound = sound & tf.math.is_finite(norm) & tf.math.is_finite(total)
        usable = sound & (weight > 0.0)  # a batch of which nothing counts changes nothing
        turn = task.turn(batch)[0] if several else 0
        taken = usable if guard is None else usable & guard.accepts(norm, usable, turn)
        optimizer.update(grads, factor, taken, one_pass=task.fuse_on_cpu and replicas == 1)
        skipped = tf.cast(usable & ~taken, tf.float32)
        results = (total, weight, norm, skipped, leaving)
        return {**dict(zip(RESULTS, results, strict=True)), "sound": sound}

    return replica_step


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


def make_answer_function(task) -> Callable:
    """`function(features) -> tensors`: `task.answer_tensors` as one graph."""
    return tf.function(task.answer_tensors, reduce_retracing=True)


def parts_of_step(task, data, step: int) -> Iterator[tuple[dict, tf.Tensor]]:
    """The micro-batches of a step on every replica, and the seed of dropout in each."""
    total, micro = task.strategy.num_replicas_in_sync, task.accumulate
    for replica in range(total):
        batches = data.batches(step, step + 1, replicas=range(replica, replica + 1), total=total, micro=micro)
        batch = next(iter(batches))
        for i in range(micro):
            yield {name: tf.split(x, micro)[i] for name, x in batch.items()}, dropout_seed(data.seed, step, replica, i)


def gradients_of_part(task, batch: dict, seed: tf.Tensor) -> list[tf.Tensor | None]:
    """Gradients by the trainable variables, outside of a graph."""
    with fast.fused(task.fuse_on_cpu), tf.GradientTape() as tape:
        loss, _ = task.loss_terms(batch, seed=seed)
    with fast.fused(task.fuse_on_cpu):
        return tape.gradient(loss, [variable.value for variable in task.trainable_variables])
