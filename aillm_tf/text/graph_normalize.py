"""The normalizers of a tokenizer.json as TensorFlow ops.

A run of rules that look at one character at a time becomes one table (`graph_characters`). What looks at more than one
is here:

* Unicode normal forms are ICU's, in ``tensorflow_text.normalize_utf8``. The library's tables are older: characters
  which it does not know yet, and ICU does, are kept away from ICU, so that both leave them as they are.
* `Precompiled` is SentencePiece's character map as the ``tokenizers`` library applies it, which is not as SentencePiece
  does: to a whole grapheme of less than six bytes where a prefix of it is in the map (the rest of the grapheme is then
  dropped), else character by character.

Decomposition and accent stripping (ALBERT) is such a table, too; that marks are put into canonical order between the
two shows only for marks that stay, see `aillm_tf.text.graph`.
"""

from __future__ import annotations

import base64
import functools
import json
import re
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf
import tensorflow_text as tf_text
from tokenizers import normalizers

from aillm_tf.text.graph_characters import (
    CODE_POINTS,
    CharacterMap,
    Characters,
    CharacterTable,
    decode,
    encode,
    host_normalizer,
    insert_before,
    keep,
    normalized_characters,
    number_table,
    probed_codes,
    ragged,
    starts_of,
    whitespace,
)

JOINS_BEFORE, JOINS_AFTER, CLOSED = 1, 2, 4
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


class Step(tf.Module):
    """One step; it reads and gives `Characters`, or strings where it says so."""

    reads_strings = False


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
        self._pattern = re.escape(part["pattern"]["String"])
        self._content = part["content"].replace("\\", "\\\\")

    def __call__(self, text: tf.Tensor) -> tf.Tensor:
        return tf.strings.regex_replace(text, self._pattern, self._content)


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
        return keep(Characters(codes, characters.splits), ~continues)


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


class Precompiled(Step):
    """SentencePiece's character map. See the module's text for what the host does with it."""

    def __init__(self, part: dict):
        super().__init__()
        keys = charsmap_keys(base64.b64decode(part["precompiled_charsmap"]))
        becomes = normalized_characters(json.dumps(part, sort_keys=True))
        short = {key: text for key, text in keys.items() if len(key) in (2, 3) and len(key.encode()) < 6}
        # The shortest prefix counts: a longer key behind it is never asked for.
        pairs = {key: text for key, text in short.items() if key[0] not in keys}
        reached = {key: text for key, text in pairs.items() if len(key) == 2 or key[:2] not in pairs}
        self._map = CharacterMap(becomes, extra=list(reached.values()))
        single = np.zeros(CODE_POINTS, np.int32)
        single[[ord(key) for key in keys if len(key) == 1]] = 1
        self._single = CharacterTable(single)
        self._rules = CharacterTable(_grapheme_rules())
        numbers = [_number(*key) for key in reached]
        entries = np.arange(len(reached)) + self._map.extra_from
        self._graphemes = number_table(numbers, entries, -1)

    def __call__(self, characters: Characters) -> Characters:
        entries = self._map.entries(characters.codes)
        # A character joins the one before it by its own nature or that one's, but nothing joins a control character
        # (CLOSED) except a line feed a carriage return. Of text without such, all below is skipped.
        rules, codes = self._rules(characters.codes), characters.codes
        rule_before = tf.concat([[0], rules], 0)[:-1]
        joins = (rules % 2 == JOINS_BEFORE) & (rule_before < CLOSED)
        joins |= (rule_before % CLOSED >= JOINS_AFTER) & (rules < CLOSED)
        joins |= (codes == ord("\n")) & (tf.concat([[0], codes], 0)[:-1] == ord("\r"))
        joins &= ~starts_of(characters)
        entries = tf.cond(
            tf.reduce_any(joins), lambda: self._whole_graphemes(characters, joins, entries), lambda: entries
        )
        return self._map.expand(characters, entries)[0]

    def _whole_graphemes(self, characters: Characters, joins: tf.Tensor, entries: tf.Tensor) -> tf.Tensor:
        codes = characters.codes
        grapheme = tf.cumsum(tf.cast(~joins, tf.int32)) - 1
        count = tf.reduce_sum(tf.cast(~joins, tf.int32))
        wide = 1 + tf.cast(codes >= 0x80, tf.int32) + tf.cast(codes >= 0x800, tf.int32)
        wide += tf.cast(codes >= 0x10000, tf.int32)
        size = tf.math.unsorted_segment_sum(wide, grapheme, count)
        letters = tf.math.unsorted_segment_sum(tf.ones_like(wide), grapheme, count)
        first = tf.boolean_mask(tf.range(tf.size(codes)), ~joins)
        one = tf.gather(codes, first)
        padded = tf.concat([codes, [0, 0]], 0)
        two = tf.where(letters > 1, tf.gather(padded, first + 1), 0)
        three = tf.where(letters > 2, tf.gather(padded, first + 2), 0)
        letters_ = [tf.cast(code, tf.int64) for code in (one, two, three)]
        pair, triple = (tf.cast(self._graphemes.lookup(_number(*letters_[:n])), tf.int32) for n in (2, 3))
        whole = tf.where(self._single(one) == 1, tf.gather(entries, first), tf.where(pair >= 0, pair, triple))
        whole = tf.where((letters > 1) & (size < 6), whole, -1)
        replaced = tf.gather(whole, grapheme)
        return tf.where(replaced < 0, entries, tf.where(joins, 0, replaced))


def _number(one, two, three=0):
    """One number for two or three code points; strings on the host, int64 tensors in the graph."""
    one, two, three = (ord(part) if isinstance(part, str) else part for part in (one, two, three))
    return (one * 2**21 + two) * 2**21 + three


def charsmap_keys(charsmap: bytes) -> dict[str, str]:
    """The texts that a precompiled_charsmap replaces, with what they become.

    The map is a double array of 32-bit units behind its length in bytes, then the replacements, each ended by a 0.

    Reference:
        https://github.com/s-yata/darts-clone (the double array); sentencepiece's normalizer.h
    """
    size = int(np.frombuffer(charsmap, "<u4", 1)[0])
    units = np.frombuffer(charsmap, "<u4", size // 4, offset=4).astype(np.int64)
    texts = charsmap[4 + size :]
    offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
    labels = units & ((1 << 31) | 0xFF)
    # A unit's place is its parent's base xor its label; those with a greater label hold values.
    children: dict[int, list[int]] = {}
    for unit in np.flatnonzero((labels > 0) & (labels < 256)).tolist():
        children.setdefault(unit ^ int(labels[unit]), []).append(unit)
    keys, waiting = {}, [(int(offsets[0]), b"")]
    while waiting:
        node, prefix = waiting.pop()
        for unit in children.get(node, ()):
            key, base = prefix + bytes([int(labels[unit])]), unit ^ int(offsets[unit])
            if units[unit] >> 8 & 1:
                start = int(units[base] & 0x7FFFFFFF)
                keys[key.decode()] = texts[start : texts.index(b"\0", start)].decode()
            waiting.append((base, key))
    return keys


@functools.lru_cache(maxsize=1)
def _grapheme_rules() -> np.ndarray:
    """int (0x110000,), how the host puts characters into graphemes; the sum of JOINS_BEFORE, JOINS_AFTER and CLOSED."""
    # A map whose keys are all single bytes, and become "b": of a grapheme of less than six bytes remains one "b".
    units = np.zeros(0x300, "<u4")
    units[0] = 0x100 << 10
    letters = np.arange(1, 0x100)
    units[0x100 ^ letters] = 0x300 << 10 | 1 << 8 | letters
    charsmap = len(units.tobytes()).to_bytes(4, "little") + units.tobytes() + b"b\0"
    probe = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(charsmap).decode()}
    normalize = host_normalizer(probe).normalize_str
    flags = np.zeros(CODE_POINTS, np.int32)
    for code in probed_codes():
        character = chr(code)
        flags[code] += JOINS_BEFORE * (normalize("a" + character) == "b")
        flags[code] += JOINS_AFTER * (normalize(character + "a") == "b")
        flags[code] += CLOSED * (code < 0x10000 and normalize(character + "\u0301") != "b")
    return flags


STEPS: dict[str, Callable[[dict], Step]] = {
    "characters": EachCharacter,
    "Replace": Replace,
    "Runs": Runs,
    "Strip": Strip,
    "Prepend": Prepend,
    "Precompiled": Precompiled,
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD"), UnicodeForm),
}
