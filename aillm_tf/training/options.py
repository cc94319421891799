"""Training: how a recipe trains, the same options for every recipe, and the two calls they all make with them."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass
class Training:
    """Optimizer, schedule, precision, devices, checkpoints."""

    # passes over the training rows
    epochs: int = 3
    # optimizer steps in all, instead of epochs
    steps: int | None = None
    # rows of a batch, over all replicas
    batch_size: int = 32
    # rows x length of a batch, instead of batch_size
    tokens_per_batch: int | None = None
    # peak learning rate
    learning_rate: float = 5e-5
    # steps of linear warm-up; below 1, a share of all steps
    warmup: float = 0.1
    schedule: Literal["linear", "cosine", "inverse_sqrt", "wsd", "constant"] = "linear"
    weight_decay: float = 0.01
    # factor of the learning rate from each block to the one below it
    layer_decay: float | None = None
    # decay of a moving average of the weights, which the result is then
    ema: float | None = None
    # global norm that gradients are clipped to; 0: not clipped
    clip_norm: float = 1.0
    # micro-batches a batch is cut into, to save memory
    accumulate: int = 1
    # steps run without returning to Python
    steps_per_execution: int = 1
    dtype: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    strategy: Literal["auto", "one", "mirrored", "multi_worker", "tpu"] = "auto"
    # pad all rows to the maximal length; by default on TPUs only
    fixed_length: bool | None = None
    # steps from one checkpoint to the next, besides the one after every epoch
    checkpoint_every: int | None = None
    # newest checkpoints to keep
    keep: int = 2
    # the result is the checkpoint with the best validation score, not the last one
    restore_best: bool = False
    # of weights, order and noise
    seed: int = 0


def batches(task, rows, options: Training, **columns):
    """The training `Dataset` of a task, as the options want it."""
    return task.dataset(
        rows,
        batch_size=options.batch_size,
        tokens_per_batch=options.tokens_per_batch,
        shuffle=True,
        seed=options.seed,
        fixed_length=options.fixed_length,
        **columns,
    )


def fit(task, data, options: Training, run, *, validation=None, best: str | None = None, verbose="auto"):
    """Compile a task and train it in a run directory, from its newest checkpoint where there is one.

    Args:
        task: built within the strategy's scope.
        data, validation: `Dataset`s.
        options: how.
        run: a `Run`; gets metrics and checkpoints.
        best: name of the validation metric whose best checkpoint is kept ("-loss": lower is better).

    Returns:
        The Keras `History`.
    """
    from aillm_tf.training.optimizer import adamw

    steps = options.steps or options.epochs * data.steps_per_epoch
    optimizer = adamw(
        options.learning_rate,
        steps=steps,
        warmup=options.warmup,
        schedule=options.schedule,
        weight_decay=options.weight_decay,
        layer_decay=options.layer_decay,
        ema=options.ema,
    )
    task.compile(
        optimizer,
        clip_norm=options.clip_norm or None,
        accumulate=options.accumulate,
        steps_per_execution=options.steps_per_execution,
    )
    checkpoints = run.checkpoints(keep=options.keep, every_steps=options.checkpoint_every, best=best)
    history = task.fit(
        data,
        validation_data=validation,
        steps=steps,
        callbacks=run.callbacks(data),
        checkpoints=checkpoints,
        verbose=verbose,
    )
    if options.restore_best and best:
        saved = checkpoints.best()
        task.set_state({name: saved.group(name) for name in ("model", "optimizer")})
        task.use_averages()
        print(f"taken: the weights of step {saved.step}, the best by {best.removeprefix('-')}")
    return history
