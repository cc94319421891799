"""Conversational: what tasks share that answer the last message of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from aillm_tf.data.conversations import Conversations, Exchanges, Messages, problem_of, read_conversations
from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.metrics.responses import response_scores, unigram_perplexity
from aillm_tf.tasks.text_scores import TextScores

Asked = str | Sequence[Mapping[str, str]]


class Conversational(TextScores):
    """Part of a `GenerativeTask` whose texts are a user's message, or messages of which the last one is a user's."""

    def check_texts(self, texts: Sequence[Asked]) -> None:
        for text in texts:
            messages_of(text)

    def text_scores(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        return response_scores(written, references)

    def unigram_perplexity(self, train: Dataset, held_out: Dataset) -> float:
        """Perplexity of the answers of `held_out` under the frequencies of tokens in the answers of `train`."""
        rows = self.target_tokenizer.vocab_size
        return unigram_perplexity(_targets(train), _targets(held_out), rows)

    def stream(self, text: Asked, **options) -> Iterator[str]:
        return without_first_spaces(super().stream(text, **options))

    def _texts(self, found, options) -> list[dict]:
        # templates put a space before an answer
        return [{**answer, "text": answer["text"].strip()} for answer in super()._texts(found, options)]

    def signature_answers(self, name: str, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = super().signature_answers(name, outputs)
        texts = [text.decode().strip().encode() for text in outputs["text"]]
        return {**outputs, "text": np.array(texts, dtype=object)}


def messages_of(asked: Asked) -> Messages:
    """What `answer` was asked as messages.

    Raises:
        TypeError: neither a string nor messages.
        ValueError: messages that a user could not have written, or that do not end with a user's.

    Example:
        >>> messages_of("Hi ")
        [{'role': 'user', 'content': 'Hi'}]
    """
    if isinstance(asked, str):
        return [{"role": "user", "content": asked.strip()}]
    if not isinstance(asked, Sequence):
        raise TypeError(f"a conversation is a string, or a list of messages, not {asked!r:.60}")
    problem = problem_of([*asked, {"role": "assistant", "content": "an answer"}])
    if problem:
        raise ValueError(f"a conversation to be answered ends with a user's message: {problem}")
    return [{"role": message["role"], "content": message["content"].strip()} for message in asked]


def fitting(messages: Messages, length: Callable[[Messages], int], room: int) -> Messages:
    """The messages, without the oldest turns where the length is more than there is room for.

    The system's message and the last one always stay.
    """
    first = int(messages[0]["role"] == "system")
    while length(messages) > room and len(messages) > first + 2:
        messages = [*messages[:first], *messages[first + 2 :]]
    return messages


def without_first_spaces(pieces: Iterator[str]) -> Iterator[str]:
    """A text that comes in pieces, without the white space that it begins with.

    Example:
        >>> list(without_first_spaces(iter([" ", " a", " b"])))
        ['a', ' b']
    """
    begun = False
    for piece in pieces:
        piece = piece if begun else piece.lstrip()
        begun = begun or bool(piece)
        if piece:
            yield piece


def stripped(text: tf.Tensor) -> tf.Tensor:
    """What `str.strip` leaves of every string of a tensor."""
    spaces = "".join(f"\\x{{{ord(letter):x}}}" for letter in map(chr, range(0x110000)) if letter.isspace())
    return tf.strings.regex_replace(text, f"^[{spaces}]+|[{spaces}]+$", "")


def read(rows, on_bad: str, encoding_errors: str, decode: int | None):
    """Conversations, read where they are not, and the exchanges that evaluation writes answers for, or None."""
    if not isinstance(rows, Conversations):
        rows = read_conversations(rows, on_bad=on_bad, errors=encoding_errors)
    if decode == 0:
        return rows, None
    exchanges = rows.exchanges()
    return rows, Exchanges(exchanges.sources[:decode], exchanges.references[:decode])


def _targets(data: Dataset) -> np.ndarray:
    """The tokens that a data set gives a loss for."""
    targets, weights = data.columns["targets"].values, data.columns.get("target_weights")
    return targets[weights.values > 0] if isinstance(weights, Ragged) else targets
