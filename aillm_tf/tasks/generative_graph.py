"""Texts to the ids that a `GenerativeTask` goes on from or reads, on the host and, identically, as TensorFlow ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from aillm_tf.data.rows import around
from aillm_tf.models.encoder_decoder import EncoderDecoder

if TYPE_CHECKING:
    from aillm_tf.tasks.generative import GenerativeTask


def open_rows(tokenizer, texts: Sequence[str], max_length: int | None = None) -> list[np.ndarray]:
    """Ids of every text without what the tokenizer puts after it, which would end the text before it goes on.

    Args:
        tokenizer: strings to ids.
        texts: at least one.
        max_length: tokens of a row at most, those that are left out included.
    """
    encoded, after = tokenizer.encode(texts, max_length=max_length), len(around(tokenizer)[1])
    return [row[: len(row) - after] for row in np.split(encoded.ids, encoded.offsets[1:-1])]


def filled_rows(rows: Sequence[np.ndarray], pad_id: int) -> np.ndarray:
    """(rows, longest) int32: rows of ids, filled up at their ends."""
    longest = max(map(len, rows))
    filled = [np.pad(row, (0, longest - len(row)), constant_values=pad_id) for row in rows]
    return np.array(filled, "int32").reshape(len(rows), longest)


class GraphTexts(tf.Module):
    """A task's texts to ids as its `features` has them, and ids to texts, as TensorFlow ops."""

    def __init__(self, task: GenerativeTask):
        super().__init__()
        from aillm_tf.text.graph import graph_tokenizer

        same = task.target_tokenizer is task.tokenizer
        self._source, self._prefix = graph_tokenizer(task.tokenizer, task.max_length), task.prefix
        self._target = self._source if same else graph_tokenizer(task.target_tokenizer, task.max_length)
        self._goes_on, self._pad = not isinstance(task.backbone, EncoderDecoder), task.tokenizer.pad_id
        self._before, after = around(task.tokenizer)
        self._room = task.read_length and task.read_length - len(self._before) - len(after)

    def __call__(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        text = tf.strings.join([self._prefix, text]) if self._prefix else text
        if not self._goes_on:
            return self._source(text)
        before = tf.tile(tf.constant(self._before, tf.int32, (1, len(self._before))), [tf.size(text), 1])
        rows = tf.concat([before, self._source.tokens(text)[:, : self._room]], axis=1)
        ids = rows.to_tensor(self._pad)
        return {"token_ids": ids, "segment_ids": tf.zeros_like(ids), "lengths": tf.cast(rows.row_lengths(), tf.int32)}

    def decode(self, ids: tf.RaggedTensor) -> tf.Tensor:
        return self._target.decode(ids)
