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
    # steps within which batches grow to their size, from an eighth of it
    batch_warmup: int | None = None
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
    # parts of the model that stay as they are: layers and words of its variables' names, e.g. embeddings,0-3
    freeze: str | None = None
    # train LoRA adapters of this rank, and the heads, instead of all weights; 8 is usual, with a rate of about 1e-3
    lora_rank: int | None = None
    # what adapters add counts lora_alpha / lora_rank
    lora_alpha: float = 16.0
    # projections with adapters, of query, key, value, out, gate, up and down
    lora_projections: str = "query,value"
    # R-Drop: weight of the divergence between two dropout masks; of classification, ner, question_answering
    r_drop: float | None = None
    # adversarial training: length by which a row's token embeddings are moved; of the same recipes
    adversarial: float | None = None
    # global norm that gradients are clipped to; 0: not clipped
    clip_norm: float = 1.0
    # skip a batch whose gradient norm is more than so many times the running average
    spike_guard: float | None = None
    # micro-batches a batch is cut into, to save memory
    accumulate: int = 1
    # recompute each block in the backward pass: less memory, more time
    remat: bool = False
    # steps run without returning to Python
    steps_per_execution: int = 1
    dtype: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    strategy: Literal["auto", "one", "mirrored", "multi_worker", "tpu"] = "auto"
    # with KERAS_BACKEND=jax: devices along each axis, as in data=4,model=2; by default all along data
    mesh: str | None = None
    # with KERAS_BACKEND=jax: model splits weights over the axis model; fully_sharded also splits them over data
    layout: Literal["tensor_parallel", "fully_sharded"] = "tensor_parallel"
    # host:port of every worker of multi_worker, the chief first; by default TF_CONFIG or SLURM says who they are
    cluster: list[str] | None = None
    # which of them this process is, from 0; by default SLURM_PROCID
    worker: int | None = None
    # seconds after which a worker that did not come, or fell silent, is named and given up
    worker_timeout: float = 300.0
    # pad all rows to the maximal length; by default on TPUs only
    fixed_length: bool | None = None
    # steps after which to validate, instead of after every epoch
    validation_every: int | None = None
    # end after so many validations in a row without a better score
    patience: int | None = None
    # steps from one checkpoint to the next, besides the one after every validation
    checkpoint_every: int | None = None
    # newest checkpoints to keep
    keep: int = 2
    # the result is the checkpoint with the best validation score, not the last one
    restore_best: bool = False
    # of weights, order and noise
    seed: int = 0
    # decay of Adam's second moment; 0.98 goes with large rates and short runs, as of translators
    beta_2: float = 0.999


def open_strategy(options: Training):
    """The strategy that the options ask for; of several workers, it waits for all of them."""
    from aillm_tf.training.strategy import listen_for_profiler, strategy

    cluster = {"cluster": options.cluster, "worker": options.worker, "timeout": options.worker_timeout}
    opened = strategy(options.strategy, mesh=options.mesh, layout=options.layout, **cluster)
    listen_for_profiler()  # JAX opens its devices then, so its processes must have been started
    return opened


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
    import keras

    from aillm_tf.data.mixture import Mixture
    from aillm_tf.layers.transformer import remat_of, set_remat
    from aillm_tf.training.batch_growth import GrowingBatches
    from aillm_tf.training.cluster import agree
    from aillm_tf.training.optimizer import adamw
    from aillm_tf.training.strategy import of_several_processes

    _choose_weights(task, options)
    if options.remat:
        set_remat(task, True)
        if not remat_of(task):
            raise ValueError("training.remat recomputes Transformer blocks, and this model has none: leave it out")
    steps = options.epochs * data.steps_per_epoch
    if options.batch_warmup is not None:
        if isinstance(data, Mixture):
            raise ValueError("training.batch_warmup grows the batches of one objective: leave it out with several")
        data = GrowingBatches(data, options.batch_warmup)
        steps = data.steps_of(steps)
    steps = options.steps or steps
    optimizer = adamw(
        options.learning_rate,
        steps=steps,
        warmup=options.warmup,
        schedule=options.schedule,
        weight_decay=options.weight_decay,
        layer_decay=options.layer_decay,
        ema=options.ema,
        beta_2=options.beta_2,
    )
    task.compile(
        optimizer,
        clip_norm=options.clip_norm or None,
        accumulate=options.accumulate,
        steps_per_execution=options.steps_per_execution,
        spike_guard=options.spike_guard,
        r_drop=options.r_drop,
        adversarial=options.adversarial,
    )
    callbacks = run.callbacks(data)
    if options.patience is not None:
        if not best or validation is None:
            raise ValueError("training.patience counts validations: give validation data")
        lower = best.startswith("-")
        stop = {"patience": options.patience, "mode": "min" if lower else "max", "verbose": 1}
        callbacks.append(keras.callbacks.EarlyStopping(f"val_{best.removeprefix('-')}", **stop))
    checkpoints = run.checkpoints(keep=options.keep, every_steps=options.checkpoint_every, best=best)
    history = task.fit(
        data,
        validation_data=validation,
        validation_every=options.validation_every,
        steps=steps,
        callbacks=callbacks,
        checkpoints=checkpoints,
        verbose=verbose,
    )
    if options.restore_best and best:
        saved = checkpoints.best()
        if of_several_processes(task.strategy):  # they may not all see what the first one wrote
            agree(task.strategy, "the best checkpoint", -1 if saved is None else saved.step)
        task.set_state({name: saved.group(name) for name in ("model", "optimizer")})
        task.use_averages()
        run.restored_step = saved.step
        print(f"taken: the weights of step {saved.step}, the best by {best.removeprefix('-')}")
    return history


def _choose_weights(task, options: Training) -> None:
    """Freeze what is not to be trained, and say how much is."""
    from aillm_tf.training.freezing import adapt, freeze, trained_share

    if options.freeze and options.lora_rank:
        raise ValueError("training.lora_rank freezes the whole backbone: leave training.freeze out")
    if options.lora_rank and task.source is None:
        raise ValueError("training.lora_rank adapts pretrained weights: give model.init")
    if options.freeze:
        freeze(task, options.freeze)
    elif options.lora_rank:
        projections = [name.strip() for name in options.lora_projections.split(",")]
        adapt(task, options.lora_rank, options.lora_alpha, projections)
    else:
        return
    print(f"trained: {trained_share(task):.2%} of {task.count_params():,} parameters")
