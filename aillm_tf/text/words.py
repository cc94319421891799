"""Tokens of a corpus to the text that they were cut from, as far as it can be known.

A space stands between two tokens, as in "It 's" (which WordPiece reads as it reads "It's"), but not between two
characters of scripts that put none between words. A sentence whose tokens are all one character long, some of such a
script, is a character-level one: nothing stands between its tokens. `aillm_tf.text.graph_alignment` does the same in a
graph.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

# Blocks of scripts without spaces between words, with their punctuation: Thai, Lao, Myanmar, Khmer, CJK, full width.
UNSPACED = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x312F), (0x31A0, 0x4DBF), (0x4E00, 0xA4CF)),
    *((0xF900, 0xFAFF), (0xFE30, 0xFE4F), (0xFF00, 0xFF9F), (0x20000, 0x3FFFF)),
)
_CLASS = "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED)
_JOINED = re.compile(f"[{_CLASS}]")


def join_tokens(tokens: Sequence[str]) -> tuple[str, np.ndarray]:
    """Tokens to a text.

    Args:
        tokens: of a sentence, none empty.

    Returns:
        The text, and (tokens, 2) int64: the first character of each token in it and the one after its last.

    Example:
        >>> join_tokens(["It", "'s", "here"])[0], join_tokens(["东", "京", "T", "V"])[0]
        ("It 's here", '东京TV')
    """
    unspaced = [(bool(_JOINED.match(token)), bool(_JOINED.match(token[-1]))) for token in tokens]
    by_character = all(len(token) == 1 for token in tokens) and any(first for first, _ in unspaced)
    parts, spans, end = [], np.zeros((len(tokens), 2), np.int64), 0
    for number, token in enumerate(tokens):
        if number and not by_character and not (unspaced[number - 1][1] and unspaced[number][0]):
            parts.append(" ")
            end += 1
        spans[number] = end, end + len(token)
        parts.append(token)
        end += len(token)
    return "".join(parts), spans
