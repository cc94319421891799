"""The replica-exact step under the JAX backend: (weights, optimizer's state, batch) -> (their next values, results).

The same step as in `step.py`: gradients are of the sum over the global batch, then divided, then clipped by global
norm, then applied once. Here the batch is one array that lies on all devices, so nothing has to be reduced by hand:
how weights and rows are split (`layouts.py`) says where XLA communicates, and changes the result by rounding only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import keras
import numpy as np

from aillm_tf.training.guard import judge
from aillm_tf.training.optimizer import adam
from aillm_tf.training.regularizers import objective


def dropout_seed(seed: int, step, micro):
    """(2,) int32 that is different for every step and micro-batch; masks are drawn over all rows of it at once."""
    key = jax.random.PRNGKey(seed & 0x7FFFFFFF)
    for number in (step, micro):
        key = jax.random.fold_in(key, number)
    # sites are added to the second word (layers/dropout.py): room for them without overflow
    return jax.lax.bitcast_convert_type(key, jnp.int32) & jnp.array([-1, 0x3FFFFFFF], jnp.int32)


def stateless(task, function: Callable) -> Callable:
    """`f(values, *inputs)`: a function of a task where its variables have these values, in their order."""

    def call(values: list, *inputs, **options):
        with keras.StatelessScope(state_mapping=zip(task.variables, values, strict=True)):
            return function(*inputs, **options)

    return call


def values_of(task) -> list[jax.Array]:
    """The values of all variables of a task, in their order."""
    return [variable.value for variable in task.variables]


def gradients(task, trained: list, values: list, batch: dict, seed) -> tuple:
    """(gradients of the loss's sum, the sum, its weight) of a batch.

    Args:
        task: a Task.
        trained: values of its trainable variables.
        values: of all its variables; those of the trainable ones are not looked at.
        batch: features, (rows, ...) each.
        seed: (2,) int32, dropout.
    """
    place = {id(variable): i for i, variable in enumerate(task.variables)}
    places = [place[id(variable)] for variable in task.trainable_variables]
    loss_terms = stateless(task, objective(task))

    def loss(trained: list):
        every = list(values)
        for i, value in zip(places, trained, strict=True):
            every[i] = value
        return loss_terms(every, batch, seed=seed)

    (total, weight), grads = jax.value_and_grad(loss, has_aux=True)(trained)
    return grads, total, weight


def make_step(task) -> Callable:
    """`function(state, values, batch, sound) -> (state, results)`; state as `state_of`, batch as `batches` have it."""
    optimizer, clip, seed, guard = task.optimizer, task.clip_norm, task.seed, task.guard

    def accumulated(state: dict, values: list, batch: dict):
        def of_part(number, features: dict):
            key = dropout_seed(seed, state["steps_done"], number)
            return gradients(task, state["weight"], values, features, key)

        def add(sums, part):
            return jax.tree.map(jnp.add, sums, of_part(*part)), None

        if task.accumulate == 1:
            return of_part(0, jax.tree.map(lambda x: x[0], batch))
        zero = jnp.zeros((), jnp.float32)
        sums = ([jnp.zeros_like(weight) for weight in state["weight"]], zero, zero)
        return jax.lax.scan(add, sums, (jnp.arange(task.accumulate), batch))[0]

    def step(state: dict, values: list, batch: dict, sound):
        grads, total, weight = accumulated(state, values, batch)
        # a batch without any weight (every row skipped) must not divide by zero
        factor = 1.0 / jnp.maximum(weight, 1e-8)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in grads)) * factor
        if clip:
            factor = factor * jnp.minimum(1.0, clip / jnp.maximum(norm, 1e-12))
        sound = sound & jnp.isfinite(norm) & jnp.isfinite(total)
        taken = usable = sound & (weight > 0.0)  # a batch of which nothing counts changes nothing
        numbers = state.get("guard", {})
        if guard is not None:
            turn = task.turn({name: x[0] for name, x in batch.items()})[0] if hasattr(task, "turn") else 0
            outlier, fall = judge(guard.limit, norm, usable, numbers["total"], numbers["seen"], turn)
            numbers, taken = {name: numbers[name] - fall[name] for name in numbers}, usable & ~outlier
        state = {**state, **updated(optimizer, state, grads, factor, taken), **({"guard": numbers} if numbers else {})}
        found = {"loss": total, "weight": weight, "gradient_norm": norm}
        return state, {**found, "skipped": (usable & ~taken).astype(jnp.float32), "sound": sound}

    return step


def updated(optimizer, state: dict, grads: list, factor, taken) -> dict:
    """The state after a step of `AdamW`; arguments as of its `update`."""
    done = state["steps_done"]
    rate = state["rate"] if "rate" in state else optimizer._learning_rate(done)
    step = done.astype(jnp.float32) + 1.0
    power_1, power_2 = optimizer.beta_1**step, optimizer.beta_2**step
    after = {name: [] for name in ("weight", *optimizer.slots())}
    for i, gradient in enumerate(grads):
        weight, momentum, velocity = (state[name][i] for name in ("weight", "momentum", "velocity"))
        lr = rate * optimizer.rates[i]
        corrected = lr * jnp.sqrt(1.0 - power_2) / (1.0 - power_1)
        epsilon = optimizer.epsilon * jnp.sqrt(1.0 - power_2)
        numbers = (corrected, lr * optimizer.decays[i], optimizer.beta_1, optimizer.beta_2, epsilon)
        found = adam(weight, momentum, velocity, gradient * factor, numbers)
        if "average" in after:
            average = state["average"][i]
            found = (*found, average - (average - found[0]) * (1.0 - optimizer.ema))
        # what is not finite must not get into the state by a product with 0
        for name, value in zip(after, found, strict=True):
            after[name].append(jnp.where(taken, value, state[name][i]))
    return {**after, "steps_done": done + 1}


def parts_of_step(task, data, step: int) -> Iterator[tuple[dict, jax.Array]]:
    """The micro-batches of a step, and the seed of dropout in each."""
    iterator = iter(data.distribute(task.strategy, step, step + 1, task.accumulate))
    batch, _ = next(batches(task, iterator, task.accumulate))
    for part in range(task.accumulate):
        yield {name: x[part] for name, x in batch.items()}, dropout_seed(data.seed, step, part)


def gradients_of_part(task, batch: dict, seed) -> list[jax.Array]:
    """Gradients by the trainable variables, outside of a compiled program."""
    return gradients(task, [variable.value for variable in task.trainable_variables], values_of(task), batch, seed)[0]


def state_of(task) -> dict:
    """The variables of a step: weights, slots, count and (no schedule's) rate of the optimizer, the guard's numbers."""
    optimizer, guard = task.optimizer, task.guard
    slots = {name: list(variables) for name, variables in optimizer.slots().items()}
    state = {"weight": list(task.trainable_variables), **slots, "steps_done": optimizer.steps_done}
    state |= {} if callable(optimizer._learning_rate) else {"rate": optimizer._learning_rate}
    return {**state, **({"guard": guard.variables()} if guard else {})}


def batches(task, iterator: Iterator, micro: int) -> Iterator[tuple[dict, np.ndarray | None]]:
    """Batches on the devices, features (micro, rows, ...) each, and the numbers of their rows."""
    axes = None, task.strategy.distribution.batch_dim_name

    def cut(x: np.ndarray) -> np.ndarray:
        replicas, rows = x.shape[:2]
        parts = x.reshape(replicas, micro, rows // micro, *x.shape[2:])
        # as `step.py` cuts them: part i is part i of every replica's rows
        return parts.swapaxes(0, 1).reshape(micro, replicas * (rows // micro), *x.shape[2:])

    for batch in iterator:
        arrays = {name: x.numpy() for name, x in batch.items()}
        rows = arrays.pop("row", None)  # for the host alone
        yield task.strategy.put({name: cut(x) for name, x in arrays.items()}, *axes), rows


def make_train_function(task) -> Callable:
    """As `step.make_train_function`.

    Args:
        task: a compiled Task.
    """
    variables = state_of(task)
    whole = task.strategy.sharding()
    where = jax.tree.map(lambda v: whole if v._layout is None else v._layout.backend_layout, variables)
    step_of_task = make_step(task)

    def step(state, fixed, batch, sound, leaving):
        state, results = step_of_task(state, fixed, batch, sound)
        return state, {**results, "leaving": jnp.sum(leaving)}

    # the old state's memory becomes the new one's
    step = jax.jit(step, donate_argnums=0, out_shardings=(where, whole))
    trained = {id(variable) for variable in task.trainable_variables}
    batch_dim = task.strategy.distribution.batch_dim_name
    local = task.strategy.num_replicas_in_sync // len(task.strategy.processes)

    def function(iterator, steps, leaving=0.0):
        state = jax.device_put(jax.tree.map(lambda variable: variable.value, variables), where)
        # not those that the state has: their memory is given away
        fixed = [None if id(variable) in trained else variable.value for variable in task.variables]
        sound, found = task.strategy.put(np.array(True)), []
        leaving = task.strategy.put(np.full(local, float(leaving), "float32"), batch_dim)
        try:
            for _, (batch, _) in zip(range(int(steps)), batches(task, iterator, task.accumulate), strict=False):
                state, results = step(state, fixed, batch, sound, leaving)
                sound = results.pop("sound")
                found.append(results)
        finally:
            jax.tree.map(lambda variable, value: variable.assign(value), variables, state)
        return {name: np.array([results[name] for results in found]) for name in found[0]}

    return function


def make_test_function(task) -> Callable:
    """As `step.make_test_function`.

    Args:
        task: a Task.
    """
    evaluate = jax.jit(stateless(task, task.evaluation), out_shardings=task.strategy.sharding())

    def function(iterator):
        batch, rows = next(batches(task, iterator, 1))
        sums, found = evaluate(values_of(task), jax.tree.map(lambda x: x[0], batch))
        if len(task.strategy.processes) > 1:  # `found` is of all rows already, here is the number of those made here
            rows = task.strategy.of_every_process(rows)
        return {"sums": sums, "rows": {**found, "row": rows.reshape(-1)}}

    return function


def make_answer_function(task) -> Callable:
    """`function(features) -> tensors`: `task.answer_tensors`, of which JAX compiles what the model computes.

    Args:
        task: a Task; what its `answer_tensors` does before and after the model may be TensorFlow's.
    """

    def compiled(function: Callable) -> Callable:
        program = jax.jit(stateless(task, function), out_shardings=task.strategy.sharding())

        @functools.wraps(function)
        def call(features: dict):
            return program(values_of(task), {name: np.asarray(x) for name, x in features.items()})

        return call

    programs = {name: compiled(getattr(task, name)) for name in ("logits", "vectors") if hasattr(task, name)}

    def answer(features: dict) -> dict:
        rows = len(next(iter(features.values())))
        task.__dict__.update(programs)  # not by setattr, which Keras overrides
        try:
            tensors = task.answer_tensors(rounded(features, task))
        finally:
            for name in programs:
                del task.__dict__[name]
        return {name: np.asarray(x)[:rows] for name, x in tensors.items()}

    return answer


def rounded(features: dict, task) -> dict:
    """Padded ids as `Task.features` makes them, in one of few shapes: a program is compiled for each."""
    if set(features) != {"token_ids", "segment_ids"}:
        return features
    rows, length = features["token_ids"].shape
    room = (0, (1 << (rows - 1).bit_length()) - rows), (0, max(0, min(-(-length // 16) * 16, task.max_length) - length))
    fill = {"token_ids": task.tokenizer.pad_id, "segment_ids": 0}
    return {name: np.pad(np.asarray(x), room, constant_values=fill[name]) for name, x in features.items()}
