"""Clean text: Unicode form, control characters, markup, links, mentions, whitespace and length bounds, with counts.

Notable here:
- Entities are unescaped only where the semicolon stands, so that ``?a=1&region=2`` stays what it was.
- A link ends at a Chinese or Japanese character, because those languages write no space after it.
- Every dropped row is counted under one reason; nothing is dropped silently.
- Rows (:func:`clean_text`) become one line. Documents (``DOCUMENT_STAGES``) keep their lines and paragraphs.
"""

from __future__ import annotations

import dataclasses
import html
import re
import unicodedata
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import numpy as np

LINK = re.compile(r"(?:https?://|www\.)[^\s\u3000-\u9fff\uff00-\uffef]+", re.IGNORECASE)
MENTION = re.compile(r"(?<![A-Za-z0-9])@\w+")  # the look-behind spares e-mail addresses

_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9]*)(?:\s[^<>]*|/)?>")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
# Tags inside a word or sentence; every other tag separates words as a space does.
_INLINE = frozenset(
    ("a", "abbr", "b", "code", "em", "font", "i", "mark", "s", "small", "span", "strong", "sub", "sup", "u")
)
# Cc, lone surrogates, U+FFFD and the invisible part of Cf. Zero-width joiners (U+200C, U+200D) are kept: Persian,
# Indic scripts and emoji need them. Tab, newline and their kin are whitespace, folded later.
_CONTROL = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\ufffd-\uffff]"
)


@dataclasses.dataclass(frozen=True)
class CleanOptions:
    """What to clean and which rows to keep.

    Args:
        unicode_form: "NFC" composes accents; "NFKC" also folds full-width letters and ligatures; None changes nothing.
        markup: take HTML tags, comments and entities out.
        links: text that takes the place of a link, "" removes it, None leaves links alone.
        mentions: the same for an @mention.
        min_characters: a cleaned text with fewer characters is dropped.
        max_characters: a cleaned text with more characters is dropped; None: no bound.

    Example:
        >>> TWEETS.links, TWEETS.mentions
        ('http', '@user')
    """

    unicode_form: Literal["NFC", "NFKC"] | None = "NFC"
    markup: bool = True
    links: str | None = None
    mentions: str | None = None
    min_characters: int = 1
    max_characters: int | None = None

    def __post_init__(self):
        if self.unicode_form not in ("NFC", "NFKC", None):
            raise ValueError(f'unicode_form is "NFC", "NFKC" or None, not {self.unicode_form!r}')
        if self.max_characters is not None and self.max_characters < self.min_characters:
            raise ValueError(
                f"max_characters {self.max_characters} is below min_characters {self.min_characters}: raise the first"
            )


TWEETS = CleanOptions(links="http", mentions="@user")


class Cleaned(NamedTuple):
    """What :func:`clean_rows` returns."""

    texts: list[str]  # cleaned, only the rows that were kept
    rows: np.ndarray  # (kept,) int64: the row each text came from
    counts: dict[str, int]  # "rows", "kept", "changed" (of the kept), "empty", "too_short", "too_long"


def clean_text(text: str, options: CleanOptions = CleanOptions()) -> str:
    """Clean one text. Length bounds are not looked at here: see :func:`clean_rows`.

    Args:
        text: any string.
        options: what to clean.

    Returns:
        The text on one line, words separated by single spaces; it may be empty.

    Example:
        >>> clean_text("I <b>like</b> it&nbsp;&amp; you,<br/>@bob  http://t.co/x", TWEETS)
        'I like it & you, @user http'

    Reference:
        Unicode Standard Annex 15 (normalisation forms); HTML Living Standard, named character references.
    """
    if options.markup:
        if "<" in text:
            text = _TAG.sub(_separator, _HIDDEN.sub(" ", text))
        if "&" in text:
            text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    text = _CONTROL.sub("", text)
    if options.unicode_form and not text.isascii():
        text = unicodedata.normalize(options.unicode_form, text)
    if options.links is not None:
        text = LINK.sub(lambda _: options.links, text)  # a function: backslashes in the option mean themselves
    if options.mentions is not None:
        text = MENTION.sub(lambda _: options.mentions, text)
    return " ".join(text.split())


def _separator(tag: re.Match) -> str:
    return "" if tag[1].lower() in _INLINE else " "


def clean_rows(texts: Iterable[str], options: CleanOptions = CleanOptions()) -> Cleaned:
    """Clean many texts and drop those that are empty or out of the length bounds, counting each reason.

    Args:
        texts: rows of text.
        options: what to clean and the bounds, in characters of the cleaned text.

    Returns:
        :class:`Cleaned`: texts, the rows they came from, and counts.

    Example:
        >>> cleaned = clean_rows(["fine", " ", "<p>&nbsp;</p>", "ok"], CleanOptions(min_characters=3))
        >>> cleaned.texts, cleaned.rows.tolist(), cleaned.counts["empty"], cleaned.counts["too_short"]
        (['fine'], [0], 2, 1)
    """
    counts = dict.fromkeys(("rows", "kept", "changed", "empty", "too_short", "too_long"), 0)
    kept, rows = [], []
    for row, text in enumerate(texts):
        counts["rows"] += 1
        cleaned = clean_text(text, options)
        if not cleaned:
            counts["empty"] += 1
        elif len(cleaned) < options.min_characters:
            counts["too_short"] += 1
        elif options.max_characters is not None and len(cleaned) > options.max_characters:
            counts["too_long"] += 1
        else:
            counts["changed"] += cleaned != text
            kept.append(cleaned)
            rows.append(row)
    counts["kept"] = len(kept)
    return Cleaned(kept, np.asarray(rows, np.int64), counts)


# Documents ----------------------------------------------------------------------------------------------------------

# What looks like a tag and is none of these is text: <unk>, vector<T>.
_ELEMENT_NAMES = (
    "abbr acronym address article aside audio base big blockquote body br button canvas caption center cite col "
    "colgroup dd del details dfn dialog dir div dl dt embed fieldset figcaption figure footer form frame frameset "
    "h1 h2 h3 h4 h5 h6 head header hr html iframe img input ins kbd label legend li link main map menu meta nav "
    "noframes noscript object ol optgroup option output p param picture pre q samp script section select source "
    "strike style summary svg table tbody td template textarea tfoot th thead time title tr track tt ul var video "
    "wbr"
)
_ELEMENTS = _INLINE | frozenset(_ELEMENT_NAMES.split())
_ODD_SPACE = re.compile(r"[\t\v\f\x1c-\x1f\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_LINE_END = re.compile(r"[^\S\n]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")
# A short line that holds one of these is the page around the text, not the text.
_BOILERPLATE = (
    "terms of use", "terms of service", "terms and conditions apply", "privacy policy", "cookie policy",
    "uses cookies", "use of cookies", "use cookies", "accept cookies", "enable javascript", "javascript is disabled",
    "javascript must be enabled", "all rights reserved", "share on facebook", "share on twitter", "share this:",
    "click here to subscribe", "sign up for our newsletter", "skip to content", "skip to main content",
    "leave a reply cancel", "your email address will not be published", "powered by wordpress",
    "版权所有", "未经许可", "未经授权", "责任编辑", "京icp备", "点击查看更多", "分享到微信", "隐私政策",
)  # fmt: skip
_BOILERPLATE_LINE = 200  # characters; a longer line that mentions cookies may well be about cookies


def normalise(text: str, form: Literal["NFC", "NFKC"] = "NFC") -> str:
    """One Unicode form; lines end in ``\\n`` without spaces before it; plain spaces; at most one blank line.

    Example:
        >>> normalise("Cafe\\u0301 \\r\\n\\r\\n\\r\\n\\tend\\xa0.")
        'Café\\n\\n end .'
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = unicodedata.normalize(form, text)
    text = _LINE_END.sub("", _ODD_SPACE.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", text).strip()


def drop_markup(text: str) -> str:
    """Take HTML tags, comments and entities out; a tag that ends a block ends a line.

    Example:
        >>> drop_markup("<p>A <b>bold</b> word</p><p>R&amp;D, 1 < 2</p>")
        '\\nA bold word\\n\\nR&D, 1 < 2\\n'
    """
    if "<" in text:
        text = _TAG.sub(_line_end, _HIDDEN.sub(" ", text))
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    return text


def _line_end(tag: re.Match) -> str:
    name = tag[1].lower()
    return tag[0] if name not in _ELEMENTS else "" if name in _INLINE else "\n"


def drop_control(text: str) -> str:
    """Take out control characters, lone surrogates, U+FFFD and invisible marks; tabs and line ends stay."""
    return _CONTROL.sub("", text)


def drop_boilerplate(text: str) -> str:
    """Take out the lines that belong to a web page rather than to its text: cookie notices, sharing, copyright.

    Example:
        >>> drop_boilerplate("A story.\\nThis site uses cookies.\\nAll rights reserved. © 2020")
        'A story.'

    Reference:
        Raffel et al., 2020, section 2.2 (C4); the phrases here are of this package.
    """
    lower = text.lower()
    if not any(phrase in lower for phrase in _BOILERPLATE):
        return text
    kept = []
    for line in text.split("\n"):
        lower = line.lower()
        if len(line) > _BOILERPLATE_LINE or not any(phrase in lower for phrase in _BOILERPLATE):
            kept.append(line)
    return "\n".join(kept).strip()


# In this order; each is a pure function of the text.
DOCUMENT_STAGES: dict[str, Callable[[str], str]] = {
    "markup": drop_markup,
    "control": drop_control,
    "normalise": normalise,
    "boilerplate": drop_boilerplate,
}
