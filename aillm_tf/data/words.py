"""Words for whole-word masking where the pieces do not tell them: Chinese, whose tokens are characters.

Two ways, neither of which needs a segmenter at run time:
- "spaces": the texts come segmented, with a space between words, as segmenters write them. The tokens are those of the
  text without these spaces; only what counts as a word differs.
- "collocations": neighbouring Chinese characters that stand together far more often than chance are one word. A rule
  of statistics, not a segmenter; docs/objectives.md says how often it agrees with people.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

from aillm_tf.data.rows import is_chinese

PMI = 3.0  # nats: together 20 times as often as by chance
SEEN = 5  # times a pair has to be there
LONGEST = 4  # characters of a word


def spaced_words(texts: Sequence[str], tokenizer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens of segmented texts, and which of them continue a word.

    Args:
        texts: words between spaces, Chinese ones too.
        tokenizer: of the model.

    Returns:
        ids: (tokens,) int32, of the texts without the spaces between two Chinese characters.
        offsets: (texts + 1,) int64.
        continues: (tokens,) int32, 1 at tokens that do not begin a word.
    """
    joined, starts = [], []
    for text in texts:
        words = re.findall(r"\s*\S+", text)
        pieces, begin, at = [], set(), 0
        for word in words:
            bare = word.lstrip()
            glued = pieces and is_chinese(pieces[-1][-1]) and is_chinese(bare[0])
            piece = bare if glued else word
            begin.add(at + len(piece) - len(bare))
            pieces.append(piece)
            at += len(piece)
        joined.append("".join(pieces))
        starts.append(begin)
    encoded = tokenizer.encode_spans(joined)
    continues = np.zeros(len(encoded.ids), np.int32)
    for row, (first, last) in enumerate(itertools.pairwise(encoded.offsets)):
        for token in range(first, last):
            start, end = encoded.spans[token]
            continues[token] = encoded.text_ids[token] >= 0 and not starts[row].intersection(range(start, end))
    return encoded.ids, encoded.offsets, continues


def collocations(ids: np.ndarray, offsets: np.ndarray, tokenizer) -> np.ndarray:
    """Which tokens continue a word: pieces as the vocabulary says, Chinese characters by how often they stand together.

    Two neighbours belong together where log(p(a, b) / (p(a) p(b))) is at least `PMI` and the pair was seen `SEEN`
    times in these rows; a word has at most `LONGEST` characters.

    Args:
        ids: (tokens,) flat ids of the rows that are counted.
        offsets: (rows + 1,).
        tokenizer: of the model.

    Returns:
        (tokens,) int32.

    Reference:
        Church and Hanks, "Word association norms, mutual information, and lexicography", 1990
    """
    single = np.array([len(token) == 1 and is_chinese(token) for token in tokenizer.vocabulary])
    chinese = single[ids]
    pair = chinese[:-1] & chinese[1:]
    pair[offsets[1:-1] - 1] = False  # the last token of a row and the first of the next
    codes = ids[:-1].astype(np.int64) * tokenizer.vocab_size + ids[1:]
    counts = np.bincount(ids[chinese], minlength=tokenizer.vocab_size).astype(float)
    _, number, together = np.unique(codes[pair], return_inverse=True, return_counts=True)
    first, second = ids[:-1][pair], ids[1:][pair]
    expected = counts[first] * counts[second] / max(chinese.sum(), 1)
    seen = together[number]
    glued = np.zeros(len(ids), bool)
    glued[1:][pair] = (seen >= SEEN) & (np.log(seen / expected) >= PMI)
    # cut what is longer than a word may be
    run = np.arange(len(ids)) - np.maximum.accumulate(np.where(glued, 0, np.arange(len(ids))))
    glued &= run % LONGEST != 0
    return (glued | tokenizer.continuation[ids]).astype(np.int32)
