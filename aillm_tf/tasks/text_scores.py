"""TextScores: what tasks share that are scored by the texts they write."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from aillm_tf.data.pipeline import Dataset
from aillm_tf.metrics.bootstrap import Tally
from aillm_tf.training.loop import watched


class TextScores:
    """Part of a `GenerativeTask` whose data sets may keep the texts that they were made of (`Dataset.texts`)."""

    def text_scores(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        """What the field's metrics say of written texts, each with its references."""
        return {}

    def text_tally(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> Tally | None:
        """The same, a text at a time; None where there is no such metric."""
        return None

    def tallies(self, rows: dict, x: Dataset) -> list[Tally]:
        of_texts = self.text_tally(rows["written"], x.texts.references) if "written" in rows else None
        return [*super().tallies(rows, x), *([] if of_texts is None else [of_texts])]

    def write(self, texts: Sequence[str], *, batch_size: int = 64, verbose="auto", **options) -> list[str]:
        """The texts alone of `answer`, with a progress bar.

        Args:
            texts: sources.
            batch_size: how many are read at once.
            verbose: 0 for no progress bar.
            **options: of `GenerationOptions`.
        """
        # similar lengths together, so that little padding is computed
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        written = [""] * len(texts)
        bar = keras.utils.Progbar(len(texts), verbose=int(verbose != 0 and watched()), unit_name="text")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            answers = self.answer([texts[i] for i in rows], batch_size, **options)
            for row, answer in zip(rows, answers, strict=True):
                written[row] = answer["text"]
            bar.update(start + len(rows))
        return written

    def evaluate(self, x: Dataset, *, verbose="auto", return_rows: bool = False):
        """See `Task.evaluate`; texts that the data was made with `decode` for are written and scored, too."""
        scores, rows = super().evaluate(x, verbose=verbose, return_rows=True)
        if x.texts is not None:
            with self.averaged():
                written = self.write(x.texts.sources, verbose=verbose)
            scores |= self.text_scores(written, x.texts.references)
            rows["written"] = written
        return (scores, rows) if return_rows else scores
