"""The figures of a search for the live page: which apply, and each as SVG and CSV."""

from collections import OrderedDict
from typing import Final

from pgsearch.analysis.figures import Figure, NotDrawn, figures_of, numbers_as_csv, render
from pgsearch.web import facts
from pgsearch.web.pages import summary
from pgsearch.web.reading import NotThere, Reading, noting_damage

MAX_SEARCHES: Final = 2
"""Whose figures are kept in memory: of a large search their numbers are megabytes."""


class Figures:
    """The figures of the searches that were looked at last, each drawn when it is asked for."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], _Drawn] = OrderedDict()

    def page(self, reading: Reading) -> facts.FiguresPage:
        """Return which figures apply to a search, and why others do not."""
        found = [figure_facts(figure) for figure in self._of(reading).figures]
        return facts.FiguresPage(search=summary(reading), version=reading.version, figures=found)

    def drawing(self, reading: Reading, name: str) -> bytes:
        """Return a figure as SVG. Raises NotThere."""
        drawn = self._of(reading)
        figure = _named(drawn.figures, name, reading)
        if name not in drawn.drawings:
            drawn.drawings[name] = render(figure, "svg")
        return drawn.drawings[name]

    def numbers(self, reading: Reading, name: str) -> str:
        """Return the numbers of a figure as CSV. Raises NotThere."""
        return numbers_as_csv(_named(self._of(reading).figures, name, reading))

    def _of(self, reading: Reading) -> "_Drawn":
        key = (reading.name, reading.version)
        with noting_damage():
            if key not in self._kept:
                self._kept[key] = _Drawn(figures_of([reading.ledger]))
            self._kept.move_to_end(key)
            while len(self._kept) > MAX_SEARCHES:
                self._kept.popitem(last=False)
            return self._kept[key]


class _Drawn:
    def __init__(self, figures: list[Figure | NotDrawn]) -> None:
        self.figures = figures
        self.drawings: dict[str, bytes] = {}


def figure_facts(figure: Figure | NotDrawn) -> facts.FigureFacts:
    """Return what a page says of a figure."""
    if isinstance(figure, NotDrawn):
        return facts.FigureFacts(name=figure.name, title=figure.title, reason=figure.reason)
    return facts.FigureFacts(name=figure.name, title=figure.title, caption=figure.caption)


def _named(figures: list[Figure | NotDrawn], name: str, reading: Reading) -> Figure:
    for figure in figures:
        if figure.name == name and isinstance(figure, Figure):
            return figure
    drawn = [figure.name for figure in figures if isinstance(figure, Figure)]
    raise NotThere(
        f"{reading.name} has no figure {name!r}; there are {', '.join(drawn) or 'none'}."
    )
