"""`pgsearch table`: configurations over seeds, a user's own groups, the paper's rows, trials."""

import functools
import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Json, Results, Searches
from pgsearch.cli.write import Format, Output, Split, Style, chosen_format, plain, write
from pgsearch.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from pgsearch.analysis.formats import Table
    from pgsearch.analysis.replicates import Replicates
    from pgsearch.results import Ledger

Read: TypeAlias = "Callable[..., Replicates]"
"""Reads the trials that are asked for, with some columns."""
Shown: TypeAlias = "tuple[Table, pd.DataFrame]"
"""A table for people, and its numbers as in the ledger."""

ROWS_OF_A_TERMINAL: Final = 50


class WhichEpoch(StrEnum):
    """Epochs of a trial whose numbers can be shown."""

    last = "last"
    best = "best"


class PaperDataset(StrEnum):
    """Data sets that the paper has numbers of."""

    voc_lt = "voc-lt"
    coco_lt = "coco-lt"


def table(
    searches: Searches,
    results: Results = DEFAULT_RESULTS,
    split: Annotated[Split | None, typer.Option(help="Of the mAP; else test.")] = None,
    epoch: Annotated[
        WhichEpoch, typer.Option(help="Best is by the first objective.")
    ] = WhichEpoch.last,
    by: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN,…", help="Group by these instead.")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Its values make the columns.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Instead of mAP.")
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="CONDITION", help="Such as 'loss.name=pg', or != < <= > >=."),
    ] = None,
    paper: Annotated[
        int | None,
        typer.Option(metavar="2|3|4|5", min=2, max=5, help="Beside this table of the paper."),
    ] = None,
    paper_dataset: Annotated[
        PaperDataset | None, typer.Option(help="Whose published rows, if not its own.")
    ] = None,
    board: Annotated[bool, typer.Option("--leaderboard", help="One row per trial.")] = False,
    top: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the best N.")] = None,
    style: Style = None,
    output: Output = None,
    allow_mixed: Annotated[
        bool, typer.Option("--allow-mixed", help="Mix data sets, budgets, image sizes.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print mean ± std of mAP over seeds, per configuration, best in bold.

    COLUMN is one that `pgsearch schema --columns` lists, or its end: lambda1_neg.tail, test.tail.
    """
    from pgsearch.analysis.columns import parse_condition
    from pgsearch.analysis.replicates import replicates
    from pgsearch.results import find_search

    chosen = chosen_format(style, output, as_json=as_json)
    is_screen = chosen is Format.terminal and not as_json
    limit = ROWS_OF_A_TERMINAL if top is None and is_screen else top
    is_best = epoch is WhichEpoch.best
    ledgers = [find_search(name, results) for name in searches]
    read = functools.partial(
        replicates,
        ledgers,
        which_epoch=epoch.value,
        conditions=[parse_condition(text) for text in where or []],
        allow_mixed=allow_mixed,
    )
    if paper_dataset is not None and paper is None:
        raise UsageError("--paper-dataset goes with --paper 2, 3, 4 or 5")
    own_rows = {"by": by, "columns": columns, "metric": metric}
    if board:
        _refuse("--leaderboard", **own_rows, where=where, paper=paper, split=split, epoch=is_best)
        shown = _trials(ledgers, limit)
    elif paper is not None:  # whose numbers are of test, after the last epoch
        _refuse("--paper", **own_rows, top=top, split=split is Split.validation, epoch=is_best)
        shown = _beside_the_paper(ledgers, read, paper, paper_dataset)
    elif by:
        _refuse("--columns", top=top if columns else None)
        names = [name for several in by for name in several.split(",")]
        metrics = _metrics(metric, split, is_one=columns is not None)
        shown = _groups(read, names, columns, metrics, limit)
    elif columns is not None:
        raise UsageError("--columns goes with --by, whose values make the rows")
    else:
        shown = _configurations(read, _metrics(metric, split), limit)
    if as_json:
        typer.echo(json.dumps([plain(row) for row in shown[1].to_dict("records")]))
    else:
        write(shown[0], chosen, output)


def _refuse(option: str, **others: object) -> None:
    for name, value in others.items():
        if value:
            raise UsageError(f"{option} goes without --{name}")


def _metrics(
    names: Sequence[str] | None, split: Split | None, *, is_one: bool = False
) -> dict[str, str]:
    """Return the columns to average, by their names in the frames."""
    from pgsearch.analysis.columns import resolve_metric
    from pgsearch.analysis.tables import PARTS

    if names:
        _refuse("--metric", split=split)
        metrics = {column: column for column in map(resolve_metric, names)}
    else:
        shown = (split or Split.test).value
        parts = PARTS[:1] if is_one else PARTS
        metrics = {part: f"map.{shown}.{part}" for part in parts}
    if is_one and len(metrics) > 1:
        raise UsageError(f"--columns goes with one --metric, not {len(metrics)}")
    return metrics


def _configurations(read: Read, metrics: dict[str, str], top: int | None) -> Shown:
    from pgsearch.analysis.shown import best_rows, configuration_table
    from pgsearch.analysis.tables import by_configuration

    found = read(metrics.values())
    rows = by_configuration(found, metrics)
    best, _ = best_rows(rows, *next(iter(metrics.items())), top)
    return configuration_table(rows, found, metrics, top=top), best


def _groups(
    read: Read, by: Sequence[str], across: str | None, metrics: dict[str, str], top: int | None
) -> Shown:
    from pgsearch.analysis.columns import resolve
    from pgsearch.analysis.pivot import grouped
    from pgsearch.analysis.shown import best_rows, crossed_table, grouped_table

    rows_by = [resolve(name) for name in by]
    keys = rows_by if across is None else [*rows_by, resolve(across)]
    columns = list(metrics.values())
    if len({*keys, *columns}) < len(keys) + len(columns):
        raise UsageError(f"a column is named twice: {', '.join([*keys, *columns])}")
    found = read([*keys, *columns], apart=keys)
    rows = grouped(found, keys, columns)
    if across is not None:
        return crossed_table(rows, found, columns[0], by=rows_by, across=keys[-1]), rows
    best, _ = best_rows(rows, columns[0], columns[0], top)
    return grouped_table(rows, found, columns, by=rows_by, top=top), best


def _beside_the_paper(
    ledgers: "Sequence[Ledger]", read: Read, number: int, named: PaperDataset | None
) -> Shown:
    from pgsearch.analysis import paper
    from pgsearch.analysis.tables import by_configuration

    found = read([*paper.MAPS.values(), *paper.SETTINGS])
    own = paper.paper_dataset(ledgers)
    dataset = paper.require_paper_dataset(own, None if named is None else named.value)
    theirs = paper.published(number, dataset)
    rows = paper.beside_the_paper(by_configuration(found, paper.MAPS), theirs)
    return paper.paper_table(rows, found, number, dataset, is_same=own == dataset), rows


def _trials(ledgers: "Sequence[Ledger]", top: int | None) -> Shown:
    import pandas as pd

    from pgsearch.analysis.replicates import by_name
    from pgsearch.analysis.shown import leaderboard_table
    from pgsearch.analysis.stages import lines
    from pgsearch.analysis.tables import leaderboard

    named = by_name(ledgers)
    boards = {name: leaderboard(ledger) for name, ledger in named.items()}
    specs = {name: ledger.spec() for name, ledger in named.items()}
    notes = [line for ledger in named.values() for line in lines(ledger)]
    shown = [board if top is None else board.head(top) for board in boards.values()]
    return leaderboard_table(boards, specs, top=top, notes=notes), pd.concat(shown)
