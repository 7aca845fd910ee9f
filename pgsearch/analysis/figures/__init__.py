"""Figures for papers from the ledger: drawn at paper size, with the numbers behind each.

They show what was recorded; what does not apply to a search says why. No torch and no pyplot.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from pgsearch.analysis.figures.classes import ap_by_count, class_map
from pgsearch.analysis.figures.curves import adaptive_factors, probability_curves
from pgsearch.analysis.figures.figure import Figure, NotDrawn
from pgsearch.analysis.figures.head_tail import pareto
from pgsearch.analysis.figures.losses import gradient_curves
from pgsearch.analysis.figures.save import FORMATS, numbers_as_csv, render, save, save_numbers
from pgsearch.analysis.figures.space import parallel_coordinates, slices
from pgsearch.analysis.figures.trials import history, learning_curves
from pgsearch.analysis.records import Records, read_records
from pgsearch.analysis.tables import PARTS
from pgsearch.class_groups import GROUPS
from pgsearch.errors import UsageError
from pgsearch.results import FACTORS, Ledger
from pgsearch.results.schema import EVALUATED_SPLITS

__all__ = [
    "FIGURES",
    "FORMATS",
    "Figure",
    "NotDrawn",
    "figures_of",
    "numbers_as_csv",
    "render",
    "save",
    "save_numbers",
]

_OF_ALL: Final[dict[str, Callable[[Sequence[Records], str], Figure | NotDrawn]]] = {
    "probability_curves": lambda searches, _: probability_curves(searches),
    "gradient_curves": lambda searches, _: gradient_curves(searches),
    "adaptive_factors": lambda searches, _: adaptive_factors(searches),
    "ap_by_count": ap_by_count,
}
"""These lay several searches beside each other."""
_OF_EACH: Final[dict[str, Callable[[Records, str], Figure | NotDrawn]]] = {
    "class_map": class_map,
    "learning_curves": learning_curves,
    "history": history,
    "parallel_coordinates": parallel_coordinates,
    "slices": slices,
    "pareto": pareto,
}
FIGURES: Final = (*_OF_ALL, *_OF_EACH)
"""Names of all figures."""

_EPOCH_COLUMNS: Final = (
    *(f"p_{sign}.{group}" for sign in ("pos", "neg") for group in GROUPS),
    *(f"map.{split}.{part}" for split in EVALUATED_SPLITS for part in PARTS),
    "classes",
    "class.count",
    "class.group",
    "class.p_pos",
    "class.p_neg",
    *(f"class.ap.{split}" for split in EVALUATED_SPLITS),
    *(f"class.{factor}" for factor in FACTORS),
)


def figures_of(
    ledgers: Sequence[Ledger], *, names: Sequence[str] | None = None, split: str | None = None
) -> list[Figure | NotDrawn]:
    """Return the figures of some searches, and for those that do not apply why not.

    Nothing is drawn before a figure's `draw` is called. Of several searches, those figures that
    are of one are there once for each, as `history-SEARCH`.

    Args:
        ledgers: the searches, at least one.
        names: some of `FIGURES`; None is all.
        split: validation or test, of mAP and AP; None is what the first search optimises.

    Raises:
        UsageError: an unknown name, or searches that share theirs.
    """
    wanted = FIGURES if names is None else tuple(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in FIGURES]:
        raise UsageError(f"no figure {unknown[0]!r}; there are: {', '.join(FIGURES)}")
    if len({ledger.name for ledger in ledgers}) < len(ledgers):
        names_of_all = ", ".join(ledger.name for ledger in ledgers)
        raise UsageError(
            f"two searches have one name: {names_of_all}; a figure could not tell them apart, so "
            "name each once, or plot them one by one"
        )
    searches = [read_records(ledger, _EPOCH_COLUMNS) for ledger in ledgers]
    split = searches[0].spec.objective[0].split if split is None else split
    figures: list[Figure | NotDrawn] = []
    for name in wanted:
        if name in _OF_ALL:
            figures.append(_OF_ALL[name](searches, split))
            continue
        for records in searches:
            figure = _OF_EACH[name](records, split)
            if len(searches) > 1:
                figure = replace(
                    figure,
                    name=f"{name}-{records.name}",
                    title=f"{figure.title}, {records.name}",
                )
            figures.append(figure)
    return figures
