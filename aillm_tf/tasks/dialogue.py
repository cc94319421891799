"""Dialogue: a decoder that answers in conversations (Radford et al. 2019; Zhang et al. 2020, arXiv:1911.00536).

Notable here:
- A conversation is read as the tokenizer's chat template writes it, or a plain one where it has none; the loss is on
  what the assistant said, with the token that ends it, and on nothing else.
- Several conversations may share a row; none of them sees another.
- A conversation longer than a row becomes several rows, in which every answer is learned once.
- Before an answer the oldest turns are left out where there is no room for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from aillm_tf.data.conversations import Conversations, Messages
from aillm_tf.data.next_tokens import packed, windows
from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.rows import around
from aillm_tf.generation.options import GenerationOptions
from aillm_tf.tasks.causal_lm import CausalLM
from aillm_tf.tasks.conversational import Asked, Conversational, fitting, messages_of, read, stripped
from aillm_tf.tasks.generative_graph import filled_rows
from aillm_tf.text.chat import behind_special, frame, with_template

PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
NO_ANSWERS = "the chat template does not tell answers from the rest"


class Dialogue(Conversational, CausalLM):
    """A decoder that answers, scored by perplexity, BLEU and distinct-n of its answers.

    Args:
        config, tokenizer: of a decoder; the tokenizer needs an end token, or a chat template that ends answers with a
            special token.
        max_length: tokens of a row in training, and of a conversation with its answer; None: what the model was made
            for, at most 1024.
        max_target_length: tokens of an answer, end token included.
        **options: of `CausalLM`.

    Raises:
        ValueError: answers would have no end, or there is no room for a message.

    Example:
        >>> model = Dialogue.from_pretrained("runs/dialogue/model")  # doctest: +SKIP
        >>> model.answer(["Hello"])  # doctest: +SKIP
        [{'text': 'Hi', 'score': -0.02}]
        >>> model.answer([[{"role": "user", "content": "Hello"}]], temperature=0.7)  # doctest: +SKIP
    """

    def __init__(
        self,
        config,
        tokenizer,
        *,
        max_target_length: int = 128,
        generation: GenerationOptions | Mapping | None = None,
        **options,
    ):
        tokenizer = with_template(tokenizer)
        said = tokenizer.chat(PROBE)
        last = said.ids[said.answers][-1:]
        if not len(last) or last[0] not in tokenizer.structural_ids:
            raise ValueError(
                "no special token ends an answer, so none would ever end: the tokenizer needs an end token, or another "
                "chat template"
            )
        self.turn_end, self.max_target_length = int(last[0]), max_target_length
        if not isinstance(generation, GenerationOptions):
            generation = {"max_new_tokens": max_target_length, **(generation or {})}
        super().__init__(config, tokenizer, generation=generation, **options)
        self.room = self.max_length - max_target_length
        asked = self.tokenizer.chat(PROBE[:1], add_generation_prompt=True).ids
        if self.room < len(asked):
            raise ValueError(
                f"max_length {self.max_length} leaves {self.room} tokens for a conversation beside {max_target_length} "
                f"of the answer: even one letter takes {len(asked)} with what stands around it"
            )
        # the end token may be the padding, too, and DialoGPT's prompts end with it
        self._ending = len(asked) - 1 - int(np.flatnonzero(asked != self.tokenizer.pad_id)[-1])

    def options(self) -> dict:
        options = {**super().options(), "max_target_length": self.max_target_length}
        options["generation"]["max_new_tokens"] = self.generation.max_new_tokens
        return options

    def generation_options(self, **changes) -> GenerationOptions:
        options = super().generation_options(**changes)
        if "stop_ids" in changes or self.turn_end in options.stop_ids:
            return options
        return options.replace(stop_ids=(*options.stop_ids, self.turn_end))

    # What it goes on from -------------------------------------------------------------------------------------

    def prompt_ids(self, messages: Messages) -> np.ndarray:
        """A conversation up to where the answer begins, at most `room` tokens.

        Args:
            messages: the last one is a user's. The oldest turns are left out where there is no room for them; a single
                message that is too long loses its end.

        Raises:
            ValueError: the system's message alone leaves no room.
        """

        def asked(messages: Messages) -> np.ndarray:
            return self.tokenizer.chat(messages, add_generation_prompt=True).ids

        messages = fitting(messages, lambda some: len(asked(some)), self.room)
        ids = asked(messages)
        if len(ids) <= self.room:
            return ids
        around_it = frame(self.tokenizer)
        end = [*around_it.tail_ids, *around_it.after]
        if len(asked([*messages[:-1], {"role": "user", "content": ""}])) > self.room:
            raise ValueError(
                f"the message of the system leaves no room for a user's within {self.room} tokens: shorten it, or "
                "allow a larger max_length"
            )
        return np.concatenate([ids[: self.room - len(end)], end]).astype("int32")

    def features(self, texts: Sequence[Asked], pairs=None) -> dict[str, np.ndarray]:
        rows = [self.prompt_ids(messages_of(text)) for text in texts]
        ids = filled_rows(rows, self.tokenizer.pad_id)
        return {"token_ids": ids, "segment_ids": np.zeros_like(ids)}

    def graph_tokenizer(self) -> tf.Module:
        return GraphChat(self.tokenizer, self.room)

    def prompts(self, features: dict, options: GenerationOptions) -> tuple[tf.Tensor, tf.Tensor, dict | None]:
        ids = features["token_ids"]
        places = tf.range(1, tf.shape(ids)[1] + 1)[None]
        last = tf.reduce_max(tf.where(ids != self.tokenizer.pad_id, places, 0), axis=1)
        return ids, last + self._ending, None

    # Data -------------------------------------------------------------------------------------------------------

    def dataset(
        self,
        rows: str | Conversations | Sequence[Messages],
        *,
        pack: bool = False,
        on_bad: str = "raise",
        encoding_errors: str = "strict",
        decode: int | None = 0,
        **batching,
    ) -> Dataset:
        """Conversations as batches; every answer is learned once.

        Args:
            rows: see `aillm_tf.data.conversations.read_conversations`; or conversations read already.
            pack: several conversations in a row.
            on_bad: "raise" at a bad conversation, or "skip" it and count.
            encoding_errors: "replace" reads undecodable bytes as U+FFFD instead of calling the row bad.
            decode: to so many of the messages (None: to all) `evaluate` also writes answers and scores them.
            **batching: batch_size, tokens_per_batch, shuffle, seed, fixed_length: see `Task.batched`.

        Returns:
            A `Dataset`; `evaluate` gives loss, accuracy and perplexity of the answers' tokens.

        Raises:
            ValueError: a bad conversation, or one whose template does not say what are answers; names file and line.
        """
        rows, texts = read(rows, on_bad, encoding_errors, decode)
        said = [self.tokenizer.chat(messages) for messages in rows.messages]
        for number, conversation in enumerate(said):
            if not conversation.answers.any():
                raise ValueError(f"{rows.where(number)}: {NO_ANSWERS}")
        offsets = np.cumsum([0, *(len(conversation.ids) for conversation in said)])
        ids, answers = (np.concatenate(parts) for parts in zip(*said, strict=True))
        places, _ = windows(np.arange(len(ids)), offsets, self.max_length, stride=max(1, self.max_length // 2))
        (at, starts), targets = places["token_ids"], places["targets"].values
        columns = {
            "token_ids": Ragged(ids[at], starts),
            "targets": Ragged(ids[targets], starts),
            "target_weights": Ragged(places["target_weights"].values * answers[targets], starts),
        }
        if pack:
            columns = packed(columns, self.max_length)
            if batching.get("fixed_length") is None:
                batching["fixed_length"] = True
        data = self.batched(columns, **batching)
        data.texts = texts
        return data


class GraphChat(tf.Module):
    """A user's message to the ids of a conversation that begins with it, and ids to an answer, as TensorFlow ops.

    Args:
        tokenizer: with a chat template.
        room: tokens of a conversation.
    """

    def __init__(self, tokenizer, room: int):
        super().__init__()
        from aillm_tf.text.graph import graph_tokenizer

        self._frame, self._pad = frame(tokenizer), tokenizer.pad_id
        if self._frame.before:
            tokenizer = behind_special(tokenizer)
        before, after = around(tokenizer)
        self._first = len(before)
        # an end token may be the padding, too
        self._others = sum(index != self._pad for index in before + after)
        self._room = room - len(self._frame.before) - len(self._frame.after)
        # with a token more than there is room for, so that what is too long is seen
        self._graph = graph_tokenizer(tokenizer, self._room + len(before) + len(after) + 1)

    def __call__(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        ids = self._graph(tf.strings.join([self._frame.lead, stripped(text), self._frame.tail]))["token_ids"]
        inside = tf.reduce_sum(tf.cast(ids != self._pad, tf.int32), axis=1) - self._others
        ids, cut = ids[:, self._first :], inside > self._room
        kept = tf.where(cut, self._room - len(self._frame.tail_ids), inside)
        parts = [
            self._each(self._frame.before, cut | ~cut),
            tf.RaggedTensor.from_tensor(ids, lengths=kept),
            self._each(self._frame.tail_ids, cut),
            self._each(self._frame.after, cut | ~cut),
        ]
        whole = tf.concat(parts, axis=1).to_tensor(self._pad)
        return {"token_ids": whole, "segment_ids": tf.zeros_like(whole)}

    @staticmethod
    def _each(ids: list[int], rows: tf.Tensor) -> tf.RaggedTensor:
        """These ids in the rows that are true, nothing in the others."""
        whole = tf.tile(tf.constant(ids, tf.int32, (1, len(ids))), [tf.size(rows), 1])
        return tf.RaggedTensor.from_tensor(whole, lengths=tf.where(rows, len(ids), 0))

    def decode(self, ids: tf.RaggedTensor) -> tf.Tensor:
        return stripped(self._graph.decode(ids))
