"""From labelled sources to train, validation and test rows that share no text: clean, deduplicate, split."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from aillm_tf.data.options import ClassificationData
from aillm_tf.data.sources import Labelled, labelled
from aillm_tf.text.clean import TWEETS, CleanOptions, clean_rows
from aillm_tf.text.dedup import deduplicate, duplicate_key

logger = logging.getLogger("aillm_tf")

CLEANING = {"none": None, "text": CleanOptions(), "tweets": TWEETS}


@dataclasses.dataclass(frozen=True)
class Splits:
    """Rows for training, validation and testing, and how many fell away, by reason."""

    train: Labelled
    validation: Labelled | None
    test: Labelled | None
    counts: dict[str, int]


def load_splits(options: ClassificationData, seed: int) -> Splits:
    """Read, clean, deduplicate and split.

    Args:
        options: sources and what to do with them.
        seed: of the split.

    Returns:
        The splits; with `deduplicate`, no text of the training rows is, up to case, links and punctuation, also in
        the other two. Only training rows are cleaned: scores are of texts as they will come to a served model.

    Raises:
        ValueError: a bad row, or more rows asked for than there are.
    """
    rows = _read(options, options.train, options.labels)
    counts = {"rows read": len(rows) + len(rows.skipped), "bad rows": len(rows.skipped)}
    if options.deduplicate:
        keys = [tuple(ids) if np.ndim(ids) else int(ids) for ids in rows.label_ids]
        found = deduplicate(_joined(rows), keys, seed=seed)
        rows = rows.take(found.rows)
        counts |= {
            "exact duplicates": found.counts["exact_duplicates"],
            "texts with contradictory labels": found.counts["conflicting"],
            "near-duplicates": found.counts["near_duplicates"],
        }
    counts["rows kept"] = len(rows)
    validation = _read(options, options.validation, rows.labels) if options.validation else None
    test = _read(options, options.test, rows.labels) if options.test else None
    order = np.random.default_rng([seed, 0x5EED]).permutation(len(rows))
    wanted_test = 0 if test else row_count(options.test_rows, len(order))
    wanted_validation = 0 if validation else row_count(options.validation_rows, len(order))
    if wanted_test + wanted_validation >= len(order):
        raise ValueError(
            f"{wanted_test} test rows and {wanted_validation} validation rows leave nothing of {len(order)} to "
            "train on: ask for fewer with data.test_rows and data.validation_rows"
        )
    if wanted_test:
        test = rows.take(order[:wanted_test])
    if wanted_validation:
        validation = rows.take(order[wanted_test : wanted_test + wanted_validation])
    train = rows.take(order[wanted_test + wanted_validation :])
    if options.deduplicate:
        held_out = {duplicate_key(text) for part in (validation, test) if part for text in _joined(part)}
        apart = [i for i, text in enumerate(_joined(train)) if duplicate_key(text) not in held_out]
        counts["training rows that are held out too"] = len(train) - len(apart)
        train = train.take(apart)
    if CLEANING[options.clean] is not None:
        train, counts["training rows empty once cleaned"] = _clean(train, CLEANING[options.clean])
    if options.train_rows is not None:
        if not 0 < options.train_rows <= len(train):
            raise ValueError(f"data.train_rows asks for {options.train_rows} rows, but only {len(train)} are left")
        train = train.take(np.arange(options.train_rows))
    counts |= {"train": len(train), "validation": len(validation or ()), "test": len(test or ())}
    return Splits(train, validation, test, counts)


def _read(options: ClassificationData, source, labels) -> Labelled:
    rows = labelled(
        source,
        text=options.text,
        label=options.label,
        pair=options.pair,
        labels=labels,
        on_bad=options.on_bad,
        multi_label=options.multi_label,
        errors=options.encoding_errors,
    )
    if rows.skipped:
        logger.warning("%d bad rows skipped; the first: %s", len(rows.skipped), rows.skipped[0])
    return rows


def _clean(rows: Labelled, options: CleanOptions) -> tuple[Labelled, int]:
    cleaned = clean_rows(rows.texts, options)
    kept = dataclasses.replace(rows.take(cleaned.rows), texts=cleaned.texts)
    if kept.pairs is not None:
        pairs = clean_rows(kept.pairs, options)
        kept = dataclasses.replace(kept.take(pairs.rows), pairs=pairs.texts)
    return kept, len(rows) - len(kept)


def _joined(rows: Labelled) -> list[str]:
    if rows.pairs is None:
        return rows.texts
    return [f"{text}\n{pair}" for text, pair in zip(rows.texts, rows.pairs, strict=True)]


def row_count(wanted: float, rows: int) -> int:
    """A number of rows, or below 1 a share of them, as a number."""
    if wanted < 0:
        raise ValueError(f"{wanted} rows: give a number from 0, or a share below 1")
    return round(wanted * rows) if 0 < wanted < 1 else int(wanted)
