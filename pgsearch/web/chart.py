"""Where the lines of a chart go: from curves to the numbers of an SVG that a template writes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pgsearch.web.facts import Curves, Series

WIDTH: Final = 440
HEIGHT: Final = 200
LEFT: Final = 44
RIGHT: Final = 8
TOP: Final = 8
BOTTOM: Final = 24
MOST_TICKS: Final = 6
LEAST_SPAN: Final = 1e-4
"""Of an axis, as a part of its largest value; a mean in floating point moves by less."""


@dataclass(frozen=True)
class Line:
    """One series: its path, a dot where a value stands alone, and its values as texts."""

    series: Series
    path: str
    dots: tuple[tuple[float, float], ...]
    texts: tuple[str, ...]
    """One per epoch, for people."""
    last: str


@dataclass(frozen=True)
class Chart:
    """What the SVG needs; all places are in its own units."""

    curves: Curves
    lines: tuple[Line, ...]
    x: tuple[float, ...]
    """Of each epoch."""
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def chart(curves: Curves) -> Chart:
    """Place the lines of some curves, with round numbers on both axes."""
    scale = 100.0 if curves.unit == "%" else 1.0
    values = [scale * v for s in curves.series for v in s.values if v is not None]
    y_marks = round_marks(min(values), max(values))
    low, high = y_marks[0], y_marks[-1]
    first, last = curves.epochs[0], max(curves.epochs[-1], curves.epochs[0] + 1)

    def x_of(epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (epoch - first) / (last - first), 1)

    def y_of(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low), 1)

    x = tuple(x_of(epoch) for epoch in curves.epochs)
    lines = []
    for series in curves.series:
        y = [None if v is None else y_of(scale * v) for v in series.values]
        path, dots = _path(x, y)
        texts = tuple("–" if v is None else _text(v, curves.unit) for v in series.values)
        known = [text for text in texts if text != "–"]
        lines.append(Line(series, path, dots, texts, known[-1]))
    step = max(1, math.ceil((last - first) / MOST_TICKS))
    return Chart(
        curves=curves,
        lines=tuple(lines),
        x=x,
        x_ticks=tuple((x_of(e), str(e)) for e in range(first, last + 1, step)),
        y_ticks=tuple((y_of(mark), f"{mark:g}") for mark in y_marks),
    )


def round_marks(low: float, high: float) -> list[float]:
    """Return a few round numbers, evenly spaced, that reach from below `low` to above `high`.

    Values that differ by less than labels of a few digits could say count as one.
    """
    if high - low <= LEAST_SPAN * max(abs(low), abs(high)):
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / (MOST_TICKS - 2)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10, 20) if power * m >= rough * (1 - 1e-9))
    begin, end = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(begin, end + 1)]


def _path(
    x: Sequence[float], y: Sequence[float | None]
) -> tuple[str, tuple[tuple[float, float], ...]]:
    """Return a path with a gap where a value is missing, and the points without a neighbour."""
    path, dots = [], []
    for i, (x_i, y_i) in enumerate(zip(x, y, strict=True)):
        if y_i is None:
            continue
        begins = i == 0 or y[i - 1] is None
        ends = i + 1 == len(y) or y[i + 1] is None
        if begins and ends:
            dots.append((x_i, y_i))
        else:
            path.append(f"{'M' if begins else 'L'}{x_i:g} {y_i:g}")
    return "".join(path), tuple(dots)


def _text(value: float, unit: str) -> str:
    return f"{100 * value:.2f}" if unit == "%" else f"{value:.4g}"
