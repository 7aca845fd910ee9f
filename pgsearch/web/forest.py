"""Where the differences of a comparison go: rows of points with intervals around a zero line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pgsearch.analysis.formats import MISSING
from pgsearch.web.chart import round_marks
from pgsearch.web.facts import ContrastFacts

WIDTH: Final = 760
ROW: Final = 22
TOP: Final = 6
BOTTOM: Final = 34
LABELS: Final = 150
NUMBERS: Final = 178
MAX_NAME: Final = 22


@dataclass(frozen=True)
class Row:
    """One difference, in % points; a place is missing where the number is."""

    name: str
    kind: str
    """total, or the group that gives the colour."""
    y: float
    begins_classes: bool
    text: str
    x: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Forest:
    """What the SVG needs."""

    rows: tuple[Row, ...]
    marks: tuple[tuple[float, str], ...]
    zero: float
    width: int
    height: int
    left: int
    right: int
    bottom: int


def forest(contrasts: Sequence[ContrastFacts]) -> Forest | None:
    """Place differences, the classes below the others and by their size; None without any."""
    contrasts = sorted(contrasts, key=lambda c: -math.inf if c.count is None else -c.count)
    numbers = [v for c in contrasts for v in (c.difference, c.low, c.high) if v is not None]
    if not numbers:
        return None
    marks = round_marks(100 * min(0.0, *numbers), 100 * max(0.0, *numbers))
    right = WIDTH - NUMBERS

    def x_of(fraction: float | None) -> float | None:
        if fraction is None:
            return None
        share = (100 * fraction - marks[0]) / (marks[-1] - marks[0])
        return round(LABELS + (right - LABELS) * share, 1)

    rows = tuple(
        Row(
            name=c.over if len(c.over) <= MAX_NAME else f"{c.over[: MAX_NAME - 1]}…",
            kind=c.group or c.over,
            y=TOP + ROW * (i + 0.5),
            begins_classes=c.group is not None and i > 0 and contrasts[i - 1].group is None,
            text=_text(c),
            x=x_of(c.difference),
            low=x_of(c.low),
            high=x_of(c.high),
        )
        for i, c in enumerate(contrasts)
    )
    bottom = TOP + ROW * len(rows)
    return Forest(
        rows=rows,
        marks=tuple((x_of(mark / 100) or 0.0, f"{mark:+g}" if mark else "0") for mark in marks),
        zero=x_of(0.0) or 0.0,
        width=WIDTH,
        height=bottom + BOTTOM,
        left=LABELS,
        right=right,
        bottom=bottom,
    )


def _text(contrast: ContrastFacts) -> str:
    if contrast.difference is None:
        return MISSING
    text = f"{100 * contrast.difference:+.2f}"
    if contrast.low is None or contrast.high is None:
        return text
    return f"{text}  [{100 * contrast.low:+.2f}, {100 * contrast.high:+.2f}]"
