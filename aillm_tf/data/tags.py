"""Tags of named entities: the schemes IOB1, IOB2, BIOES and BILOU read, repaired and written as IOB2.

An entity begins at B and S, and at I and E that do not continue one of their type; it ends before the next beginning
or O, and at E and S. That is conlleval's rule and seqeval's default, and reads every scheme and every broken sequence;
which scheme a file has only decides what counts as broken.

Reference:
    Ramshaw & Marcus, "Text Chunking using Transformation-Based Learning", 1995, https://arxiv.org/abs/cmp-lg/9505040;
    https://github.com/chakki-works/seqeval
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

OUTSIDE = "O"
NEARLY_ALL = 0.9
_TAG = re.compile(r"([BIESLUMW])[-_](.+)")
# BILOU and BMEWO call the same things by other letters.
_PREFIX = {"L": "E", "U": "S", "M": "I", "W": "S"}


class Entity(NamedTuple):
    """An entity: units ``start`` to before ``end`` of a sentence."""

    type: str
    start: int
    end: int


def split_tag(tag: str) -> tuple[str, str]:
    """A tag's prefix (B, I, E, S or O) and type ("" for O).

    Raises:
        ValueError: it is not a tag of a known scheme.

    Example:
        >>> split_tag("B-creative-work"), split_tag("U-LOC"), split_tag("O")
        (('B', 'creative-work'), ('S', 'LOC'), ('O', ''))
    """
    if tag == OUTSIDE:
        return OUTSIDE, ""
    match = _TAG.fullmatch(tag)
    if match is None:
        raise ValueError(f"{tag!r} is no tag: known are O and, with a type, B- I- E- S- (also L- U- M- W-)")
    return _PREFIX.get(match[1], match[1]), match[2]


def entities(tags: Sequence[str], strict: bool = False) -> list[Entity]:
    """The entities of a sentence.

    Args:
        tags: of its units.
        strict: only what is right in IOB2: B, and I of the same type behind it.

    Example:
        >>> entities(["I-PER", "I-PER", "O", "B-LOC", "B-LOC"])
        [Entity(type='PER', start=0, end=2), Entity(type='LOC', start=3, end=4), Entity(type='LOC', start=4, end=5)]
        >>> entities(["I-PER", "I-PER", "O", "B-LOC"], strict=True)
        [Entity(type='LOC', start=3, end=4)]
    """
    found: list[Entity] = []
    begun, before, kind_before = None, OUTSIDE, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = split_tag(tag)
        continues = prefix in ("I", "E") and before in ("B", "I") and kind == kind_before
        if begun is not None and not continues:
            found.append(Entity(kind_before, begun, place))
            begun = None
        starts = prefix == "B" if strict else prefix != OUTSIDE
        if begun is None and starts:
            begun = place
        before, kind_before = prefix, kind
    return found


def iob2(entities_: Iterable[Entity], length: int) -> list[str]:
    """Tags of a sentence of so many units.

    Example:
        >>> iob2([Entity("PER", 0, 2)], 3)
        ['B-PER', 'I-PER', 'O']
    """
    tags = [OUTSIDE] * length
    for kind, start, end in entities_:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tags


def to_iob2(sentences: Sequence[Sequence[str]], labels: Iterable[str]) -> Sequence[Sequence[str]]:
    """Tags that a head predicted, in the scheme that targets have.

    E- and S- among its labels say that a head is one of BIOES. One of IOB1 has the labels of IOB2, but nearly all of
    its entities begin with I-. Tags of IOB2 stay as they are, broken ones too: strict scores are to see them.

    Args:
        sentences: tags of each.
        labels: of the head.

    Example:
        >>> to_iob2([["I-PER", "I-PER", "O", "I-LOC"]], ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])
        [['B-PER', 'I-PER', 'O', 'B-LOC']]
    """
    if not any(split_tag(label)[0] in "ES" for label in labels):
        firsts = [split_tag(tags[entity.start])[0] for tags in sentences for entity in entities(tags)]
        if firsts.count("I") <= NEARLY_ALL * len(firsts):
            return sentences
    return [iob2(entities(tags), len(tags)) for tags in sentences]


def tag_names(types: Iterable[str]) -> list[str]:
    """The labels of a tagger for entities of these types.

    Example:
        >>> tag_names(["LOC", "PER"])
        ['O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER']
    """
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]


def scheme_of(sentences: Iterable[Sequence[str]]) -> str:
    """ "BIOES", "IOB2" or "IOB1": in IOB1 alone an I begins entities and a B only parts two of one type.

    Example:
        >>> scheme_of([["I-PER", "I-PER", "B-PER", "O"]]), scheme_of([["B-PER", "I-PER", "O"]])
        ('IOB1', 'IOB2')
    """
    i_begins = b_begins = False
    for tags in sentences:
        before = ""
        for prefix, kind in map(split_tag, tags):
            if prefix in "ES":
                return "BIOES"
            i_begins |= prefix == "I" and kind != before
            b_begins |= prefix == "B" and kind != before
            before = kind
    return "IOB1" if i_begins and not b_begins else "IOB2"


def broken(tags: Sequence[str], scheme: str) -> int:
    """How many tags of a sentence stand where the scheme does not allow them.

    Example:
        >>> broken(["I-PER", "O"], "IOB2"), broken(["I-PER", "O"], "IOB1"), broken(["B-PER", "O"], "BIOES")
        (1, 0, 1)
    """
    if scheme == "IOB1":
        return 0
    parts = [split_tag(tag) for tag in tags]
    outside = (OUTSIDE, "")
    wrong = 0
    for before, (prefix, kind), after in zip([outside, *parts], parts, [*parts[1:], outside], strict=False):
        inside = before[0] in ("B", "I") and before[1] == kind
        goes_on = after[0] in ("I", "E") and after[1] == kind
        no_begin = prefix in ("I", "E") and not inside
        no_end = scheme == "BIOES" and prefix in ("B", "I") and not goes_on
        wrong += no_begin or no_end
    return wrong
