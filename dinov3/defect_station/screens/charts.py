"""Charts of the page Statistics as inline SVG, in the page's own colours. They hold numbers and days alone; what they
show is said beside them, in both languages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date

from markupsafe import Markup, escape

WIDTH, HEIGHT = 640, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 12, 26  # margins
INNER_WIDTH, INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM


def stacked_bars(days: Sequence[date], series: Mapping[str, Sequence[int]]) -> Markup:
    """A bar a day, of pieces on each other.

    Args:
        series: by CSS class, from the bottom, a count for each day.
    """
    top = nice(max((sum(counts) for counts in zip(*series.values(), strict=True)), default=0))
    pieces = [_axes(days, [(value, f"{value:,.0f}") for value in (0, top / 2, top)], top)]
    slot = INNER_WIDTH / max(len(days), 1)
    for number, counts in enumerate(zip(*series.values(), strict=True)):
        base = 0.0
        for name, count in zip(series, counts, strict=True):
            if count:
                height = INNER_HEIGHT * count / top
                x, y = LEFT + number * slot + 0.12 * slot, TOP + INNER_HEIGHT - base - height
                pieces.append(f'<rect class="{name}" {_box(x, y, 0.76 * slot, height)}/>')
                base += height
    return _svg(pieces)


def share_lines(days: Sequence[date], series: Mapping[str, Sequence[float | None]], least: float = 0.02) -> Markup:
    """Lines of shares, 0 to 1; a day without one has no point.

    Args:
        series: by CSS class, a share for each day.
        least: share that the axis has room for.
    """
    known = [share for shares in series.values() for share in shares if share is not None]
    top = min(1.0, nice(100 * max([least, *known])) / 100)
    pieces = [_axes(days, [(value, f"{100 * value:.3g}%") for value in (0, top / 2, top)], top)]
    for name, shares in series.items():
        points = [(_middle(days, n), _height(v, top)) for n, v in enumerate(shares) if v is not None]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        pieces.append(f'<polyline class="line {name}" points="{path}"/>')
        pieces += [f'<circle class="dot {name}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
    return _svg(pieces)


def heat_map(days: Sequence[date], counts: Sequence[Sequence[int]], limits: Mapping[str, float]) -> Markup:
    """How probabilities are spread on each day, darker where there are more images of that day.

    Args:
        counts: by day, of each of equal ranges from 0 to 1.
        limits: by CSS class, a probability to mark.
    """
    pieces = []
    slot = INNER_WIDTH / max(len(days), 1)
    for number, column in enumerate(counts):
        most = max(column, default=0)
        high = INNER_HEIGHT / max(len(column), 1)
        for bin_number, count in enumerate(column):
            if count:
                shade = 0.12 + 0.88 * math.log1p(count) / math.log1p(most)  # a single image is seen, too
                y = TOP + INNER_HEIGHT - (bin_number + 1) * high
                box = _box(LEFT + number * slot + 0.5, y + 0.5, max(slot - 1, 1), high - 1)
                pieces.append(f'<rect class="heat" {box} fill-opacity="{shade:.2f}"/>')
    pieces.insert(0, _axes(days, [(value, f"{value:.1f}") for value in (0, 0.5, 1)], 1.0))
    for name, value in limits.items():
        y = _height(value, 1.0)
        pieces.append(f'<line class="limit {name}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    return _svg(pieces)


def nice(value: float) -> float:
    """The least of 2, 4, 6, 8, 10, 20, 40, ... that is not below ``value``: its half is a round number, too."""
    value = max(value, 2)
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 6, 8, 10) if step * power >= value - 1e-9)


def _axes(days: Sequence[date], marks: Sequence[tuple[float, str]], top: float) -> str:
    pieces = []
    for value, text in marks:
        y = _height(value, top)
        pieces.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        pieces.append(f'<text class="end" x="{LEFT - 6}" y="{y + 4:.1f}">{escape(text)}</text>')
    step = max(1, math.ceil(len(days) / 8))
    for number in range(len(days) - 1, -1, -step):
        x = _middle(days, number)
        pieces.append(f'<text class="middle" x="{x:.1f}" y="{HEIGHT - 8}">{days[number]:%m-%d}</text>')
    return "".join(pieces)


def _middle(days: Sequence[date], number: int) -> float:
    return LEFT + (number + 0.5) * INNER_WIDTH / max(len(days), 1)


def _height(value: float, top: float) -> float:
    return TOP + INNER_HEIGHT * (1 - value / top)


def _box(x: float, y: float, width: float, height: float) -> str:
    return f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'


def _svg(pieces: Sequence[str]) -> Markup:
    """The figures stand in a table, too; so those who cannot see the chart are not read its numbers."""
    body = "".join(pieces)
    return Markup(f'<svg class="chart-of-days" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{body}</svg>')
