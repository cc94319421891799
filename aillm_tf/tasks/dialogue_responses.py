"""DialogueResponses: an encoder reads the conversation, a decoder writes the answer (Roller et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from aillm_tf.data.conversations import Conversations, Messages
from aillm_tf.data.parallel import Parallel
from aillm_tf.data.pipeline import Dataset
from aillm_tf.tasks.base import Task
from aillm_tf.tasks.conversational import Asked, Conversational, fitting, messages_of, read, stripped
from aillm_tf.tasks.generative_graph import GraphTexts
from aillm_tf.tasks.sequence_to_sequence import SequenceToSequence

USER = "user: "


class DialogueResponses(Conversational, SequenceToSequence):
    """An encoder-decoder that answers, scored by perplexity, BLEU and distinct-n of its answers.

    It reads a line for every message, "user: ..." and "assistant: ...", of the newest turns that fit into `max_length`.

    Args:
        config, tokenizer: see `SequenceToSequence`.
        **options: of `SequenceToSequence`, all but `prefix`.

    Raises:
        ValueError: a prefix, and see `SequenceToSequence`.

    Example:
        >>> model = DialogueResponses.from_pretrained("bart-base", max_length=256)  # doctest: +SKIP
        >>> model.answer([[{"role": "user", "content": "Hello"}]], num_beams=4)  # doctest: +SKIP
        [{'text': 'Hi', 'score': -0.02}]

    Reference:
        Roller et al. 2021, Recipes for Building an Open-Domain Chatbot, arXiv:2004.13637.
    """

    def __init__(self, config, tokenizer, **options):
        if options.get("prefix"):
            raise ValueError(f"a conversation is read without a prefix: leave prefix={options['prefix']!r} out")
        super().__init__(config, tokenizer, **options)

    def options(self) -> dict:
        return {name: value for name, value in super().options().items() if name != "prefix"}

    def source_text(self, messages: Messages) -> str:
        """What the encoder reads of a conversation."""

        def text(some: Messages) -> str:
            return "\n".join(f"{message['role']}: {message['content']}" for message in some)

        return text(fitting(messages, lambda some: len(self.tokenizer.encode([text(some)]).ids), self.max_length))

    def features(self, texts: Sequence[Asked], pairs=None) -> dict[str, np.ndarray]:
        return Task.features(self, [self.source_text(messages_of(text)) for text in texts])

    def graph_tokenizer(self) -> tf.Module:
        return GraphMessages(self)

    def dataset(
        self,
        rows: str | Conversations | Sequence[Messages],
        *,
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        decode: int | None = 0,
        **batching,
    ) -> Dataset:
        """Conversations as batches, a row for every answer.

        Args:
            rows: see `aillm_tf.data.conversations.read_conversations`; or conversations read already.
            on_bad: "raise" at a bad conversation, or "skip" it and count.
            encoding_errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.
            decode: to so many of the messages (None: to all) `evaluate` also writes answers and scores them.
            **batching: batch_size, tokens_per_batch, shuffle, seed, fixed_length: see `Task.batched`.

        Raises:
            ValueError: a bad conversation; names the file and line.
        """
        rows, texts = read(rows, on_bad, encoding_errors, decode)
        exchanges = rows.exchanges()
        sources = [self.source_text(messages) for messages in exchanges.sources]
        data = super().dataset(Parallel(sources, exchanges.references, rows.where, []), **batching)
        data.texts = texts
        return data


class GraphMessages(GraphTexts):
    """A user's message to what the encoder reads of it, and ids to an answer, as TensorFlow ops."""

    def __call__(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        return super().__call__(tf.strings.join([USER, stripped(text)]))

    def decode(self, ids: tf.RaggedTensor) -> tf.Tensor:
        return stripped(super().decode(ids))
