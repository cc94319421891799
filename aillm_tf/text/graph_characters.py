"""What the graph tokenizers know of characters: tables over Unicode, answered by the host and looked up by the graph.

A rule that looks at one character at a time (lower case, "is a letter") is not written a second time: the
``tokenizers`` library is asked about every character once, and its answers are a table. So the graph has the host's
version of Unicode, which is neither Python's nor ICU's.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tokenizers
from tokenizers import Regex, models, normalizers, pre_tokenizers

# No character is assigned in planes 4 to 13 in any version of Unicode, and planes 15 and 16 are for private use except
# for their last two code points, so one character stands for each of these stretches. Surrogates are no characters.
UNIFORM = (range(0x40000, 0xE0000), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
PROBED = (
    *(range(0, 0xD800), range(0xE000, 0x40000), range(0xE0000, 0xF0000)),
    *(range(0xFFFFE, 0x100000), range(0x10FFFE, 0x110000)),
)
CODE_POINTS = 0x110000
PAGE = 256  # characters in a page of the two-stage table; most pages of Unicode are alike and stored once


def probed_codes() -> list[int]:
    """The code points that have to be asked about: PROBED, and the first of each stretch of UNIFORM."""
    return [*(code for stretch in PROBED for code in stretch), *(stretch.start for stretch in UNIFORM)]


class Characters(NamedTuple):
    """Texts as code points, end to end.

    Args:
        codes: int32 (characters,).
        splits: int64 (texts + 1,); text i is ``codes[splits[i]:splits[i + 1]]``.
        places: int64 (characters, 2), where offsets are wanted: the first character that each came from, counted over
            the original texts, and the one after the last.
    """

    codes: tf.Tensor
    splits: tf.Tensor
    places: tf.Tensor | None = None


def ragged(values: tf.Tensor, splits: tf.Tensor) -> tf.RaggedTensor:
    """Rows ``values[splits[i]:splits[i + 1]]``, unchecked."""
    return tf.RaggedTensor.from_row_splits(values, splits, validate=False)


def decode(text: tf.Tensor) -> Characters:
    """(texts,) string to code points; bytes that are not UTF-8 become replacement characters."""
    codes = tf.strings.unicode_decode(text, "UTF-8", errors="replace")
    return Characters(codes.values, codes.row_splits)


def encode(characters: Characters) -> tf.Tensor:
    """Code points to (texts,) string."""
    return tf.strings.unicode_encode(ragged(characters.codes, characters.splits), "UTF-8")


def keep(characters: Characters, kept: tf.Tensor) -> Characters:
    """The characters where ``kept`` (characters,) bool is True."""
    before = tf.concat([[0], tf.cumsum(tf.cast(kept, tf.int64))], 0)
    places = None if characters.places is None else tf.boolean_mask(characters.places, kept)
    return Characters(tf.boolean_mask(characters.codes, kept), tf.gather(before, characters.splits), places)


def insert_before(characters: Characters, where: tf.Tensor, code: int) -> tuple[Characters, tf.Tensor]:
    """Puts ``code`` before each character where ``where`` (characters,) bool is True; it gets the place of that one.

    Returns:
        The longer texts, and the index of every old character among the new ones, int64 (characters,).
    """
    counts = 1 + tf.cast(where, tf.int64)
    ends = tf.concat([[0], tf.cumsum(counts)], 0)
    codes = tf.repeat(characters.codes, counts)
    inserted = tf.boolean_mask(ends[:-1], where)
    codes = tf.tensor_scatter_nd_update(codes, inserted[:, tf.newaxis], tf.fill(tf.shape(inserted), code))
    places = None if characters.places is None else tf.repeat(characters.places, counts, axis=0)
    return Characters(codes, tf.gather(ends, characters.splits), places), ends[1:] - 1


def starts_of(characters: Characters) -> tf.Tensor:
    """bool (characters,): the first of its text."""
    size = tf.size(characters.codes)
    # Empty texts at the end start beyond the last character; the extra place takes them.
    marks = tf.scatter_nd(characters.splits[:-1, tf.newaxis], tf.ones_like(characters.splits[:-1]), [size + 1])
    return marks[:-1] > 0


class CharacterTable(tf.Module):
    """A number for each code point.

    Args:
        table: int (0x110000,).
    """

    def __init__(self, table: np.ndarray):
        super().__init__()
        pages, page_of = np.unique(table.reshape(-1, PAGE), axis=0, return_inverse=True)
        self._page_of = tf.constant(page_of.reshape(-1).astype(np.int32))
        self._pages = tf.constant(pages.reshape(-1).astype(np.int32))

    def __call__(self, codes: tf.Tensor) -> tf.Tensor:
        page = tf.gather(self._page_of, codes // PAGE)
        return tf.gather(self._pages, page * PAGE + codes % PAGE)


class CharacterMap(tf.Module):
    """What becomes of each character: none, one or more characters.

    Args:
        becomes: text by code point, for `probed_codes`. Those of a stretch of UNIFORM become what its first becomes,
            or themselves where its first stays itself.
        extra: further texts; they get the last numbers, in their order.
    """

    def __init__(self, becomes: Mapping[int, str], extra: Sequence[str] = ()):
        super().__init__()
        # Entry 0 is nothing, entry 1 the character itself, whichever it is: that keeps the pages alike.
        entries = {"": 0, None: 1}
        table = np.ones(CODE_POINTS, np.int32)
        for code, text in becomes.items():
            table[code] = 1 if text == chr(code) else entries.setdefault(text, len(entries))
        for stretch in UNIFORM:
            table[stretch.start : stretch.stop] = table[stretch.start]
        self._entry_of = CharacterTable(table)
        texts = ["?" if text is None else text for text in (*entries, *extra)]
        self.extra_from = len(entries)
        self._lengths = tf.constant([len(text) for text in texts], tf.int32)
        self._starts = tf.constant(np.cumsum([0, *map(len, texts[:-1])]), tf.int32)
        self._codes = tf.constant([ord(character) for text in texts for character in text], tf.int32)

    def entries(self, codes: tf.Tensor) -> tf.Tensor:
        """The number of what each character becomes."""
        return self._entry_of(codes)

    def expand(self, characters: Characters, entries: tf.Tensor) -> tuple[Characters, tf.Tensor]:
        """Puts entries in the place of characters.

        Returns:
            The new texts, and of each of their characters the index of the one it came from, int64.
        """
        lengths = tf.gather(self._lengths, entries)
        ends = tf.concat([[0], tf.cumsum(tf.cast(lengths, tf.int64))], 0)
        origin = tf.repeat(tf.range(tf.size(entries, tf.int64)), lengths)
        entry = tf.gather(entries, origin)
        within = tf.range(tf.size(origin, tf.int64)) - tf.gather(ends, origin)
        codes = tf.gather(self._codes, tf.gather(self._starts, entry) + tf.cast(within, tf.int32))
        codes = tf.where(entry == 1, tf.gather(characters.codes, origin), codes)
        places = None if characters.places is None else tf.gather(characters.places, origin)
        return Characters(codes, tf.gather(ends, characters.splits), places), origin

    def __call__(self, characters: Characters) -> Characters:
        return self.expand(characters, self.entries(characters.codes))[0]


class Step(tf.Module):
    """One step; it reads and gives `Characters`, or strings where it says so."""

    reads_strings = False

    def with_places(self, characters: Characters) -> Characters:
        """As the call, of characters with places."""
        return self(characters)


def number_table(keys: np.ndarray, values: np.ndarray, default: int) -> tf.lookup.StaticHashTable:
    """Numbers, not negative, to numbers; int64."""
    keys, values = np.append(np.asarray(keys, np.int64), -2), np.append(np.asarray(values, np.int64), default)
    initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(values))
    return tf.lookup.StaticHashTable(initializer, default_value=default)


def host_normalizer(description: Mapping | None) -> normalizers.Normalizer:
    """A part of a tokenizer.json as the library's object."""
    whole = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    return tokenizers.Tokenizer.from_str(json.dumps({**whole, "normalizer": description})).normalizer


@functools.lru_cache(maxsize=8)
def normalized_characters(description: str) -> dict[int, str]:
    """What a normalizer, as JSON, makes of each of `probed_codes`."""
    normalize = host_normalizer(json.loads(description)).normalize_str
    return {code: normalize(chr(code)) for code in probed_codes()}


@functools.lru_cache(maxsize=1)
def _probed_text() -> tuple[str, np.ndarray]:
    codes = np.array(probed_codes())
    return "".join(map(chr, codes)), codes


def _flags(codes: np.ndarray, found: np.ndarray) -> np.ndarray:
    flags = np.zeros(CODE_POINTS, bool)
    flags[codes] = found
    for stretch in UNIFORM:
        flags[stretch.start : stretch.stop] = flags[stretch.start]
    return flags


@functools.lru_cache(maxsize=32)
def matching(pattern: str) -> np.ndarray:
    """bool (0x110000,): the characters that a regular expression for one character matches, on the host."""
    text, codes = _probed_text()
    found = np.ones(len(codes), bool)
    for _, (start, end) in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text):
        found[start:end] = False
    return _flags(codes, found)


@functools.lru_cache(maxsize=1)
def whitespace() -> np.ndarray:
    """bool (0x110000,): what the library's WhitespaceSplit and Strip take for white space."""
    text, codes = _probed_text()
    found = np.ones(len(codes), bool)
    for _, (start, end) in pre_tokenizers.WhitespaceSplit().pre_tokenize_str(text):
        found[start:end] = False
    return _flags(codes, found)


@functools.lru_cache(maxsize=1)
def numeric() -> np.ndarray:
    """bool (0x110000,): what the library's Digits takes for a digit."""
    text, codes = _probed_text()
    found = np.zeros(len(codes), bool)
    # Pieces without and with digits take turns; the first, from U+0000 on, is without.
    for _, (start, end) in pre_tokenizers.Digits(individual_digits=False).pre_tokenize_str(text)[1::2]:
        found[start:end] = True
    return _flags(codes, found)
