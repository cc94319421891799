"""ChatSession: a conversation with a model. The session holds the history, the model holds nothing.

Notable here: the cache of a turn is kept for the next one, in which only what is new is read. A turn is still asked as
the whole conversation, so its answer is the one that a fresh session with the same history gives; where older turns
have to be left out, or a template writes them anew, the cache is good up to the first token that differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from aillm_tf.data.conversations import Messages
from aillm_tf.generation.loop import State
from aillm_tf.generation.stream import stream_text
from aillm_tf.tasks.conversational import messages_of, without_first_spaces


class ChatSession:
    """A conversation that goes on turn by turn.

    Args:
        task: a `Dialogue` or `DialogueResponses`.
        system: what the system says before all else; None: nothing.
        messages: turns of user and assistant so far.

    Attributes:
        messages: turns of user and assistant so far.

    Raises:
        ValueError: `messages` do not end with an assistant's.

    Example:
        >>> session = ChatSession(model, system="Be brief.")  # doctest: +SKIP
        >>> session.answer("What is the capital of France?")  # doctest: +SKIP
        'Paris.'
        >>> for piece in session.stream("And of Spain?"):  # doctest: +SKIP
        ...     print(piece, end="")
    """

    def __init__(self, task, *, system: str | None = None, messages: Sequence[dict[str, str]] = ()):
        self._task, self._past = task, None
        self._system: Messages = [] if system is None else [{"role": "system", "content": system}]
        self.messages: Messages = list(messages)
        self._asked("a question")  # refuses messages that nothing can follow

    def answer(self, text: str, **options) -> str:
        """The answer to the user's next message.

        Args:
            text: the message.
            **options: of `GenerationOptions`, in place of the task's own.

        Raises:
            ValueError: an empty message.
        """
        return "".join(self.stream(text, **options)).strip()

    def stream(self, text: str, **options) -> Iterator[str]:
        """The answer piece by piece, in whole characters; a beam search's at once.

        Where the caller closes the stream, what was said until then is the answer. Where nothing was said, the history
        stays as it was.

        Args, Raises:
            see `answer`.
        """
        asked = self._asked(text)
        options["num_return_sequences"] = 1
        chosen = self._task.generation_options(**options)
        pieces = self._pieces(asked, chosen) if chosen.strategy == "sample" else self._whole(asked, options)
        said = ""
        try:
            for piece in without_first_spaces(pieces):
                said += piece
                yield piece
        finally:
            pieces.close()
            if said.strip():
                self.messages += [asked[-1], {"role": "assistant", "content": said.strip()}]

    def reset(self) -> None:
        """Forget all turns; the system's message stays."""
        self.messages, self._past = [], None

    def _asked(self, text: str) -> Messages:
        return messages_of([*self._system, *self.messages, {"role": "user", "content": text}])

    def _whole(self, asked: Messages, options: dict) -> Iterator[str]:
        yield self._task.answer([asked], **options)[0]["text"]

    def _pieces(self, asked: Messages, options) -> Iterator[str]:
        prompts, source = self._task.host_prompts([asked], options)
        ids = self._ids(prompts, source, options)
        yield from stream_text(ids, self._task.target_tokenizer, options.stop_ids, options.stop_strings)

    def _ids(self, prompts, source, options) -> Iterator[int]:
        generator = self._task.generator
        known = source is None and generator.draft is None  # what goes on from an earlier turn
        past, before = self._past if known else None, 0
        state: State | None = None
        while state is None or not bool(state.done[0]):
            with self._task.inference_precision():  # not while the caller has the word
                if state is None:
                    state, _ = generator.start(prompts, options, source=source, past=past)
                else:
                    state = generator.advance(state, options, 1)
            self._past = state if known else None
            count, length = int(state.history.count[0]), int(state.history.length[0])
            yield from state.history.tokens[0, length - count + before : length].numpy().tolist()
            before = count
