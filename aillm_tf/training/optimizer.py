"""AdamW whose update is one fused op a variable, with decay masks, layer-wise learning rates and EMA.

Gradients come in summed over all replicas and not yet divided: `update` takes the factor that divides and clips
them, so that both are one pass over the gradients. Nothing is reduced again here, unlike in
`keras.optimizers`, so the caller must reduce. A token table whose gradient has come as a few rows is updated without
a gradient of the table's size; the result is the same, momentum and velocity of all other rows decay too.
"""

from __future__ import annotations

import functools
import math
import re

import keras
import tensorflow as tf
from keras import ops

from aillm_tf.layers.fast import xla_on_cpu
from aillm_tf.training.schedule import schedule as make_schedule

LARGE = 2**17  # elements of a variable; what is smaller stays in the caches, and is not worth compiling for
NO_DECAY = ("bias", "scale", "norm", "embeddings/position", "embeddings/segment")


class AdamW(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay.

    m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2;
    w = w - lr (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay w)

    Args:
        learning_rate: a number, or a schedule of the step.
        weight_decay: decay of matrices; variables whose path contains a word of `no_decay` have none.
        layer_decay: the learning rate of a block is `layer_decay` times that of the block above (Howard & Ruder
            2018); None: the same rate everywhere.
        ema: decay of an exponential moving average of the weights, which replaces them when `fit` ends and is
            what validation sees; None: no average.

    Reference:
        Loshchilov & Hutter 2019, arXiv:1711.05101.
    """

    def __init__(
        self,
        learning_rate=1e-3,
        *,
        weight_decay: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        no_decay: tuple[str, ...] = NO_DECAY,
        layer_decay: float | None = None,
        ema: float | None = None,
        name: str = "adamw",
    ):
        # Keras's own decay, clipping and EMA act per replica or twice: they stay off
        super().__init__(learning_rate=learning_rate, name=name)
        self.decay, self.beta_1, self.beta_2, self.epsilon = weight_decay, beta_1, beta_2, epsilon
        self.no_decay, self.layer_decay, self.ema = tuple(no_decay), layer_decay, ema

    def build(self, variables: list[keras.Variable]) -> None:
        if self.built:
            if [id(v) for v in variables] != [id(v) for v in self._trainable_variables]:
                raise ValueError("this optimizer trains another model: make a new one with ai.adamw(...)")
            return
        # the optimizer may have been made outside the scope in which its state must live
        self._distribution_strategy = tf.distribute.get_strategy()
        super().build(variables)
        # what Keras reads as `iterations`, and `learning_rate` follows, is counted in the scope too
        self._iterations = self.steps_done = keras.Variable(0, dtype="int", trainable=False, name="steps_done")
        self.momentums = [self.add_variable_from_reference(v, name="momentum") for v in variables]
        self.velocities = [self.add_variable_from_reference(v, name="velocity") for v in variables]
        self.averages = []
        if self.ema is not None:
            self.averages = [
                self.add_variable_from_reference(v, name="average", initializer="zeros") for v in variables
            ]
            for average, variable in zip(self.averages, variables, strict=True):
                average.assign(ops.copy(variable))  # memory of its own: JAX gives that of weights away
        # without the model's own name: a class named after a norm must not lose its decay
        paths = [v.path.partition("/")[2] or v.path for v in variables]
        self.decays = [0.0 if any(word in path for word in self.no_decay) else self.decay for path in paths]
        self.rates = layer_rates(paths, self.layer_decay)

    def slots(self) -> dict[str, list[keras.Variable]]:
        """The optimizer's state by kind, each in the order of the variables."""
        slots = {"momentum": self.momentums, "velocity": self.velocities}
        return {**slots, "average": self.averages} if self.averages else slots

    def local_step(self) -> tf.Tensor:
        """Steps applied so far, int64, in a replica's context."""
        return read_local(self.steps_done)

    def update(
        self, gradients: list[tf.Tensor | tf.IndexedSlices], factor: tf.Tensor, taken=True, one_pass: bool = False
    ) -> None:
        """One step, in a replica's context.

        Args:
            gradients: reduced sums; rows of `IndexedSlices` are different ones: see `step.distinct_rows`.
            factor: divides and clips them, float32 scalar.
            taken: bool, also a tensor; where False, only the number of steps done changes, whatever the gradients hold.
            one_pass: update large variables by a program of XLA's, which reads and writes each of them once.
        """
        done = self.local_step()
        rate = tf.cast(self._learning_rate(done) if callable(self._learning_rate) else self.learning_rate, tf.float32)
        step = tf.cast(done, tf.float32) + 1.0
        power_1, power_2 = self.beta_1**step, self.beta_2**step
        # without a branch, so that no device waits for the decision: a step that is not taken is one whose gradient
        # and rates are 0 and whose betas are 1
        factor, rate = tf.where(taken, factor, 0.0), tf.where(taken, rate, 0.0)
        beta_1, beta_2 = (tf.where(taken, beta, 1.0) for beta in (self.beta_1, self.beta_2))
        average = tf.where(taken, 1.0 - (self.ema or 0.0), 0.0)
        # ResourceApplyAdam adds epsilon to the uncorrected sqrt(v): scaled, it is that of the formula above
        epsilon = self.epsilon * tf.sqrt(1.0 - power_2)
        for i, gradient in enumerate(gradients):
            variable = self._trainable_variables[i]
            lr = rate * self.rates[i]
            rows = isinstance(gradient, tf.IndexedSlices)
            if rows or (one_pass and math.prod(variable.shape) >= LARGE):
                states = [v.value for v in (variable, self.momentums[i], self.velocities[i])]
                corrected = lr * tf.sqrt(1.0 - power_2) / (1.0 - power_1)
                numbers = (corrected, lr * self.decays[i], beta_1, beta_2, epsilon)
                if rows:  # 0 times a number that is none is 0
                    _update_rows(states, gradient.indices, tf.math.multiply_no_nan(gradient.values, factor), numbers)
                else:
                    _one_pass()([state.handle for state in states], gradient, factor, numbers)
                self._update_average(i, average)
                continue
            if self.decays[i]:
                subtract_local(variable, read_local(variable) * (lr * self.decays[i]))
            tf.raw_ops.ResourceApplyAdam(
                var=variable.value.handle,
                m=self.momentums[i].value.handle,
                v=self.velocities[i].value.handle,
                beta1_power=power_1,
                beta2_power=power_2,
                lr=lr,
                beta1=beta_1,
                beta2=beta_2,
                epsilon=epsilon,
                grad=tf.math.multiply_no_nan(gradient, factor),
            )
            self._update_average(i, average)
        subtract_local(self.steps_done, tf.constant(-1, tf.int64))

    def _update_average(self, i: int, share: tf.Tensor) -> None:
        if self.averages:
            average = self.averages[i]
            subtract_local(average, (read_local(average) - read_local(self._trainable_variables[i])) * share)

    def get_config(self):
        config = super().get_config()
        for key in ("weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "use_ema", "ema_momentum"):
            config.pop(key, None)
        config = {key: config[key] for key in ("name", "learning_rate") if key in config}
        own = {key: getattr(self, key) for key in ("beta_1", "beta_2", "epsilon", "no_decay", "layer_decay", "ema")}
        return {**config, **own, "weight_decay": self.decay}


# In a replica's context a mirrored variable's handle is that replica's copy, under every strategy. The variable's own
# methods would reduce once more or, with a TPU's several cores, take the first core's copy.


def read_local(variable: keras.Variable) -> tf.Tensor:
    """The value of a variable in a replica's context."""
    return tf.raw_ops.ReadVariableOp(resource=variable.value.handle, dtype=variable.value.dtype)


def subtract_local(variable: keras.Variable, value: tf.Tensor) -> None:
    """Subtracts from a variable in a replica's context."""
    tf.raw_ops.AssignSubVariableOp(resource=variable.value.handle, value=value)


def adam(weight, momentum, velocity, gradient, numbers):
    """What ResourceApplyAdam computes, after the decay: the new weight, momentum and velocity, on any backend."""
    lr, decay, beta_1, beta_2, epsilon = numbers
    momentum = momentum + (gradient - momentum) * (1.0 - beta_1)
    velocity = velocity + (ops.square(gradient) - velocity) * (1.0 - beta_2)
    return weight - weight * decay - momentum * lr / (ops.sqrt(velocity) + epsilon), momentum, velocity


def _update_rows(states: list[tf.Variable], rows: tf.Tensor, gradient: tf.Tensor, numbers) -> None:
    """A step of the whole table whose gradient is zero but for some rows."""
    before = [tf.raw_ops.ResourceGather(resource=s.handle, indices=rows, dtype=s.dtype) for s in states]

    _one_pass()([s.handle for s in states], tf.zeros((), gradient.dtype), 1.0, numbers)
    for state, value in zip(states, adam(*before, gradient, numbers), strict=True):
        tf.raw_ops.ResourceScatterUpdate(resource=state.handle, indices=rows, updates=value)


@functools.cache
def _one_pass():
    """`program(handles, gradient, factor, numbers)`: a step of a variable in one pass over its memory, not in five.

    It takes the handles of weight, momentum and velocity, so that variables of one shape share what is compiled.
    """

    def program(handles, gradient, factor, numbers):
        values = [tf.raw_ops.ReadVariableOp(resource=handle, dtype=gradient.dtype) for handle in handles]
        stepped = adam(*values, tf.math.multiply_no_nan(gradient, factor), numbers)
        for handle, value in zip(handles, stepped, strict=True):
            tf.raw_ops.AssignVariableOp(resource=handle, value=value)

    return tf.function(program, jit_compile=xla_on_cpu(), autograph=False)


def layer_rates(paths: list[str], decay: float | None) -> list[float]:
    """Learning-rate factors: 1 for the head, `decay` times less for every block further down, embeddings lowest.

    Example:
        >>> layer_rates(["backbone/embeddings/token", "backbone/encoder/layer_0/ffn/up/kernel", "classifier/bias"], 0.5)
        [0.25, 0.5, 1.0]
    """
    if decay is None:
        return [1.0] * len(paths)
    blocks = [int(m[1]) if (m := re.search(r"layer_(\d+)", path)) else None for path in paths]
    top = max((b for b in blocks if b is not None), default=-1) + 1
    depth = [
        b + 1 if b is not None else (0 if "embeddings/" in path else top + 1)
        for b, path in zip(blocks, paths, strict=True)
    ]
    return [decay ** (top + 1 - d) for d in depth]


def adamw(
    learning_rate: float,
    *,
    steps: int | None = None,
    warmup: float = 0.0,
    schedule: str = "linear",
    **options,
) -> AdamW:
    """AdamW with a learning-rate schedule.

    Args:
        learning_rate: the peak.
        steps: optimizer steps of the whole run; None: a constant rate after the warm-up.
        warmup: steps of linear warm-up; below 1, a share of `steps`.
        schedule: "linear", "cosine", "inverse_sqrt", "wsd" or "constant".
        **options: of `AdamW`.

    Example:
        >>> adamw(2e-5, steps=1000, warmup=0.1).decay
        0.01
    """
    if steps is None and schedule == "linear":
        schedule = "constant"
    return AdamW(make_schedule(learning_rate, steps, warmup=warmup, kind=schedule), **options)
