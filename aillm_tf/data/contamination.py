"""Documents that hold what a model will be tested on: runs of 13 words that stand in an evaluation set, too.

Notable here: an evaluation text of 8 to 12 words is looked for as a whole; a shorter one is left alone, for chance
makes it, and is counted. Evaluation texts are cleaned as the corpus is, or their copies in it would look different.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from aillm_tf.data.sources import Uri, read_table
from aillm_tf.text.units import Units, ngrams, split_units

LONGEST, SHORTEST = 13, 8  # words of a run


class Evaluation(NamedTuple):
    """What must not occur in a corpus.

    Args:
        names: of the evaluation sets.
        runs: n -> (runs,) uint64 hashes of n words, ascending.
        owners: n -> (runs,) int32, the evaluation set of each.
        texts: texts looked for, of each set.
        too_short: texts with fewer than eight words, of each set.
    """

    names: list[str]
    runs: dict[int, np.ndarray]
    owners: dict[int, np.ndarray]
    texts: list[int]
    too_short: list[int]

    @property
    def fingerprint(self) -> str:
        """A checksum of what is looked for."""
        digest = hashlib.sha256(repr((self.names, self.texts, self.too_short)).encode())
        for n in sorted(self.runs):
            digest.update(self.runs[n].tobytes() + self.owners[n].tobytes())
        return digest.hexdigest()[:16]


def read_evaluation(uris: Sequence[Uri], cleaners: Iterable[Callable[[str], str]] = ()) -> Evaluation:
    """Read evaluation sets.

    Args:
        uris: sources as `aillm_tf.data.sources.read_table` takes them; every column of strings counts.
        cleaners: applied to every text, one after the other; those of the corpus.

    Returns:
        :class:`Evaluation`.
    """
    names, texts, too_short, cleaners = [], [], [], list(cleaners)
    found: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for number, uri in enumerate(uris):
        table = read_table(uri, errors="replace", on_bad="skip")
        strings = [value for column in table.columns.values() for value in column if isinstance(value, str)]
        for clean in cleaners:
            strings = [clean(text) for text in strings]
        units = split_units(strings)
        names.append(str(uri))
        texts.append(int((units.counts >= SHORTEST).sum()))
        too_short.append(int((units.counts < SHORTEST).sum()))
        for n, at, hashes in ngrams(units, LONGEST, range(SHORTEST, LONGEST + 1)):
            if n < LONGEST:
                hashes = hashes[units.counts[units.document[at]] == n]
            found.setdefault(n, []).append((hashes, np.full(len(hashes), number, np.int32)))
    runs, owners = {}, {}
    for n, parts in found.items():
        hashes, first = np.unique(np.concatenate([hashes for hashes, _ in parts]), return_index=True)
        if len(hashes):
            runs[n], owners[n] = hashes, np.concatenate([owner for _, owner in parts])[first]
    return Evaluation(names, runs, owners, texts, too_short)


def contaminated(units: Units, evaluation: Evaluation) -> np.ndarray:
    """Which evaluation set each document overlaps.

    Args:
        units: the words of the documents.
        evaluation: what `read_evaluation` gave.

    Returns:
        (documents,) int32, the number of the set, -1 for none.

    Reference:
        Brown et al., "Language Models are Few-Shot Learners", 2020, appendix C, https://arxiv.org/abs/2005.14165.
    """
    overlaps = np.full(len(units.starts) - 1, -1, np.int32)
    if not evaluation.runs:
        return overlaps
    for n, at, hashes in ngrams(units, max(evaluation.runs), sorted(evaluation.runs)):
        known = evaluation.runs[n]
        place = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        hit = np.flatnonzero(known[place] == hashes)
        overlaps[units.document[at[hit]]] = evaluation.owners[n][place[hit]]
    return overlaps
