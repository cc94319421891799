"""The normalizers of a tokenizer.json as TensorFlow ops.

A run of rules that look at one character at a time becomes one table (`graph_characters`). What looks at more than one
is here:

* Unicode normal forms are ICU's, in ``tensorflow_text.normalize_utf8``. The library's tables are older: characters
  which it does not know yet, and ICU does, are kept away from ICU, so that both leave them as they are.
* Literal replacements, spaces at the ends and in runs. SentencePiece's character map is in `graph_charsmap`.

Decomposition and accent stripping (ALBERT) is such a table, too; that marks are put into canonical order between the
two shows only for marks that stay, see `aillm_tf.text.graph`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping

import tensorflow as tf
import tensorflow_text as tf_text
from tokenizers import normalizers

from aillm_tf.text.graph_characters import (
    CharacterMap,
    Characters,
    CharacterTable,
    Step,
    decode,
    encode,
    insert_before,
    keep,
    normalized_characters,
    probed_codes,
    ragged,
    starts_of,
    whitespace,
)
from aillm_tf.text.graph_charsmap import Precompiled

APART = b"\xff"  # no byte of UTF-8


class Normalizer(tf.Module):
    """The normalizer of a tokenizer.json: strings to characters.

    Args:
        description: the "normalizer" of a tokenizer.json.

    Raises:
        NotImplementedError: for a normalizer that has no version in the graph.
    """

    def __init__(self, description: Mapping | None):
        super().__init__()
        self._steps = [_build(kind, part) for kind, part in _grouped(list(_flat(description)))]

    def with_places(self, characters: Characters) -> Characters:
        """As the call, of characters with places.

        Raises:
            NotImplementedError: a step that does not say where its characters came from.
        """
        for step in self._steps:
            characters = step.with_places(characters)
        return characters

    def __call__(self, text: tf.Tensor) -> Characters:
        state = text
        for step in self._steps:
            if step.reads_strings and isinstance(state, Characters):
                state = encode(state)
            elif not step.reads_strings and not isinstance(state, Characters):
                state = decode(state)
            state = step(state)
        return state if isinstance(state, Characters) else decode(state)


def _flat(description: Mapping | None):
    if description is None:
        return
    if description["type"] == "Sequence":
        for part in description["normalizers"]:
            yield from _flat(part)
    else:
        yield description


def _grouped(parts: list[dict]) -> list[tuple[str, dict | list[dict]]]:
    """Parts with what they are built by; neighbours that look at one character at a time are one "characters"."""
    groups = []
    for number, part in enumerate(parts):
        kind = part["type"]
        later = [other["type"] for other in parts[number + 1 :]]
        if kind == "Replace":
            pattern = part["pattern"]
            single = "String" in pattern and len(pattern["String"]) == 1
            kind = "characters" if single else "Replace" if "String" in pattern else "Runs"
        elif kind in ("Lowercase", "StripAccents", "Nmt") or (kind in ("NFD", "NFKD") and "StripAccents" in later):
            kind = "characters"
        if kind == "characters" and groups and groups[-1][0] == kind:
            groups[-1][1].append(part)
        else:
            groups.append((kind, [part] if kind == "characters" else part))
    return groups


def _build(kind: str, part) -> Step:
    if kind not in STEPS:
        raise NotImplementedError(f"the graph has no normalizer {kind!r}; it knows {', '.join(sorted(STEPS))}")
    return STEPS[kind](part)


class EachCharacter(Step):
    """Normalizers that look at one character at a time."""

    def __init__(self, parts: list[dict]):
        super().__init__()
        description = {"type": "Sequence", "normalizers": parts}
        self._map = CharacterMap(normalized_characters(json.dumps(description, sort_keys=True)))

    def __call__(self, characters: Characters) -> Characters:
        return self._map(characters)


class Replace(Step):
    """Replaces a literal text."""

    reads_strings = True

    def __init__(self, part: dict):
        super().__init__()
        self._literal, self._text = part["pattern"]["String"], part["content"]
        self._pattern = re.escape(self._literal)
        self._content = self._text.replace("\\", "\\\\")

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        return tf.strings.regex_replace(text, self._pattern, self._content)

    def with_places(self, characters: Characters) -> Characters:
        size, same = len(self._literal), len(set(self._literal)) == 1
        borders = any(self._literal[:n] == self._literal[-n:] for n in range(1, size))
        if len(self._text) != 1 or (borders and not same):
            raise NotImplementedError(
                f"offsets in the graph: the replacement of {self._literal!r} by {self._text!r} is not known there"
            )
        codes, count = characters.codes, tf.size(characters.codes)
        row = ragged(codes, characters.splits).value_rowids()
        ahead = [
            tf.concat([values[n:], tf.fill([tf.minimum(n, count)], tf.cast(-1, values.dtype))], 0)
            for n in range(size)
            for values in (codes, row)
        ]
        matches = [code == ord(letter) for code, letter in zip(ahead[::2], self._literal, strict=True)]
        matches = tf.reduce_all(tf.stack([*matches, ahead[-1] == row]), 0)
        if borders:  # one letter over and over: of a run of matches every size-th is one
            opens = matches & ~tf.concat([[False], matches[:-1]], 0)[:count]
            position = tf.range(count)
            openings = tf.concat([[0], tf.boolean_mask(position, opens)], 0)
            in_run = position - tf.gather(openings, tf.cumsum(tf.cast(opens, tf.int32)))
            matches &= in_run % size == 0
        behind = [tf.concat([tf.fill([tf.minimum(n, count)], False), matches[: count - n]], 0) for n in range(size)]
        # The replacement stands where the last replaced character stood, as in the library.
        last = behind[-1]
        replaced = characters._replace(codes=tf.where(last, ord(self._text), codes))
        return keep(replaced, last | ~tf.reduce_any(tf.stack(behind), 0))


class Runs(Step):
    """Replaces runs of two or more spaces by one character."""

    def __init__(self, part: dict):
        super().__init__()
        pattern, content = part["pattern"].get("Regex"), part["content"]
        if pattern != " {2,}" or len(content) != 1:
            raise NotImplementedError(
                f"the graph replaces the pattern ' {{2,}}' by one character; tokenizer.json replaces {pattern!r} by "
                f"{content!r}"
            )
        self._content = ord(content)

    def __call__(self, characters: Characters) -> Characters:
        space = characters.codes == ord(" ")
        continues = space & tf.concat([[False], space[:-1]], 0)[: tf.size(space)] & ~starts_of(characters)
        continued = tf.concat([continues[1:], [False]], 0)[: tf.size(space)]
        codes = tf.where(continued & space, self._content, characters.codes)
        return keep(characters._replace(codes=codes), ~continues)


class Strip(Step):
    """Drops white space at the ends."""

    def __init__(self, part: dict):
        super().__init__()
        self._left, self._right = part["strip_left"], part["strip_right"]
        self._whitespace = CharacterTable(whitespace())

    def __call__(self, characters: Characters) -> Characters:
        rows = ragged(characters.codes, characters.splits)
        ink = self._whitespace(characters.codes) == 0
        position = tf.range(tf.size(ink, tf.int64))
        texts = rows.value_rowids()
        first = tf.math.unsorted_segment_min(tf.where(ink, position, position.dtype.max), texts, rows.nrows())
        last = tf.math.unsorted_segment_max(tf.where(ink, position, -1), texts, rows.nrows())
        kept = tf.ones_like(ink)
        if self._left:
            kept &= position >= tf.gather(first, texts)
        if self._right:
            kept &= position <= tf.gather(last, texts)
        return keep(characters, kept)


class Prepend(Step):
    """Puts a text before every text that is not empty."""

    def __init__(self, part: dict):
        super().__init__()
        self._codes = [ord(character) for character in part["prepend"]]

    def __call__(self, characters: Characters) -> Characters:
        for code in reversed(self._codes):
            characters, _ = insert_before(characters, starts_of(characters), code)
        return characters


class UnicodeForm(Step):
    """NFC, NFD, NFKC, NFKD."""

    reads_strings = True

    def __init__(self, part: dict):
        super().__init__()
        self._form = part["type"]
        self._apart = "[" + "".join(f"\\x{{{code:x}}}" for code in _unknown_to_the_host(self._form)) + "]"

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8", errors="replace")
        some = tf.reduce_any(tf.strings.regex_full_match(text, f"(?s).*{self._apart}.*"))
        return tf.cond(some, lambda: self._piecewise(text), lambda: tf_text.normalize_utf8(text, self._form))

    def with_places(self, characters: Characters) -> Characters:
        raise NotImplementedError(
            f"offsets in the graph: the normalizer {self._form} does not say there which characters it made of which; "
            "answer on the host, or take a model whose tokenizer.json normalizes character by character or Precompiled"
        )

    def _piecewise(self, text: tf.Tensor) -> tf.Tensor:
        parted = tf.strings.regex_replace(text, f"({self._apart})", APART + rb"\1" + APART)
        pieces = tf.strings.split(parted, APART)  # (texts, pieces); every second one is a character of its own
        number = tf.range(tf.size(pieces.values, tf.int64)) - tf.gather(pieces.row_starts(), pieces.value_rowids())
        normal = tf_text.normalize_utf8(pieces.values, self._form)
        return tf.strings.reduce_join(pieces.with_values(tf.where(number % 2 == 1, pieces.values, normal)), axis=1)


@functools.lru_cache(maxsize=4)
def _unknown_to_the_host(form: str) -> tuple[int, ...]:
    """Characters that ICU treats otherwise than the library, whose Unicode is older: for it they are inert."""
    # Line breaks, which stay as they are, keep the characters apart; so one long text asks about all of them.
    codes = [code for code in probed_codes() if code != ord("\n")]
    different = set()
    # Alone, a character differs by its decomposition; after marks of a high and a middle class, by its own class.
    for before in ("", "\u0345", "\u0327"):
        host, icu = _both(form, [before + chr(code) for code in codes])
        different |= {code for code, ours, theirs in zip(codes, host, icu, strict=True) if ours != theirs}
    # The first part of a newer composed character is new, too; without it nothing is composed.
    host, icu = _both("NFD", [chr(code) for code in codes])
    for code, ours, theirs in zip(codes, host, icu, strict=True):
        if ours != theirs:
            different |= {code, ord(theirs[0])}
    return tuple(sorted(different))


def _both(form: str, texts: list[str]) -> tuple[list[str], list[str]]:
    """Texts without line breaks in a normal form, by the library and by ICU."""
    text = "\n".join(texts)
    with tf.device("CPU:0"):
        icu = tf_text.normalize_utf8(tf.constant(text.encode()), form).numpy().decode()
    return getattr(normalizers, form)().normalize_str(text).split("\n"), icu.split("\n")


STEPS: dict[str, Callable[[dict], Step]] = {
    "characters": EachCharacter,
    "Replace": Replace,
    "Runs": Runs,
    "Strip": Strip,
    "Prepend": Prepend,
    "Precompiled": Precompiled,
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD"), UnicodeForm),
}
