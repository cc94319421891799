"""Texts with marked stretches, as HTML: what is wrong is best seen where it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """
.marked { margin: 0 0 18px; padding: 10px 16px; border-radius: 10px; background: var(--card); }
.marked p { margin: 4px 0; overflow-wrap: anywhere; white-space: pre-wrap; }
.marked p > span { display: inline-block; min-width: 84px; color: var(--soft); }
.marked mark { padding: 1px 4px; border-radius: 4px; color: inherit; }
.marked mark small { margin-left: 4px; }
.marked .good { background: color-mix(in srgb, var(--c2) 26%, transparent); }
.marked .bad { background: color-mix(in srgb, var(--c1) 34%, transparent); }
"""


def marked_texts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Texts, each as often as it has lines, with what each line marks.

    Args:
        rows: dicts of ``text``; ``note`` above it; and ``lines``, name -> [[start, end, label, good], ...] in the order
            of the text, stretches that do not overlap and whether they are right.

    Example:
        >>> marked_texts([{"text": "in Rome", "note": "dev:1", "lines": {"true": [[3, 7, "LOC", True]]}}])
        '<div class="marked"><small>dev:1</small><p><span>true</span>in <mark class="good">Rome<small>LOC</small></mark></p></div>'
    """  # noqa: E501
    parts = []
    for row in rows:
        lines = (
            f"<p><span>{escape(name)}</span>{_line(row['text'], marks)}</p>" for name, marks in row["lines"].items()
        )
        parts.append(f'<div class="marked"><small>{escape(row["note"])}</small>{"".join(lines)}</div>')
    return "".join(parts)


def _line(text: str, marks: Sequence[Sequence]) -> str:
    parts, at = [], 0
    for start, end, label, good in marks:
        opening = f'<mark class="{"good" if good else "bad"}">'
        parts += [escape(text[at:start]), opening, escape(text[start:end]), f"<small>{escape(label)}</small></mark>"]
        at = end
    return "".join([*parts, escape(text[at:])])
