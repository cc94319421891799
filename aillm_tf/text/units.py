"""The words of many documents at once, as arrays: what quality rules, duplicates and contamination are counted on.

Notable here:
- A word is a run of letters, digits and marks, in lower case; punctuation and spaces only separate words. In scripts
  that are written without spaces (Chinese, Japanese, Thai, ...) every character is a word.
- All words of a batch are hashed by one prefix sum: no Python loop over words or characters.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

SPACE, WORD, LETTER, ALONE, PUNCTUATION = 1, 2, 4, 8, 16  # bits of `Tables.kind`
# Where Unicode ends for the tables: above are private use, tags and what is not assigned yet.
_TOP = 0x323B0
_UNSPACED = ((0xE00, 0xEFF), (0xF00, 0xFFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007))
_UNSPACED += ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF))
_UNSPACED += ((0xFF66, 0xFF9F), (0x1B000, 0x1B16F), (0x20000, _TOP - 1))
SCRIPTS = {
    "Latin": ((0x41, 0x5A), (0x61, 0x7A), (0xAA, 0x24F), (0x1E00, 0x1EFF), (0xFF21, 0xFF5A)),
    "Han": ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
            (0x20000, _TOP - 1)),
    "Kana": ((0x3040, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F)),
    "Hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xA960, 0xA97F), (0xAC00, 0xD7FF)),
    "Cyrillic": ((0x400, 0x52F), (0x1C80, 0x1C8F), (0x2DE0, 0x2DFF), (0xA640, 0xA69F)),
    "Greek": ((0x370, 0x3FF), (0x1F00, 0x1FFF)),
    "Arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFE)),
    "Hebrew": ((0x590, 0x5FF), (0xFB1D, 0xFB4F)),
    "Devanagari": ((0x900, 0x97F), (0xA8E0, 0xA8FF)),
    "Bengali": ((0x980, 0x9FF),),
    "Tamil": ((0xB80, 0xBFF),),
    "Thai": ((0xE00, 0xE7F),),
    "Georgian": ((0x10A0, 0x10FF), (0x1C90, 0x1CBF), (0x2D00, 0x2D2F)),
    "Armenian": ((0x530, 0x58F),),
}  # fmt: skip
_BASE, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Tables(NamedTuple):
    """What a character is, by code point."""

    kind: np.ndarray  # uint8, bits SPACE, WORD, LETTER, ALONE, PUNCTUATION
    script: np.ndarray  # uint8, 1 + the place in SCRIPTS, 0 for none of them
    value: np.ndarray  # uint64, a random number for each lower-case character


class Units(NamedTuple):
    """Words of documents set one after the other, with a line end after each.

    Args:
        codes: (characters,) int64 code points, at most the last of the tables.
        starts: (documents + 1,) int64, the first character of each document.
        begin, end: (words,) int64, the characters of each word.
        hashes: (words,) uint64.
        document: (words,) int64, the document of each word, ascending.
        first: (documents + 1,) int64, the first word of each document.
        prefix: (characters + 1,) uint64, running sums from which `span_hashes` reads the hash of any stretch.
    """

    codes: np.ndarray
    starts: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    hashes: np.ndarray
    document: np.ndarray
    first: np.ndarray
    prefix: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """(documents,) int64 words."""
        return np.diff(self.first)


@functools.cache
def tables() -> Tables:
    """The tables of all characters, made once a process."""
    kind, lower = np.zeros(_TOP, np.uint8), np.arange(_TOP, dtype=np.uint64)
    for code in range(_TOP):
        character = chr(code)
        category = unicodedata.category(character)[0]
        letter = category in "LM"
        if letter or category == "N" or character == "_":
            kind[code] = WORD | LETTER * letter
            small = character.lower()
            lower[code] = ord(small) if len(small) == 1 else code
        elif character.isspace():
            kind[code] = SPACE
        elif category == "P":
            kind[code] = PUNCTUATION
    wide = np.arange(0xFF01, 0xFF5F)  # full-width forms of ASCII
    lower[wide] = lower[wide - 0xFEE0]
    for low, high in _UNSPACED:
        alone = slice(low, high + 1)
        kind[alone] |= np.where(kind[alone] & WORD, ALONE, 0).astype(np.uint8)
    script = np.zeros(_TOP, np.uint8)
    for number, ranges in enumerate(SCRIPTS.values(), 1):
        for low, high in ranges:
            script[low : high + 1] = number
    return Tables(kind, np.where(kind & LETTER, script, 0).astype(np.uint8), mix(lower + np.uint64(1)))


def mix(values: np.ndarray) -> np.ndarray:
    """A permutation of 64-bit numbers that leaves nothing of their order: uint64 to uint64.

    Reference:
        SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
    """
    values = (values ^ (values >> np.uint64(30))) * _FIRST
    values = (values ^ (values >> np.uint64(27))) * _SECOND
    return values ^ (values >> np.uint64(31))


def split_units(texts: Sequence[str]) -> Units:
    """Find and hash the words of documents.

    Args:
        texts: the documents; some million characters together, for each takes about 50 bytes of memory.

    Returns:
        :class:`Units`.

    Example:
        >>> units = split_units(["Play it again.", "你好 play"])
        >>> units.counts.tolist(), bool(units.hashes[0] == units.hashes[-1])
        ([3, 3], True)
    """
    known = tables()
    joined = "".join(f"{text}\n" for text in texts).encode("utf-32-le", "surrogatepass")
    codes = np.minimum(np.frombuffer(joined, np.uint32), _TOP - 1).astype(np.int64)
    starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)) + 1, out=starts[1:])
    kind = known.kind[codes]
    inside = np.zeros(len(codes) + 2, bool)
    inside[1:-1] = kind & WORD
    alone = np.zeros(len(codes) + 2, bool)
    alone[1:-1] = kind & ALONE
    here = inside[1:-1]
    begin = np.flatnonzero(here & (~inside[:-2] | alone[1:-1] | alone[:-2]))
    end = np.flatnonzero(here & (~inside[2:] | alone[1:-1] | alone[2:])) + 1
    up, _ = _powers(len(codes))
    prefix = np.zeros(len(codes) + 1, np.uint64)
    np.cumsum(known.value[codes] * up, out=prefix[1:])
    first = np.searchsorted(begin, starts)
    document = np.repeat(np.arange(len(texts)), np.diff(first))
    hashes = span_hashes(prefix, begin, end)
    return Units(codes, starts, begin, end, hashes, document, first, prefix)


def span_hashes(prefix: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Hash the characters from ``begin`` to before ``end``, wherever they stand: (spans,) uint64."""
    _, down = _powers(len(prefix) - 1)
    return mix((prefix[end] - prefix[begin]) * down[begin])


@functools.lru_cache(maxsize=2)
def _powers_of(size: int) -> tuple[np.ndarray, np.ndarray]:
    """base**i and base**-i for i below size, modulo 2**64."""
    inverse = np.uint64(pow(int(_BASE), -1, 1 << 64))
    return tuple(np.cumprod(np.r_[np.uint64(1), np.full(size - 1, factor)]) for factor in (_BASE, inverse))


def _powers(count: int) -> tuple[np.ndarray, np.ndarray]:
    up, down = _powers_of(1 << max(20, (count + 1).bit_length()))  # one more than asked: a span may begin at the end
    return up[:count], down


def word_hash(word: str) -> np.uint64:
    """The hash that `split_units` gives to a word."""
    return split_units([word]).hashes[0]


def ngrams(
    units: Units, longest: int, lengths: Sequence[int] | None = None
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Hash the runs of n words that lie within a document.

    Args:
        units: the words.
        longest: the largest n.
        lengths: the n wanted; None: only the largest.

    Yields:
        (n, (runs,) int64 first word of each run, (runs,) uint64 hashes), n ascending.
    """
    hashes = units.hashes
    for n in range(1, longest + 1):
        if n > 1:
            hashes = hashes[:-1] * _BASE + units.hashes[n - 1 :]
            hashes = hashes ^ (hashes >> np.uint64(29))
        if n in (lengths or (longest,)):
            at = (
                np.flatnonzero(units.document[: len(hashes)] == units.document[n - 1 :])
                if len(hashes)
                else np.zeros(0, np.int64)
            )
            yield n, at, mix(hashes[at])
        if not len(hashes):
            return


def runs_in_order(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring equal keys together: the order, and where in it each run of equal keys starts."""
    order = np.argsort(keys)
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(keys) else np.zeros(0, np.int64)
    return order, starts
