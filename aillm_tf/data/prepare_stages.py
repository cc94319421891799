"""What happens to a batch of documents before any is compared with another: a pure function, so any process may do it.

Clean, judge, look for evaluation texts, hash. The same documents give the same answer in any process and any order.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aillm_tf.data.contamination import Evaluation, contaminated
from aillm_tf.data.prepare_options import PrepareOptions
from aillm_tf.text.clean import DOCUMENT_STAGES, drop_markup, normalise
from aillm_tf.text.minhash import bands, shingles
from aillm_tf.text.quality import QualityRules, judge
from aillm_tf.text.units import Units, split_units

EXAMPLES = 3  # kept of each kind
_SHOWN = 160  # characters of an example


@dataclasses.dataclass
class Batch:
    """Documents after the first stages.

    Args:
        text: the documents that stay, as UTF-8, end to end.
        sizes: (kept,) int64 bytes of each.
        rows: (kept,) int64 which of the documents given each is.
        keys: (kept, 2) uint64, equal for documents of the same words.
        bands: (kept, bands) uint64, see `aillm_tf.text.minhash`; no bands without a similarity.
        counts: (stage, what) -> number.
        examples: (stage, what) -> (row, text before, text after or ""), a few.
    """

    text: bytes
    sizes: np.ndarray
    rows: np.ndarray
    keys: np.ndarray
    bands: np.ndarray
    counts: Counter
    examples: dict[tuple[str, str], list[tuple[int, str, str]]]


@dataclasses.dataclass(frozen=True)
class Stages:
    """The first stages with their options.

    Args:
        options: of the corpus.
        evaluation: texts that must not occur; None: none.
    """

    options: PrepareOptions
    evaluation: Evaluation | None = None

    def cleaners(self) -> dict[str, Callable[[str], str]]:
        """Name -> pure function of a text, in the order in which they are applied."""
        stages = dict(DOCUMENT_STAGES)
        stages["normalise"] = functools.partial(normalise, form=self.options.unicode_form)
        if not self.options.markup:
            stages = {name: stage for name, stage in stages.items() if stage is not drop_markup}
        if self.options.drop:
            stages = {"drop": functools.partial(re.compile(self.options.drop).sub, ""), **stages}
        return stages

    def __call__(self, texts: Sequence[str]) -> Batch:
        """Take a batch of documents through the stages."""
        counts, examples = Counter({("read", "documents"): len(texts)}), {}
        counts["read", "bytes"] = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        rows = np.arange(len(texts))
        for name, stage in self.cleaners().items():
            cleaned = [stage(text) for text in texts]
            changed = [row for row, (old, new) in enumerate(zip(texts, cleaned, strict=True)) if old != new]
            counts[name, "changed"] += len(changed)
            counts[name, "characters"] += sum(len(texts[row]) - len(cleaned[row]) for row in changed)
            for row in changed[:EXAMPLES]:
                examples.setdefault((name, "changed"), []).append((row, *_difference(texts[row], cleaned[row])))
            texts = cleaned
        units = split_units(texts)
        options = self.options
        rules = QualityRules(options.min_words, options.max_words, options.languages, options.quality == "gopher")
        reasons, languages = judge(texts, units, rules)
        stage_of = ["quality"] * len(texts)
        if self.evaluation is not None:
            for row, number in enumerate(contaminated(units, self.evaluation)):
                if number >= 0 and reasons[row] is None:
                    reasons[row], stage_of[row] = self.evaluation.names[number], "contamination"
        for row, text in enumerate(texts):
            if not text:
                reasons[row] = "nothing is left"
            if reasons[row] is not None:
                what = (stage_of[row], reasons[row])
                counts[what] += 1
                if len(examples.setdefault(what, [])) < EXAMPLES:
                    examples[what].append((row, shown(text), ""))
        rows = np.array([row for row, reason in enumerate(reasons) if reason is None], np.int64)
        kept = [texts[row].encode("utf-8", "surrogatepass") for row in rows]
        counts.update(("language", str(language)) for language in languages[rows])
        hashes, starts = shingles(units)
        found = np.zeros((len(texts), 0), np.uint64)
        if options.similarity:
            found = bands(hashes, starts, options.similarity, options.seed)
        return Batch(
            b"".join(kept),
            np.array([len(text) for text in kept], np.int64),
            rows,
            _keys(units, texts, rows),
            found[rows],
            counts,
            examples,
        )


def shown(text: str) -> str:
    """The beginning of a text, on one line, for a report."""
    line = " ".join(text[: 2 * _SHOWN].split())
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 1]}…"


def _difference(before: str, after: str) -> tuple[str, str]:
    """Both texts around the first place where they differ."""
    equal = [old == new for old, new in zip(before, after, strict=False)]
    start = max(0, [*equal, False].index(False) - _SHOWN // 4)
    return tuple(repr(text[start : start + _SHOWN // 2])[1:-1] for text in (before, after))


def _keys(units: Units, texts: Sequence[str], rows: np.ndarray) -> np.ndarray:
    keys = np.empty((len(rows), 2), np.uint64)
    for place, row in enumerate(rows):
        words = units.hashes[units.first[row] : units.first[row + 1]].tobytes()
        digest = hashlib.blake2b(words or texts[row].encode("utf-8", "surrogatepass"), digest_size=16)
        keys[place] = np.frombuffer(digest.digest(), "<u8")
    return keys


def plain(counter: Counter | dict[tuple[str, str], Any]) -> dict[str, dict[str, Any]]:
    """(stage, what) -> value as nested dicts, which JSON can hold."""
    nested: dict[str, dict[str, Any]] = {}
    for (stage, what), value in counter.items():
        nested.setdefault(stage, {})[what] = value
    return nested
