"""The report of some searches: one HTML file with all that it needs inside."""

import base64
import hashlib
import importlib.resources
from collections.abc import Callable, Sequence
from typing import Any, Final

from markupsafe import Markup

from pgsearch import __version__
from pgsearch.analysis.compare import as_tables, compare
from pgsearch.analysis.figures import Figure, NotDrawn, figures_of, render
from pgsearch.analysis.selection import Selection, selection_of
from pgsearch.errors import UsageError
from pgsearch.provenance import utc_now
from pgsearch.results import Ledger
from pgsearch.search.retrain import retraining_as_yaml
from pgsearch.web import facts
from pgsearch.web.analysis_pages import factors_of, table_facts, tables_of
from pgsearch.web.figure_pages import figure_facts
from pgsearch.web.pages import about, label, leaderboard
from pgsearch.web.reading import Reading, noting_damage, read_search
from pgsearch.web.rendering import templates
from pgsearch.web.trial_page import trial

BEST_SHOWN: Final = 3
NUM_FRESH_SEEDS: Final = 3
MAX_ROWS: Final = 500
"""Of a leaderboard."""
MAX_COMPARED: Final = 20
"""Configurations beside the reference."""
MAX_SVG_BYTES: Final = 400_000
"""A larger drawing, one of very many points, is smaller as PNG."""


def report(
    ledgers: Sequence[Ledger], *, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> str:
    """Return the report of some searches as HTML; it names damaged files that were left out.

    Args:
        ledgers: the searches.
        progress: is called with the number of figures that are drawn and that there are.

    Raises:
        UsageError: a search is named twice.
        StorageError: one cannot be read.
    """
    readings = [read_search(ledger) for ledger in ledgers]
    with noting_damage():  # each reading has it
        return _report(readings, progress)


def _report(readings: Sequence[Reading], progress: Callable[[int, int], None]) -> str:
    ledgers = [reading.ledger for reading in readings]
    figures = figures_of(ledgers)
    drawn = []
    for place, figure in enumerate(figures):
        progress(place, len(figures))
        drawn.append(_figure(figure))
    progress(len(figures), len(figures))
    tables, no_tables = tables_of(ledgers)
    script, style = _static("script.js"), _static("style.css")
    script_hash = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        templates()
        .get_template("report.html")
        .render(
            searches=[_of_search(reading) for reading in readings],
            tables=tables,
            no_tables=no_tables,
            comparison=_comparison(readings),
            figures=drawn,
            made_utc=utc_now(),
            pgsearch=__version__,
            style=Markup(style),  # noqa: S704  ours
            script=Markup(script),  # noqa: S704  ours
            script_hash=script_hash,
            live=False,
            factors=[factors_of(reading) for reading in readings],
        )
    )


def _static(name: str) -> str:
    return (importlib.resources.files("pgsearch.web") / "static" / name).read_text("utf-8")


def _of_search(reading: Reading) -> dict[str, Any]:
    board = leaderboard(reading, limit=MAX_ROWS)
    first = board.search.best_trial
    return {
        "about": about(reading),
        "board": board,
        "spec": reading.spec,
        "best": _best(reading),
        "first": None if first is None else trial(reading, first),
    }


def _best(reading: Reading) -> list[dict[str, Any]]:
    """Return the best configurations, each with a spec that trains it with fresh seeds."""
    spec = reading.spec
    if len(spec.objective) > 1:
        return []
    return [
        {
            "number": row["number"],
            "label": label(row),
            "value": row["value"],
            "n": row["n"],
            "yaml": retraining_as_yaml(
                reading.ledger,
                row,
                name=f"{spec.name[:80]}_trial_{row['number']}",
                purpose=f"The configuration of trial {row['number']} of {spec.name}, with fresh "
                "seeds",
                num_seeds=NUM_FRESH_SEEDS,
            ),
        }
        for row in reading.ranked.head(BEST_SHOWN).to_dict("records")
    ]


def _comparison(readings: Sequence[Reading]) -> dict[str, Any] | None:
    """Compare the first configuration with the others; None where there is nothing to compare.

    Of an ablation that is each configuration, of a search its best.
    """
    selections = [selection for reading in readings for selection in _compared(reading)]
    replicated = [s for s in selections if len(s.replicates) > 1]
    if len(replicated) < 2:
        return None
    found: dict[str, Any] = {"left": len(replicated) - 1 - MAX_COMPARED, "problem": None}
    try:
        compared = compare(replicated[0], *replicated[1 : MAX_COMPARED + 1])
    except UsageError as error:
        return {**found, "problem": str(error), "tables": []}
    return {**found, "tables": [table_facts(table) for table in as_tables(compared)]}


def _compared(reading: Reading) -> list[Selection]:
    ranked = reading.ranked
    rows = ranked.sort_values("number") if reading.spec.method == "grid" else ranked.head(1)
    return [selection_of(reading.ledger, str(i)) for i in rows["configuration_id"]]


def _figure(figure: Figure | NotDrawn) -> tuple[facts.FigureFacts, str | None]:
    """Return what is said of a figure, and where it is: in the address itself."""
    if isinstance(figure, NotDrawn):
        return figure_facts(figure), None
    kind, data = "svg+xml", render(figure, "svg")
    if len(data) > MAX_SVG_BYTES:
        kind, data = "png", render(figure, "png")
    return figure_facts(figure), f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
