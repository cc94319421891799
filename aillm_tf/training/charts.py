"""Line charts as inline SVG, coloured by the page's CSS: no library, no network, sharp at any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

MOST_POINTS = 500  # of a drawn line; more are indistinguishable and only make the page heavy
MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 58, 26, 12, 40
FONT_WIDTH = 7.0  # of a digit at 12 px, to keep tick labels apart


class Line(NamedTuple):
    """One line of a chart.

    Attributes:
        name: in the legend; "" for none.
        xs: x values, ascending.
        ys: y values, as many.
        style: CSS classes: a colour "c0" .. "c5", and "raw" (faint), "dots" (marks at the points) or "dots alone"
            (no line between them).
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    style: str = "c0"


def chart(title: str, lines: Sequence[Line], x_label: str) -> str:
    """A figure with one drawing for wide screens and one for phones; CSS shows the one that fits.

    Args:
        title: the caption.
        lines: drawn in this order; empty ones are left out.
        x_label: below the x axis.

    Returns:
        HTML, or "" if no line has a point.

    Example:
        >>> chart("Loss", [Line("", [1, 2, 3], [3.0, 2.0, 1.5])], "step").count("<svg")
        2
    """
    lines = [Line(line.name, *_finite(line.xs, line.ys), line.style) for line in lines]
    lines = [line for line in lines if len(line.xs)]
    if not lines:
        return ""
    names = [line for line in lines if line.name]
    legend = "".join(f'<span class="{line.style}"><i></i>{escape(line.name)}</span>' for line in names)
    return (
        f'<figure><figcaption>{escape(title)}<span class="legend">{legend}</span></figcaption>'
        f"{_svg(title, lines, x_label, 880, 300, 'wide')}{_svg(title, lines, x_label, 360, 240, 'narrow')}</figure>"
    )


def smoothed(ys: Sequence[float], span: float) -> list[float]:
    """Exponential moving average over about ``span`` values, unbiased at its beginning.

    Args:
        ys: the values.
        span: 1 gives them back.

    Example:
        >>> smoothed([2.0, 2.0, 2.0], 10)
        [2.0, 2.0, 2.0]
    """
    keep = 1 - 2 / (max(span, 1.0) + 1)
    total = weight = 0.0
    out = []
    for y in ys:
        total, weight = keep * total + (1 - keep) * y, keep * weight + (1 - keep)
        out.append(total / weight)
    return out


def thinned(xs: Sequence[float], ys: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """Fewer points that draw the same picture: the lowest and the highest of each stretch.

    Args:
        xs: x values, ascending.
        ys: y values, as many.
        most: about how many points may stay.

    Example:
        >>> thinned([0, 1, 2, 3], [0.0, 9.0, 1.0, 2.0], most=2)
        ([0, 1], [0.0, 9.0])
    """
    if len(xs) <= most:
        return list(xs), list(ys)
    stretch = math.ceil(2 * len(xs) / most)
    chosen: list[int] = []
    for start in range(0, len(xs), stretch):
        indices = range(start, min(start + stretch, len(xs)))
        chosen += sorted({min(indices, key=ys.__getitem__), max(indices, key=ys.__getitem__)})
    return [xs[i] for i in chosen], [ys[i] for i in chosen]


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers between low and high: about ``count`` multiples of 1, 2 or 5 times a power of ten.

    Example:
        >>> ticks(0.0, 1.0, 5)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if high <= low:
        return [low]
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step)) + 1)
    return [round(n * step, digits) + 0.0 for n in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick's label: 1500 as 1,500, 2e-05 as 2e-5.

    Example:
        >>> [tick_text(v) for v in (0.0, 0.25, 1500.0, 2e-05, 3200000.0)]
        ['0', '0.25', '1,500', '2e-5', '3.2M']
    """
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1000:
        return f"{value:,.0f}"
    if size and size < 1e-3:
        return f"{value:.2g}".replace("e-0", "e-")
    return f"{value:.6g}"


def _finite(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if y is not None and math.isfinite(y)]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _svg(title: str, lines: Sequence[Line], x_label: str, width: int, height: int, css: str) -> str:
    all_x = [x for line in lines for x in line.xs]
    all_y = [y for line in lines for y in line.ys]
    (left, right), (low, high) = _span(all_x, pad=0.0), _span(all_y, pad=0.05)
    x_of = _scale(left, right, MARGIN_LEFT, width - MARGIN_RIGHT)
    y_of = _scale(low, high, height - MARGIN_BOTTOM, MARGIN_TOP)
    parts = [f'<svg class="{css}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">']
    for value in ticks(low, high, 5):
        y = y_of(value)
        parts.append(f'<line class="grid" x1="{MARGIN_LEFT}" x2="{width - MARGIN_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{MARGIN_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick_text(value)}</text>')
    whole = all(float(x).is_integer() for x in all_x)
    widest = max(len(tick_text(left)), len(tick_text(right)))
    room = int((width - MARGIN_LEFT - MARGIN_RIGHT) / (FONT_WIDTH * (widest + 3)))
    for value in ticks(left, right, min(room, 9)):
        if whole and not value.is_integer():
            continue
        parts.append(f'<text x="{x_of(value):.1f}" y="{height - 20}" text-anchor="middle">{tick_text(value)}</text>')
    middle = (MARGIN_LEFT + width - MARGIN_RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text>')
    for line in lines:
        xs, ys = thinned(line.xs, line.ys)
        points = [(x_of(x), y_of(y)) for x, y in zip(xs, ys, strict=True)]
        path = "".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
        parts.append(f'<path class="line {line.style}" d="{path}"/>')
        if "dots" in line.style or len(points) == 1:
            parts += [f'<circle class="{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points]
    return "".join(parts) + "</svg>"


def _span(values: Sequence[float], pad: float) -> tuple[float, float]:
    low, high = float(min(values)), float(max(values))
    if low == high:
        half = abs(low) / 2 or 0.5
        return low - half, high + half
    return low - pad * (high - low), high + pad * (high - low)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - low) / (high - low) * (end - start)
