"""Preferences: a question, the answer that was preferred and the one that was not, from jsonl and its like."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aillm_tf.data.conversations import Messages, problem_of
from aillm_tf.data.sources import OnBad, Uri, open_source
from aillm_tf.data.tables import Bad, Faults, listing


class Preferences(NamedTuple):
    """Pairs of conversations that differ in their last answer.

    Attributes:
        messages: what both begin with; the last message is a user's.
        chosen, rejected: the answers.
        where: where each pair came from, "pairs.jsonl:1".
        skipped: one reason, with its place, for each pair that was skipped.
    """

    messages: list[Messages]
    chosen: list[str]
    rejected: list[str]
    where: list[str]
    skipped: list[str]


def read_preferences(
    uri: Uri | Iterable[Mapping[str, Any]], *, on_bad: OnBad = "raise", encoding: str = "utf-8", errors: str = "strict"
) -> Preferences:
    """Read preference pairs.

    Args:
        uri: a source as :func:`~aillm_tf.data.sources.read_table` takes it, or rows; each has "chosen" and "rejected",
            texts, and "prompt", a user's message, or "messages", a conversation that ends with one.
        on_bad: "raise" at the first bad pair, or "skip" it and keep the reason in ``Preferences.skipped``.
        encoding, errors: of text files; see `read_table`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a bad pair (with ``on_bad="raise"``), or no pair at all.

    Example:
        >>> read_preferences([{"prompt": "Hi", "chosen": "Hello", "rejected": "What?"}]).chosen
        ['Hello']
    """
    if isinstance(uri, str | os.PathLike):
        source = open_source(uri, None, encoding, errors)
        prefix, rows = source.prefix, source.rows
    else:
        prefix, rows = "pair ", enumerate(uri, 1)
    faults, found = Faults(on_bad), []
    for line, row in rows:
        place = f"{prefix}{line}"
        messages, problem = _pair(row)
        if problem:
            faults.add(place, problem)
            continue
        found.append((messages, row["chosen"].strip(), row["rejected"].strip(), place))
    if not found:
        shown = uri if isinstance(uri, str | os.PathLike) else "the pairs"
        raise ValueError(f"{shown}: no usable pair of answers{faults.first_skipped}")
    return Preferences(*map(list, zip(*found, strict=True)), faults.skipped)


def _pair(row: Mapping | Bad) -> tuple[Messages, str | None]:
    """The messages of a row, and what is wrong with it."""
    if isinstance(row, Bad):
        return [], row.reason
    if not isinstance(row, Mapping) or not {"chosen", "rejected"} <= set(row) or {"prompt", "messages"}.isdisjoint(row):
        return [], f'a pair has "prompt" or "messages", "chosen" and "rejected", not {listing(row)}'
    messages = row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}]
    if not isinstance(messages, list):
        return [], f'"messages" is {messages!r:.60}, not a list'
    for name in ("chosen", "rejected"):
        problem = problem_of([*messages, {"role": "assistant", "content": row[name]}])
        if problem:
            return [], f"with the {name} answer, {problem}"
    if row["chosen"].strip() == row["rejected"].strip():
        return [], "both answers are the same"
    return [{"role": m["role"], "content": m["content"].strip()} for m in messages], None
