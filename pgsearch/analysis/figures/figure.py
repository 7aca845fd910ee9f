"""What a figure is before it is drawn, and why one is not."""

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib.figure
import pandas as pd


@dataclass(frozen=True)
class Figure:
    """A figure of a paper: drawn at its size when asked, with the numbers that it shows."""

    name: str
    """Stem of its files, such as `probability_curves`."""
    title: str
    caption: str
    """What is shown, over what it is a mean, and what was left out. Not part of the drawing."""
    numbers: pd.DataFrame
    """Tidy: one row per point that is drawn. mAP and AP in [0, 1]."""
    draw: Callable[[], matplotlib.figure.Figure]


@dataclass(frozen=True)
class NotDrawn:
    """A figure that does not apply to these searches."""

    name: str
    title: str
    reason: str
