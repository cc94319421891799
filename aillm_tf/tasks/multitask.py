"""MultiTask: several objectives over one backbone in one run.

Every step trains one objective, on a batch of its own data; which one is a function of (seed, step), see
`aillm_tf.data.mixture`. So every objective keeps its own shapes, batch size and loss, the mean of a step is over one
kind of thing, and what each objective has seen is known exactly.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
from keras import ops

from aillm_tf.data.mixture import Mixture
from aillm_tf.data.pipeline import Dataset
from aillm_tf.data.tables import listing, nearest
from aillm_tf.layers.base import Layer
from aillm_tf.layers.naming import variables_by_name
from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.models.decoder import new_decoder
from aillm_tf.models.encoder import Encoder
from aillm_tf.models.encoder_decoder import EncoderDecoder
from aillm_tf.tasks import files
from aillm_tf.tasks.base import Task, sharing


class EncoderOf(Layer):
    """The encoder of an encoder-decoder, as tasks of encoders read it."""

    def __init__(self, backbone: EncoderDecoder, dtype=None):
        super().__init__(name="backbone", dtype=dtype)
        self.whole, self.config, self.embeddings = backbone, backbone.config, backbone.embeddings
        self.built = True

    def call(self, features: dict, read: int | None = None, seed=None):
        """See `Encoder.call`."""
        hidden = self.whole.encode(features, seed=seed)
        return hidden if read is None else hidden[:, :read]


class Objectives(Layer):
    """The tasks; their heads are named objectives/NAME/..."""

    def __init__(self, tasks: dict[str, Task], dtype=None):
        super().__init__(name="objectives", dtype=dtype)
        self.tasks = tasks

    def build(self, input_shape=None):
        for task in self.tasks.values():
            task.build()


class MultiTask(Task):
    """Several objectives over one backbone.

    Args:
        config: of the backbone. An encoder-decoder's encoder serves the tasks of encoders too.
        tokenizer: of all objectives.
        objectives: name -> {"task": its class or the name of it, and its options}. The loss of a step is that of its
            objective; how often each has its turn is said with the data.
        **options: of `Task`; `max_length` holds for every objective that does not say another.

    Raises:
        ValueError: no objective, an unknown task, or one that needs another kind of backbone.

    Example:
        >>> model = MultiTask(config, tokenizer, objectives={  # doctest: +SKIP
        ...     "masks": {"task": "MaskedLM", "whole_word": True},
        ...     "order": {"task": "SentenceOrder"},
        ... })
        >>> data = model.dataset("corpus.txt", weights={"masks": 3, "order": 1})  # doctest: +SKIP
    """

    def __init__(self, config, tokenizer, *, objectives: Mapping[str, Mapping[str, Any]], **options):
        if not objectives:
            raise ValueError("give at least one objective: objectives={name: {'task': 'MaskedLM', ...}}")
        for name in objectives:
            if not name.isidentifier():
                raise ValueError(f"an objective's name becomes part of its variables' names: {name!r} is none")
        self._asked = {name: dict(settings) for name, settings in objectives.items()}
        self.backbone_class = EncoderDecoder if config.decoder_layers else new_decoder if config.causal else Encoder
        super().__init__(config, tokenizer, **options)

    @property
    def tasks(self) -> dict[str, Task]:
        """name -> the task, whose backbone is this one."""
        return dict(self.objectives.tasks)

    def options(self) -> dict:
        objectives = {
            name: {"task": type(task).__name__, **task.options()} for name, task in self.objectives.tasks.items()
        }
        return {**super().options(), "objectives": objectives}

    def build_heads(self) -> None:
        tasks = {}
        for name, settings in self._asked.items():
            kind = _class(settings.pop("task", None))
            settings = {"max_length": self.max_length, **settings, "dtype": self.dtype_policy.name, "seed": self.seed}
            with sharing(self._seen_by(kind, name)):
                tasks[name] = kind(self.config, self.tokenizer, **settings)
            tasks[name].name = name
        self.objectives = Objectives(tasks, dtype=self.dtype_policy)

    def _seen_by(self, kind: type[Task], name: str) -> keras.layers.Layer:
        """The backbone as a task of this kind reads it."""
        needed = kind.backbone_class
        if needed in (self.backbone_class, type(self.backbone)):
            return self.backbone
        if needed is Encoder and isinstance(self.backbone, EncoderDecoder):
            return EncoderOf(self.backbone, dtype=self.dtype_policy)
        kinds = {Encoder: "an encoder", EncoderDecoder: "an encoder-decoder"}
        raise ValueError(
            f"objective {name!r}: {kind.__name__} needs {kinds.get(needed, 'a decoder')} as backbone, this config is "
            f"of {kinds.get(self.backbone_class, 'a decoder')}"
        )

    def head_shapes(self) -> dict[str, tuple]:
        return {"objectives": ()}

    def logits(self, features: dict, seed=None):
        raise TypeError("several objectives have no logits in common: take those of model.tasks[name]")

    @property
    def turns(self) -> int:
        return len(self.objectives.tasks)

    # Learning -------------------------------------------------------------------------------------------------------

    def turn(self, batch: dict) -> tuple[Any, list[tuple]]:
        """Which objective's batch this is (int32 scalar), and for each its `loss_terms` and its part of the batch."""
        parts: dict[str, dict] = {name: {} for name in self.objectives.tasks}
        for key, value in batch.items():
            name, _, feature = key.partition("/")
            parts[name][feature] = value
        # a sum, because a batch that is not there may have no rows
        active = [ops.sum(part.pop("active")) for part in parts.values()]
        objectives = [(self.objectives.tasks[name].loss_terms, part) for name, part in parts.items()]
        return ops.cast(ops.argmax(ops.stack(active)), "int32"), objectives

    def loss_terms(self, batch: dict, seed=None):
        number, objectives = self.turn(batch)
        return ops.switch(number, [functools.partial(terms, part, seed) for terms, part in objectives])

    def fit(self, x: Mixture, *, callbacks: Sequence = (), **options):
        """Train, see `Task.fit`.

        Logs of an epoch also hold "NAME_loss", the mean over what NAME predicted in it, and "NAME_tokens";
        `model.accounts` has the same for the whole run.

        Args:
            x: as `self.dataset(...)` makes it.
            callbacks, **options: see `Task.fit`.

        Returns:
            A Keras `History`.
        """
        if not isinstance(x, Mixture):
            raise TypeError(f"fit takes what model.dataset(...) makes, not {type(x).__name__}")
        if set(x.names) != set(self.objectives.tasks):
            raise ValueError(
                f"the data are for {', '.join(x.names)}, the objectives {', '.join(self.objectives.tasks)}"
            )
        self.accounts = Accounts(x)
        return super().fit(x, callbacks=[self.accounts, *(callbacks or ())], **options)

    def evaluate(self, x: Mixture, *, verbose="auto", return_rows: bool = False):
        """Score every objective on all rows of its data, each once.

        Args:
            x: as `self.dataset(...)` makes it.
            verbose, return_rows: see `Task.evaluate`.

        Returns:
            "NAME_METRIC" -> float; "loss" is the mean of the losses, weighted by how often each has its turn.
        """
        scores, rows = {"loss": 0.0}, {}
        with self.averaged():
            for name, share in zip(x.names, x.schedule.shares, strict=True):
                found, of_rows = self.objectives.tasks[name].evaluate(x.parts[name], verbose=verbose, return_rows=True)
                scores["loss"] += float(share) * found["loss"]
                scores.update({f"{name}_{metric}": value for metric, value in found.items()})
                rows.update({f"{name}_{column}": values for column, values in of_rows.items()})
        return (scores, rows) if return_rows else scores

    def tallies(self, rows: dict, x: Mixture) -> list[Tally]:
        found = []
        for name, task in self.objectives.tasks.items():
            own = {key.removeprefix(f"{name}_"): values for key, values in rows.items() if key.startswith(f"{name}_")}
            found += [tally.renamed(f"{name}_") for tally in task.tallies(own, x.parts[name])]
        return found

    def dataset(
        self,
        rows: Any,
        *,
        weights: Mapping[str, float] | None = None,
        temperature: float | None = None,
        each: Mapping[str, Mapping[str, Any]] | None = None,
        seed: int = 0,
        **options,
    ) -> Mixture:
        """The data of all objectives as one.

        Args:
            rows: what every objective learns from, or name of the objective -> what it learns from.
            weights, temperature: how often each has its turn, see `Mixture`.
            each: name -> options of that objective's `dataset` that are not those of all.
            seed: of the schedule, and of order and noise of every objective, which differ.
            **options: of every objective's `dataset`: batch_size, tokens_per_batch, shuffle, fixed_length, text, ...

        Returns:
            A `Mixture`, for `fit` and `evaluate`.

        Raises:
            ValueError: rows or `each` name what is no objective, or rows lack one.
        """
        tasks = self.objectives.tasks
        own = isinstance(rows, Mapping)
        for told, names in (("rows", rows if own else ()), ("each", each or ())):
            for name in names:
                if name not in tasks:
                    known = ", ".join(tasks)
                    raise ValueError(f"{told} names {name!r}; the objectives are {known}{nearest(name, tasks)}")
        missing = [name for name in tasks if own and name not in rows]
        if missing:
            raise ValueError(f"rows say nothing of {listing(missing)}: give what each objective learns from")
        if isinstance(rows, Iterable) and not isinstance(rows, (str, Mapping, Sequence)):
            rows = list(rows)  # an iterator is there once, the objectives are several
        parts: dict[str, Dataset] = {}
        for number, (name, task) in enumerate(tasks.items()):
            settings = {**options, "seed": seed + 1000003 * number, **(each or {}).get(name, {})}
            parts[name] = task.dataset(rows[name] if own else rows, **settings)
        return Mixture(parts, weights=weights, temperature=temperature, seed=seed)

    # One of them ----------------------------------------------------------------------------------------------------

    def task(self, name: str) -> Task:
        """A task of its own with the weights of an objective: to answer, save, export or train further.

        Args:
            name: of the objective.

        Raises:
            KeyError: there is no such objective.
        """
        ours = self.objectives.tasks[name]
        config = self.config
        if ours.backbone is not self.backbone:
            config = config.replace(decoder_layers=0, decoder_vocab_size=None)
        made = type(ours)(config, self.tokenizer, **ours.options(), dtype=self.dtype_policy.name, seed=self.seed)
        values = files.arrays_of(self)
        for variable_name, variable in variables_by_name(made).items():
            shared = variable_name.startswith("backbone/")
            variable.assign(values[variable_name if shared else f"objectives/{name}/{variable_name}"])
        return made

    def answer(self, texts: Sequence, **options) -> list[dict]:
        raise TypeError(f"which objective is to answer? model.task(name).answer(...): {', '.join(self.tasks)}")

    def save_huggingface(self, folder: str | Path) -> None:
        raise ValueError(f"save one of them: model.task(name).save_huggingface(folder): {', '.join(self.tasks)}")

    def export(self, folder: str | Path, **options) -> dict:
        raise ValueError(f"export one of them: model.task(name).export(folder): {', '.join(self.tasks)}")


class Accounts(keras.callbacks.Callback):
    """What each objective has seen and lost, exactly: steps, tokens, sum of the loss and of its weight.

    A step that the spike guard left out counts as "skipped" alone: nothing was learned from it.

    Args:
        data: what `fit` trains on.
    """

    def __init__(self, data: Mixture):
        super().__init__()
        self.data = data
        self.run, self.epoch = self._nothing(), self._nothing()

    def _nothing(self) -> dict[str, dict[str, float]]:
        return {name: {"steps": 0, "skipped": 0, "tokens": 0, "loss": 0.0, "weight": 0.0} for name in self.data.names}

    def on_train_batch_end(self, batch, logs=None):
        task = self.model
        for i, step in enumerate(range(task.step - len(task.step_losses), task.step)):
            name, tokens = self.data.name_of(step), self.data.tokens(step, step + 1)
            weight = float(task.step_weights[i])
            for totals in (self.run[name], self.epoch[name]):
                if task.step_skipped[i]:
                    totals["skipped"] += 1
                    continue
                totals["steps"] += 1
                totals["tokens"] += tokens
                totals["loss"] += float(task.step_losses[i]) * weight
                totals["weight"] += weight

    def on_epoch_end(self, epoch, logs=None):
        for name, totals in self.epoch.items():
            if totals["steps"]:
                logs[f"{name}_loss"] = totals["loss"] / max(totals["weight"], 1e-8)
                logs[f"{name}_tokens"] = totals["tokens"]
        self.epoch = self._nothing()

    def get_state(self) -> dict:
        """For checkpoints, so that a resumed run counts on."""
        return {"run": self.run, "epoch": self.epoch}

    def set_state(self, state: dict) -> None:
        """Takes back what `get_state` gave."""
        self.run, self.epoch = state["run"], state["epoch"]


def _class(kind: str | type[Task] | None) -> type[Task]:
    if isinstance(kind, type) and issubclass(kind, Task):
        return kind
    if kind not in files.TASKS:
        raise ValueError(f"an objective needs a task, one of {', '.join(files.TASKS)}: {kind!r} is none")
    return getattr(importlib.import_module(files.TASKS[kind]), kind)
