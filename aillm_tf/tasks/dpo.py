"""PreferenceTuning: direct preference optimization, DPO (Rafailov et al. 2023, arXiv:2305.18290).

Notable here:
- The frozen reference is the model that training begins with. Its log-probabilities are computed once, when a data set
  is made, and are a column of it: training holds one model and runs one.
- There is no dropout: the margin is between two models, not between one and a random part of the other.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.preferences import Preferences, read_preferences
from aillm_tf.data.tables import Faults
from aillm_tf.layers.vocabulary_loss import row_losses
from aillm_tf.metrics.bootstrap import Tally, mean_tally
from aillm_tf.tasks.conversational import fitting
from aillm_tf.tasks.dialogue import NO_ANSWERS, Dialogue

logger = logging.getLogger("aillm_tf")


class PreferenceTuning(Dialogue):
    """A `Dialogue` that learns which of two answers to prefer.

    Args:
        config, tokenizer: see `Dialogue`; `from_pretrained` starts from a trained one, as it should be, with its
            lengths and its way of decoding.
        beta: how much being far from the reference costs: the loss of a pair is
            -log sigmoid(beta (log p(chosen) - log p(rejected) - the same of the reference)).
        **options: of `Dialogue`.

    Raises:
        ValueError: a beta that is not above 0.

    Example:
        >>> model = PreferenceTuning.from_pretrained("runs/dialogue/model", beta=0.1)  # doctest: +SKIP
        >>> data = model.dataset("pairs.jsonl")  # doctest: +SKIP

    Reference:
        Rafailov et al. 2023, Direct Preference Optimization: Your Language Model is Secretly a Reward Model.
    """

    def __init__(self, config, tokenizer, *, beta: float = 0.1, **options):
        if beta <= 0.0:
            raise ValueError(f"beta is {beta}: give a number above 0")
        self.beta = beta
        super().__init__(config, tokenizer, **options)

    def options(self) -> dict:
        return {**super().options(), "beta": self.beta}

    @classmethod
    def checkpoint_options(cls, folder: Path, tokenizer) -> dict:
        saved = _saved(folder)
        kept = ("max_length", "max_target_length", "generation") if saved.get("task") == "Dialogue" else ()
        return {name: saved["options"][name] for name in kept}

    # The loss ---------------------------------------------------------------------------------------------------

    def log_probabilities(self, batch: dict):
        """(rows, 2) float32, of the chosen and of the rejected answers of a batch."""

        def of(ids, answers):
            hidden = self.hidden({"token_ids": ids})
            # the weight of a place is that of the token after it
            return -row_losses(hidden[:, :-1], self.backbone.logits, ids[:, 1:], answers[:, 1:])

        chosen = of(batch["token_ids"], batch["answers"])
        return ops.stack([chosen, of(batch["target_ids"], batch["target_answers"])], axis=1)

    def margins(self, log_probabilities, batch: dict):
        """(rows,) beta times how much more than the reference the model prefers the chosen answer."""
        gain = log_probabilities - batch["references"]
        return self.beta * (gain[:, 0] - gain[:, 1])

    def loss_terms(self, batch: dict, seed=None):
        margins = self.margins(self.log_probabilities(batch), batch)
        return ops.sum(ops.softplus(-margins) * batch["weight"]), ops.sum(batch["weight"])

    def evaluation(self, batch: dict):
        log_p, weight = self.log_probabilities(batch), batch["weight"]
        margins = self.margins(log_p, batch)
        rows = {"loss": ops.softplus(-margins), "accuracy": ops.cast(margins > 0.0, "float32"), "margin": margins}
        sums = {name: ops.sum(values * weight) for name, values in rows.items()}
        return {**sums, "weight": ops.sum(weight)}, {**rows, "log_probabilities": log_p}

    def scores(self, sums: dict, rows: dict) -> dict[str, float]:
        return {name: sums[name] / max(sums["weight"], 1e-8) for name in ("loss", "accuracy", "margin")}

    def tallies(self, rows: dict, x: Dataset) -> list[Tally]:
        keys = x.columns["references"].round(2).tolist()
        return [mean_tally({name: rows[name] for name in ("loss", "accuracy", "margin")}, keys)]

    # Data -------------------------------------------------------------------------------------------------------

    def dataset(
        self,
        rows: str | Preferences | Iterable[Mapping[str, Any]],
        *,
        references: np.ndarray | None = None,
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        **batching,
    ) -> Dataset:
        """Pairs of answers as batches.

        Args:
            rows: see `aillm_tf.data.preferences.read_preferences`.
            references: (pairs, 2), what the reference gives the chosen and the rejected answers; None: they are
                computed now, from the weights as they are. `columns["references"]` of the result has them.
            on_bad: "raise" at a bad pair, or "skip" it and count.
            encoding_errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.
            **batching: batch_size, shuffle, seed, fixed_length: see `Task.batched`.

        Returns:
            A `Dataset`; `evaluate` gives the loss, the share of pairs of which the model prefers the chosen answer more
            than the reference does ("accuracy"), and by how much ("margin").

        Raises:
            RuntimeError: the references are to be computed, but the model is not what training began with.
            ValueError: a bad pair, or one that does not fit into `max_length` (names the file and line), or references
                that are not those of the pairs.
        """
        if references is None and self.step:
            raise RuntimeError("the reference is the model before training: make all data sets before fit")
        if references is None and self.source and _saved(Path(self.source)).get("task") == type(self).__name__:
            logger.warning(
                "%s was tuned on preferences already and is now its own reference: scores begin at a margin of 0",
                self.source,
            )
        if not isinstance(rows, Preferences):
            rows = read_preferences(rows, on_bad=on_bad, errors=encoding_errors)
        faults = Faults(on_bad)
        pairs = [*filter(None, (self._encoded(*pair, faults) for pair in zip(*rows[:4], strict=True)))]
        if not pairs:
            raise ValueError(f"no pair fits: {faults.skipped[0]}")
        shape = (len(pairs), 2)
        if references is not None and np.shape(references) != shape:
            raise ValueError(f"references are {np.shape(references)}, not {shape}: they were computed for other pairs")
        columns: dict = {}
        names = (("token_ids", "answers"), ("target_ids", "target_answers"))  # chosen and rejected
        for (of_ids, of_answers), side in zip(names, zip(*pairs, strict=True), strict=True):
            offsets = np.cumsum([0, *(len(conversation.ids) for conversation in side)])
            ids, answers = (np.concatenate(parts) for parts in zip(*side, strict=True))
            columns[of_ids], columns[of_answers] = Ragged(ids, offsets), Ragged(answers.astype("float32"), offsets)
        columns["references"] = np.zeros(shape, "float32")
        data = self.batched(columns, max_target_length=self.max_length, **batching)
        if references is None:
            references = self.evaluate(data, return_rows=True)[1]["log_probabilities"]
        columns["references"][:] = references
        return data

    def _encoded(self, messages, chosen: str, rejected: str, where: str, faults: Faults):
        """Both conversations, each with what of it is the last answer; None for a pair that is too long."""

        def both(messages):
            return [self.tokenizer.chat([*messages, {"role": "assistant", "content": a}]) for a in (chosen, rejected)]

        def longest(messages) -> int:
            return max(len(conversation.ids) for conversation in both(messages))

        messages = fitting(messages, longest, self.max_length)
        if (size := longest(messages)) > self.max_length:
            return faults.add(where, f"{size} tokens are more than max_length {self.max_length}")
        said = both(messages)
        if not all(conversation.answers.any() for conversation in said):
            raise ValueError(f"{where}: {NO_ANSWERS}")
        return [conversation._replace(answers=_last(conversation.answers)) for conversation in said]


def _saved(folder: Path) -> dict:
    """What `Task.save` wrote of the task in a folder; nothing where it wrote none."""
    file = folder / "task.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _last(answers: np.ndarray) -> np.ndarray:
    """The last run of true places alone.

    Example:
        >>> _last(np.array([True, False, True, True, False])).tolist()
        [False, False, True, True, False]
    """
    others = np.flatnonzero(~answers[: np.flatnonzero(answers)[-1]])
    return answers & (np.arange(len(answers)) > others[-1])
