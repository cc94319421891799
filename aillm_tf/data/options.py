"""ClassificationData: what a recipe may say of its data. Light, so that `--help` answers at once."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass
class ClassificationData:
    """Where labelled rows come from, how they are read, cleaned and split."""

    # a csv, tsv, jsonl or txt file (.gz too), tfds:, hf: or pypi: uri, or a mapping from each label to such a source
    train: str | dict[str, str]
    # rows to choose epochs and settings by; without it, validation_rows are taken from train
    validation: str | dict[str, str] | None = None
    # rows for the final score; without it, test_rows are taken from train
    test: str | dict[str, str] | None = None
    # rows (or, below 1, the share of rows) split off train where there is no validation source
    validation_rows: float = 0.1
    # the same for the test rows; 0: no test rows
    test_rows: float = 0
    # use only so many of the remaining rows to train on
    train_rows: int | None = None
    # name or number of the text's column
    text: str = "text"
    # name or number of the label's column
    label: str = "label"
    # name or number of the second text's column, for pairs
    pair: str | None = None
    # the labels in the order of the model's outputs; inferred where not given
    labels: list[str] | None = None
    # a row may have several labels, separated by commas
    multi_label: bool = False
    # an epoch draws as many training rows of every label, those of rare ones several times
    balance: bool = False
    # how to clean training texts: tweets also replaces links and mentions
    clean: Literal["none", "text", "tweets"] = "none"
    # drop exact and near-duplicate rows, and texts with contradictory labels
    deduplicate: bool = False
    # at a bad row: raise, or skip it and count
    on_bad: Literal["raise", "skip"] = "raise"
    # undecodable bytes: strict calls the row bad, replace reads them as U+FFFD
    encoding_errors: Literal["strict", "replace"] = "strict"
