"""What a pretraining task learns from: raw texts, or a corpus that `aillm prepare` wrote, as one kind of data set."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable

import numpy as np

from aillm_tf.data.pipeline import Dataset, Ragged
from aillm_tf.data.rows import around, split_rows, texts_of
from aillm_tf.data.shards import is_prepared, open_shards
from aillm_tf.data.words import collocations, spaced_words

logger = logging.getLogger("aillm_tf")


def text_columns(
    tokenizer, rows: str | Iterable[str], max_length: int, *, words: str = "pieces", shortest: int = 1, **reading
) -> dict[str, Ragged]:
    """Texts as columns of a `Dataset`; a text longer than `max_length` becomes several rows.

    Args:
        tokenizer: of the model.
        rows: see `aillm_tf.data.rows.texts_of`, as `reading`.
        max_length: tokens of a row.
        words: see `MaskedLM.dataset`; other than "pieces" adds the column "continues".
        shortest: rows with fewer tokens of the text than this are left out; the log says how many.

    Returns:
        {"token_ids"} and, where asked for, {"continues"}.

    Raises:
        ValueError: a bad row, no row, or no such kind of words.
    """
    texts = texts_of(rows, **reading)
    continues = None
    if words == "spaces":
        ids, offsets, continues = spaced_words(texts, tokenizer)
    elif words in ("pieces", "collocations"):
        encoded = tokenizer.encode(texts)
        ids, offsets = encoded.ids, encoded.offsets
        if words == "collocations":
            continues = collocations(ids, offsets, tokenizer)
    else:
        raise ValueError(f'words is "pieces", "spaces" or "collocations", not {words!r}')
    before, after = map(len, around(tokenizer))
    where, offsets = split_rows(offsets, max_length, before, after)
    counts = np.diff(offsets)
    kept = counts >= before + after + shortest
    if not kept.all():
        logger.warning("%d of %d rows are left out: fewer than %d tokens", (~kept).sum(), len(kept), shortest)
    where, offsets = where[np.repeat(kept, counts)], np.concatenate([[0], np.cumsum(counts[kept])])
    columns = {"token_ids": Ragged(ids[where], offsets)}
    if continues is not None:
        columns["continues"] = Ragged(continues[where], offsets)
    return columns


def corpus(
    task,
    rows: str | Iterable[str],
    reading: dict,
    *,
    noise: Callable,
    noise_name: str,
    keep: tuple | None = None,
    **batching,
) -> Dataset:
    """The data of a pretraining task.

    Args:
        task: whose `tokenizer`, `max_length` and `batched` count.
        rows: texts, a source of texts, or a folder that `aillm prepare` wrote.
        reading: of `text_columns`.
        noise, noise_name: of `Dataset`.
        keep: columns of a prepared folder that the task uses; None: all.
        **batching: see `Task.batched`.
    """
    if is_prepared(rows):
        if reading.get("words", "pieces") != "pieces":
            raise ValueError(f'{rows} holds tokens, not texts: words other than "pieces" are found in texts only')
        batching.pop("fixed_length", None)  # its rows have one length
        return open_shards(
            rows,
            tokenizer=task.tokenizer,
            max_length=task.max_length,
            keep=keep,
            noise=noise,
            noise_name=noise_name,
            on_bad=reading.get("on_bad", "raise"),
            **batching,
        )
    columns = text_columns(task.tokenizer, rows, task.max_length, **reading)
    return task.batched(columns, noise=noise, noise_name=noise_name, **batching)


def sentence_rows(
    tokenizer, rows: str | Iterable[str], room: int, ends: np.ndarray, **reading
) -> tuple[Ragged, np.ndarray]:
    """Rows of whole sentences of one text, at most `room` tokens without special ones, and the number of the text.

    A sentence longer than a row, and what stands after the last end of a sentence, is left out.

    Args:
        tokenizer: of the model.
        rows: texts, a source of texts, or a folder that `aillm prepare` wrote, which is read into memory.
        room: tokens of a row.
        ends: (vocabulary,) bool, see `aillm_tf.data.rows.sentence_ends`.
        **reading: of `aillm_tf.data.rows.texts_of`.

    Returns:
        The rows, and (rows,) int64.
    """
    if is_prepared(rows):
        ids, documents = open_shards(rows, tokenizer=tokenizer, on_bad=reading.get("on_bad", "raise")).segments()
    else:
        encoded = tokenizer.encode(texts_of(rows, **reading))
        ids, documents = encoded.ids, encoded.offsets
    # no text becomes one of these tokens
    inside = ~np.isin(ids, np.concatenate(around(tokenizer)))
    ids, documents = ids[inside], np.concatenate([[0], np.cumsum(inside)])[documents]
    stops = sentence_stops(ids, documents, ends)
    starts, counts, of = [], [], []
    for number, (begin, end) in enumerate(itertools.pairwise(documents)):
        own = stops[np.searchsorted(stops, begin, "right") : np.searchsorted(stops, end, "right")]
        while len(own) and begin < end:
            fits = np.searchsorted(own, begin + room, "right")
            if fits:
                starts.append(begin)
                counts.append(own[fits - 1] - begin)
                of.append(number)
            begin, own = own[max(fits - 1, 0)], own[max(fits, 1) :]
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    where = np.repeat(np.array(starts, np.int64) - offsets[:-1], counts) + np.arange(offsets[-1])
    return Ragged(ids[where], offsets), np.array(of, np.int64)


def sentence_stops(ids: np.ndarray, offsets: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The places after the last token of every sentence, ascending; of several ends in a row, the last one counts.

    Args:
        ids: (tokens,) of all rows.
        offsets: (rows + 1,); a sentence does not go beyond its row.
        ends: (vocabulary,) bool.
    """
    end = ends[ids]
    goes_on = np.append(end[1:], False)
    goes_on[offsets[(offsets > 0) & (offsets <= len(ids))] - 1] = False
    return np.flatnonzero(end & ~goes_on) + 1
