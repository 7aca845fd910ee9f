"""How one measured column is shown: its title, its cells, and which value is the best."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

import pandas as pd

from pgsearch.analysis.columns import is_fraction
from pgsearch.analysis.formats import Cell, number, percent

SIGNIFICANT_DIGITS: Final = 4


@dataclass(frozen=True)
class Metric:
    """A column of the ledger as tables show it."""

    column: str

    @property
    def title(self) -> str:
        """Its name with its unit."""
        return f"{self.column} in %" if is_fraction(self.column) else self.column

    @property
    def split(self) -> str | None:
        """The split that it was measured on; None where it is of none."""
        words = self.column.split(".")
        return next((word for word in words if word in ("validation", "test")), None)

    @property
    def better(self) -> Literal["higher", "lower"] | None:
        """Which values are better; None for what is neither, such as times."""
        if self.column.startswith(("map.", "f1.")):
            return "higher"
        return "lower" if self.column.startswith("loss.") else None


@dataclass(frozen=True)
class MetricColumn:
    """The cells of one metric in one column of a table."""

    metric: Metric
    means: pd.Series
    """All that the column holds, in the ledger's unit."""
    marks_best: bool = True

    @cached_property
    def best(self) -> float:
        """The best mean; NaN where none is better than another, as of the losses of methods."""
        if not self.marks_best or self.metric.better != "higher" or self.means.count() < 2:
            return math.nan
        return float(self.means.max())

    def cell(self, mean: float, std: float, count: int, *, of: int | None = None) -> Cell:
        """Return the cell of a mean over trials.

        Args:
            mean: in the ledger's unit; NaN is missing.
            std: sample standard deviation; NaN where there is none.
            count: trials that have the metric.
            of: trials of the row. A count that differs is shown; None shows it always.
        """
        if is_fraction(self.metric.column):
            cell = percent(mean, std=std)
        else:
            cell = number(mean, _decimals(mean), std=std)
        text = cell.text if math.isnan(mean) or count == of else f"{cell.text} ({count})"
        details = {"std": None, **cell.details}
        details |= {"n": count} if of is None else {}
        return replace(cell, text=text, bold=mean == self.best, details=details)


def _decimals(value: float) -> int:
    """Return how many decimals show the significant digits of a number."""
    if not math.isfinite(value) or value == 0:
        return 2
    return min(max(SIGNIFICANT_DIGITS - 1 - math.floor(math.log10(abs(value))), 0), 12)
