"""The pages of tables, comparisons and figures, as facts; what they say, analysis says."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from pgsearch.analysis.compare import as_tables, compare
from pgsearch.analysis.formats import Table
from pgsearch.analysis.mattered import what_mattered
from pgsearch.analysis.replicates import replicates
from pgsearch.analysis.selection import selection_of
from pgsearch.analysis.shown import configuration_table
from pgsearch.analysis.tables import PARTS, by_configuration
from pgsearch.errors import UsageError
from pgsearch.results import Ledger
from pgsearch.web import facts
from pgsearch.web.pages import finite, label, summary
from pgsearch.web.reading import Reading, noting_damage

MOST_CHOICES: Final = 200
"""Configurations to compare: the best."""
MOST_ROWS: Final = 200
"""Of a table of configurations: the best."""
SPLITS: Final[tuple[facts.Split, ...]] = ("test", "validation")


def tables(reading: Reading) -> facts.TablesPage:
    """Return the configurations of a search over their seeds, on each split that was evaluated."""
    found, problem = tables_of([reading.ledger])
    return facts.TablesPage(
        search=summary(reading), version=reading.version, tables=found, problem=problem
    )


def tables_of(ledgers: Sequence[Ledger]) -> tuple[list[facts.TableFacts], str | None]:
    """Return the configurations of some searches in one table per split, or why there is none."""
    try:
        with noting_damage():  # each page and the report name it once
            found = [_configurations(ledgers, split) for split in SPLITS]
    except UsageError as error:
        return [], str(error)
    return [table for table in found if table is not None], None


def _configurations(ledgers: Sequence[Ledger], split: str) -> facts.TableFacts | None:
    metrics = {part: f"map.{split}.{part}" for part in PARTS}
    found = replicates(ledgers, metrics.values())
    rows = by_configuration(found, metrics)
    if rows["total.n"].sum() == 0:
        return None
    return table_facts(configuration_table(rows, found, metrics, top=MOST_ROWS))


def factors(reading: Reading) -> facts.TablesPage:
    """Return what mattered in a search: importance, effects, fixed against adaptive, the front."""
    found, problem = factors_of(reading)
    return facts.TablesPage(
        search=summary(reading), version=reading.version, tables=found, problem=problem
    )


def factors_of(reading: Reading) -> tuple[list[facts.TableFacts], str | None]:
    """Return the tables of what mattered, or why there is none."""
    if not reading.spec.space:
        return [], f"{reading.name} has no space, only variants: see its configurations."
    try:
        with noting_damage():
            return [table_facts(table) for table in what_mattered(reading.ledger)], None
    except UsageError as error:
        return [], str(error)


def comparison(
    reading: Reading, a: str | None = None, b: str | None = None, split: facts.Split = "test"
) -> facts.ComparisonPage:
    """Compare two configurations of a search, over all classes, the groups and class by class.

    Args:
        reading: of the search.
        a: configuration_id of the reference; None: the first that was trained.
        b: of the other; None: the best.
        split: that the mAP are of.
    """
    choices = _choices(reading)
    found: dict[str, Any] = {}
    if len(choices) < 2:
        found["problem"] = "There are no two configurations with complete trials to compare yet."
    else:
        a, b = _defaults(reading, a, b)
        try:
            with noting_damage():
                found = _compared(reading.ledger, a, b, split)
        except UsageError as error:
            found["problem"] = str(error)
    return facts.ComparisonPage(
        search=summary(reading),
        version=reading.version,
        choices=choices,
        a=a,
        b=b,
        split=split,
        **found,
    )


def _choices(reading: Reading) -> list[facts.Choice]:
    return [
        facts.Choice(
            id=row["configuration_id"],
            label=label(row) or f"trial {row['number']}",
            seeds=row["n"],
        )
        for row in reading.ranked.head(MOST_CHOICES).to_dict("records")
    ]


def _defaults(reading: Reading, a: str | None, b: str | None) -> tuple[str, str]:
    best = [str(identity) for identity in reading.ranked["configuration_id"]]
    first = [str(i) for i in reading.ranked.sort_values("number")["configuration_id"]]
    b = b or next(identity for identity in best if identity != a)
    return a or next(identity for identity in first if identity != b), b


def _compared(ledger: Ledger, a: str, b: str, split: facts.Split) -> dict[str, Any]:
    found = compare(selection_of(ledger, a), selection_of(ledger, b), split=split, by_class=True)
    contrasts = [
        facts.ContrastFacts(
            over=contrast.over,
            group=contrast.group,
            count=contrast.count,
            reference=contrast.reference_mean,
            other=contrast.other_mean,
            n=contrast.difference.n,
            difference=contrast.difference.mean,
            low=contrast.difference.low,
            high=contrast.difference.high,
        )
        for contrast in found.contrasts
    ]
    tables = [table_facts(_without(table, "configuration")) for table in as_tables(found)]
    return {"contrasts": contrasts, "tables": tables}


def _without(table: Table, column: str) -> Table:
    """Return a table without a column that says the same in every row."""
    kept = [place for place, name in enumerate(table.columns) if name != column]
    return replace(
        table,
        columns=tuple(table.columns[place] for place in kept),
        rows=tuple(tuple(row[place] for place in kept) for row in table.rows),
        text_columns=table.text_columns - {column},
    )


def table_facts(table: Table) -> facts.TableFacts:
    """Return a table as the pages and their twins show it."""
    return facts.TableFacts(
        title=table.title,
        columns=list(table.columns),
        text_columns=[column for column in table.columns if column in table.text_columns],
        rows=[
            [
                facts.CellFacts(
                    text=cell.text,
                    value=finite(cell.value),
                    is_best=cell.bold,
                    details={name: finite(value) for name, value in cell.details.items()},
                )
                for cell in row
            ]
            for row in table.rows
        ],
        notes=list(table.notes),
    )
