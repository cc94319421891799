"""The pre-tokenizers of a tokenizer.json as TensorFlow ops: characters to words.

RE2, which TensorFlow has, knows neither lookahead nor the host's version of Unicode. So the patterns of GPT-2, Llama 3
and Qwen are written out as what they say about neighbouring characters, over tables of the host's classes (letter,
number, white space). Each rule says where a word starts; all characters are looked at at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tokenizers import Regex, pre_tokenizers

from aillm_tf.text.graph_characters import (
    CODE_POINTS,
    Characters,
    CharacterTable,
    insert_before,
    keep,
    matching,
    numeric,
    starts_of,
    whitespace,
)

LETTER, NUMBER, SPACE, OTHER, NOTHING = 1, 2, 3, 0, -1
BLANK, APOSTROPHE, NEWLINE, RETURN = 0x20, 0x27, 0x0A, 0x0D
# One character that a pattern can match: a class without a repetition, a property, or the character itself.
ONE_CHARACTER = re.compile(r"\[(?:[^\[\]\\]|\\x\{[0-9A-Fa-f]+\}|\\.)+\]|\\[pP]\{\w+\}|\\[dswDSW]|[^\\\[\](){}.*+?|^$]")
_SHARED_PATTERN = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS_PATTERN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
# Patterns of Llama 3 and Qwen 2 and 3, with how many digits at most make a word.
DIGITS_BY_PATTERN = {
    rf"{_WORDS_PATTERN}|\p{{N}}{{1,3}}|{_SHARED_PATTERN}": 3,
    rf"{_WORDS_PATTERN}|\p{{N}}|{_SHARED_PATTERN}": 1,
}


class Words(NamedTuple):
    """Words of texts. A word is not empty; characters between words are gone.

    Args:
        characters: the `Characters` of the texts.
        starts: bool (characters,), the first of a word; every text's first character is one.
    """

    characters: Characters
    starts: tf.Tensor


class Splitter(tf.Module):
    """The pre_tokenizer of a tokenizer.json.

    Args:
        description: the "pre_tokenizer" of a tokenizer.json.

    Raises:
        NotImplementedError: for a pre-tokenizer that has no version in the graph.
    """

    def __init__(self, description: Mapping | None):
        super().__init__()
        parts = list(_flat(description))
        self._steps = [_build(part, first=number == 0) for number, part in enumerate(parts)]

    def __call__(self, characters: Characters, first: tf.Tensor) -> Words:
        """Splits texts.

        Args:
            characters: the texts.
            first: bool (texts,), the text is the beginning of its row rather than what follows an added token.
        """
        words = Words(characters, starts_of(characters))
        for step in self._steps:
            words = step(words, first)
        return words


def _flat(description: Mapping | None):
    if description is None:
        return
    if description["type"] == "Sequence":
        for part in description["pretokenizers"]:
            yield from _flat(part)
    else:
        yield description


def _build(part: Mapping, first: bool) -> Callable:
    kind = part["type"]
    if kind == "ByteLevel":
        return ByteLevel(part["add_prefix_space"], GPT2Pattern() if part["use_regex"] else None)
    if kind == "Metaspace":
        return Metaspace(part, first)
    if kind == "WhitespaceSplit":
        return CharacterSplit(whitespace(), "Removed")
    if kind == "Digits":
        return CharacterSplit(numeric(), "Isolated" if part["individual_digits"] else "Contiguous")
    if kind == "Split" and not part["invert"]:
        pattern, behavior = part["pattern"], part["behavior"]
        if pattern.get("Regex") in DIGITS_BY_PATTERN and behavior == "Isolated":
            return LlamaPattern(DIGITS_BY_PATTERN[pattern["Regex"]])
        expression = pattern["Regex"] if "Regex" in pattern else re.escape(pattern["String"])
        single = len(pattern["String"]) == 1 if "String" in pattern else ONE_CHARACTER.fullmatch(expression)
        if single and behavior in BEHAVIORS:
            return CharacterSplit(matching(expression), behavior)
        raise NotImplementedError(
            f"the graph splits at the patterns of GPT-2, Llama 3 and Qwen and at single characters; tokenizer.json "
            f"splits at {expression!r} ({behavior})"
        )
    raise NotImplementedError(
        f"the graph has no pre-tokenizer {kind!r} as this tokenizer.json uses it; it knows ByteLevel, Digits, "
        "Metaspace, Split and WhitespaceSplit"
    )


def _shift(values: tf.Tensor, by: int, fill) -> tf.Tensor:
    """values[i - by] at place i; ``fill`` where there is none."""
    count = tf.minimum(abs(by), tf.size(values))
    filled = tf.fill([count], tf.cast(fill, values.dtype))
    if by > 0:
        return tf.concat([filled, values[: tf.size(values) - count]], 0)
    return tf.concat([values[count:], filled], 0)


def _insert(words: Words, where: tf.Tensor, code: int) -> Words:
    """Puts a character before words, as their new first one."""
    characters, moved = insert_before(words.characters, where, code)
    old = tf.boolean_mask(moved, words.starts & ~where)
    new = tf.boolean_mask(moved - 1, where)
    places = tf.concat([old, new], 0)
    marks = tf.scatter_nd(places[:, tf.newaxis], tf.ones_like(places), [tf.size(characters.codes, tf.int64)])
    return Words(characters, marks > 0)


class Metaspace(tf.Module):
    """Spaces become "▁", words get one before them, and each "▁" starts a word."""

    def __init__(self, part: Mapping, first: bool):
        super().__init__()
        self._mark, self._scheme, self._split = ord(part["replacement"]), part["prepend_scheme"], part["split"]
        if self._scheme == "first" and not first:
            raise NotImplementedError("the graph knows Metaspace's prepend_scheme 'first' only without a split before")

    def __call__(self, words: Words, first: tf.Tensor) -> Words:
        codes = words.characters.codes
        codes = tf.where(codes == BLANK, self._mark, codes)
        words = words._replace(characters=words.characters._replace(codes=codes))
        if self._scheme != "never":
            where = words.starts & (codes != self._mark)
            if self._scheme == "first":
                lengths = words.characters.splits[1:] - words.characters.splits[:-1]
                where &= tf.repeat(first, lengths)
            words = _insert(words, where, self._mark)
        if not self._split:
            return words
        return Words(words.characters, words.starts | (words.characters.codes == self._mark))


class CharacterSplit(tf.Module):
    """Splits at characters of a class."""

    def __init__(self, flags: np.ndarray, behavior: str):
        super().__init__()
        self._flags, self._behavior = CharacterTable(flags), behavior

    def __call__(self, words: Words, first: tf.Tensor) -> Words:
        here = self._flags(words.characters.codes) == 1
        starts = words.starts | BEHAVIORS[self._behavior](here, _shift(here, 1, False))
        if self._behavior != "Removed":
            return Words(words.characters, starts)
        return Words(keep(words.characters, ~here), tf.boolean_mask(starts, ~here))


# Where a word starts, by whether this character and the one before it match.
BEHAVIORS = {
    "Isolated": lambda here, before: here | before,
    "Removed": lambda here, before: before,
    "MergedWithPrevious": lambda here, before: before,
    "MergedWithNext": lambda here, before: here,
    "Contiguous": lambda here, before: here ^ before,
    # Not in the library: a run of them belongs to the next word (`aillm_tf.text.graph_bpe.words_apart`).
    "RunMergedWithNext": lambda here, before: here & ~before,
}


class ByteLevel(tf.Module):
    """Words for byte-level BPE; the bytes themselves are made of the words later."""

    def __init__(self, prefix: bool, pattern: Callable | None):
        super().__init__()
        self._prefix, self._pattern = prefix, pattern

    def __call__(self, words: Words, first: tf.Tensor) -> Words:
        if self._prefix:
            words = _insert(words, words.starts & (words.characters.codes != BLANK), BLANK)
        return words if self._pattern is None else self._pattern(words, first)


class Context(NamedTuple):
    """What the patterns ask about each character; beyond a word there is NOTHING, with code -1."""

    code: tf.Tensor
    kind: tf.Tensor
    code_before: tf.Tensor
    before: tf.Tensor
    after: tf.Tensor
    next_codes: tuple[tf.Tensor, tf.Tensor]


def _classes() -> CharacterTable:
    table = np.full(CODE_POINTS, OTHER, np.int32)
    for kind, pattern in ((SPACE, r"\s"), (NUMBER, r"\p{N}"), (LETTER, r"\p{L}")):
        table[matching(pattern)] = kind
    return CharacterTable(table)


def _context(words: Words, classes: CharacterTable) -> Context:
    code, starts = words.characters.codes, words.starts
    kind = classes(code)
    last = _shift(starts, -1, True)
    next_code = tf.where(last, -1, _shift(code, -1, -1))
    return Context(
        code,
        kind,
        tf.where(starts, -1, _shift(code, 1, -1)),
        tf.where(starts, NOTHING, _shift(kind, 1, NOTHING)),
        tf.where(last, NOTHING, _shift(kind, -1, NOTHING)),
        (next_code, tf.where(last, -1, _shift(next_code, -1, -1))),
    )


def _contraction(at: Context, spelled: Callable[[tf.Tensor, str], tf.Tensor]) -> tf.Tensor:
    """Length of the English contraction ('s, 't, 're, 've, 'm, 'll, 'd) that starts at each character, or 0.

    A match starts at an apostrophe only where no run of other characters, with the blank before it, contains it.
    """
    free = (at.code == APOSTROPHE) & (at.before != OTHER) & (at.code_before != BLANK)
    one, two = at.next_codes
    single = spelled(one, "stmd")
    double = (spelled(one, "rv") & spelled(two, "e")) | (spelled(one, "l") & spelled(two, "l"))
    return tf.where(free & single, 2, tf.where(free & double, 3, 0))


def _cut_contractions(starts: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    """Starts no word at the first letter of a contraction, and one behind it."""
    starts &= _shift(length, 1, 0) == 0
    return starts | (_shift(length, 2, 0) == 2) | (_shift(length, 3, 0) == 3)


class GPT2Pattern(tf.Module):
    r"""``'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+``"""

    def __init__(self):
        super().__init__()
        self._classes = _classes()

    def __call__(self, words: Words, first: tf.Tensor) -> Words:
        at = _context(words, self._classes)
        # A run starts where the class changes; a blank before it belongs to it.
        ink = (at.kind != SPACE) & (at.kind != at.before) & (at.code_before != BLANK)
        ink = _cut_contractions(ink, _contraction(at, _spelled))
        # The last of several spaces stands apart, unless nothing follows.
        space = (at.kind == SPACE) & ((at.before != SPACE) | ((at.after != SPACE) & (at.after != NOTHING)))
        return Words(words.characters, words.starts | ink | space)


def _spelled(code: tf.Tensor, letters: str) -> tf.Tensor:
    return tf.reduce_any([code == ord(letter) for letter in letters], 0)


def _fullmatch(pattern: str, character: str) -> bool:
    return not pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(character)


class LlamaPattern(tf.Module):
    """The patterns of Llama 3 and Qwen (see DIGITS_BY_PATTERN).

    Args:
        digits: how many digits at most make a word.
    """

    def __init__(self, digits: int):
        super().__init__()
        self._classes, self._digits = _classes(), digits
        # Letters in either case, and what else the host's (?i:...) takes for them, such as U+017F for s.
        spellings = [chr(code) for code in np.flatnonzero(matching("(?i:[stmdrvel])"))]
        self._spellings = {
            letter: [ord(spelling) for spelling in spellings if _fullmatch(f"(?i:{letter})", spelling)]
            for letter in "stmdrvel"
        }

    def _spelled(self, code: tf.Tensor, letters: str) -> tf.Tensor:
        return tf.reduce_any([code == spelling for letter in letters for spelling in self._spellings[letter]], 0)

    def __call__(self, words: Words, first: tf.Tensor) -> Words:
        at = _context(words, self._classes)
        newline = (at.code == NEWLINE) | (at.code == RETURN)
        length = _contraction(at, self._spelled)

        # Letters take one other character before them along, if it stands alone; and a space that is no newline.
        other = at.kind == OTHER
        alone = other & (at.before != OTHER) & (at.code_before != BLANK) & (length == 0)
        taken = _shift(alone, 1, False) | ((at.before == SPACE) & ~_shift(newline, 1, False))
        letters = (at.kind == LETTER) & (at.before != LETTER) & ~(taken & (at.before != NOTHING))
        numbers = (at.kind == NUMBER) & (self._place_in_run(at.kind == NUMBER, at.before == NUMBER) % self._digits == 0)
        others = other & (at.before != OTHER) & (at.code_before != BLANK)
        ink = _cut_contractions(letters | others, length) | numbers

        # Newlines right behind other characters belong to these.
        opening = newline & (at.before == OTHER)
        attached = newline & self._of_run(opening, newline & ~_shift(newline, 1, False) | newline & words.starts)
        space = (at.kind == SPACE) & ~attached
        opens = space & ((at.before != SPACE) | _shift(attached, 1, False))
        # Of the others, all up to the last newline are one word, and the last one stands apart if something follows.
        run = tf.cumsum(tf.cast(opens, tf.int32))
        position = tf.range(tf.size(run))
        last_newline = tf.math.unsorted_segment_max(
            tf.where(space & newline, position, -1), run, 1 + tf.reduce_sum(tf.cast(opens, tf.int32))
        )
        last_newline = tf.gather(last_newline, run)
        behind = space & (position == last_newline + 1) & (last_newline >= 0)
        apart = space & (at.after != SPACE) & (at.after != NOTHING) & (position > last_newline)
        return Words(words.characters, words.starts | ink | opens | behind | apart)

    @staticmethod
    def _place_in_run(member: tf.Tensor, continues: tf.Tensor) -> tf.Tensor:
        opens = member & ~continues
        position = tf.range(tf.size(member))
        openings = tf.concat([[0], tf.boolean_mask(position, opens)], 0)
        return position - tf.gather(openings, tf.cumsum(tf.cast(opens, tf.int32)))

    @staticmethod
    def _of_run(flag: tf.Tensor, opens: tf.Tensor) -> tf.Tensor:
        """The flag of the first character of the run that each character is in or behind."""
        flags = tf.concat([[False], tf.boolean_mask(flag, opens)], 0)
        return tf.gather(flags, tf.cumsum(tf.cast(opens, tf.int32)))
