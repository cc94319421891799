"""SentencePiece's character map as TensorFlow ops, as the ``tokenizers`` library applies it.

That is not as SentencePiece does: to a whole grapheme of less than six bytes where a prefix of it is in the map (the
rest of the grapheme is then dropped), else character by character.
"""

from __future__ import annotations

import base64
import functools
import json

import numpy as np
import tensorflow as tf

from aillm_tf.text.graph_characters import (
    CODE_POINTS,
    CharacterMap,
    Characters,
    CharacterTable,
    Step,
    host_normalizer,
    normalized_characters,
    number_table,
    probed_codes,
    starts_of,
)

JOINS_BEFORE, JOINS_AFTER, CLOSED = 1, 2, 4


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
        entries, sizes = tf.cond(
            tf.reduce_any(joins),
            lambda: self._whole_graphemes(characters, joins, entries),
            lambda: (entries, tf.ones_like(entries)),
        )
        expanded, origin = self._map.expand(characters, entries)
        if characters.places is None:
            return expanded
        # Of what a whole grapheme became, each character stands for the one at its place there, or for the last.
        position = tf.range(tf.size(origin, tf.int64))
        opens = tf.concat([[True], origin[1:] != origin[:-1]], 0)[: tf.size(origin)]
        within = position - tf.gather(tf.boolean_mask(position, opens), tf.cumsum(tf.cast(opens, tf.int32)) - 1)
        last = tf.cast(tf.gather(sizes, origin), tf.int64) - 1
        return expanded._replace(places=tf.gather(characters.places, origin + tf.minimum(within, last)))

    def _whole_graphemes(
        self, characters: Characters, joins: tf.Tensor, entries: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """What becomes of each character, and how many characters that replaces."""
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
        sizes = tf.where((replaced < 0) | joins, 1, tf.gather(letters, grapheme))
        return tf.where(replaced < 0, entries, tf.where(joins, 0, replaced)), sizes


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
