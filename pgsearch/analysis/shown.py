"""Configurations, groups of trials and leaderboards as tables for people."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pgsearch.analysis.caveats import caveats, epoch_words
from pgsearch.analysis.columns import plain_text
from pgsearch.analysis.formats import Cell, Table, missing, number, percent
from pgsearch.analysis.metric import Metric, MetricColumn
from pgsearch.analysis.pivot import places
from pgsearch.analysis.replicates import Replicates
from pgsearch.analysis.tables import PARTS, label, short_params
from pgsearch.config import SearchSpec


def configuration_table(
    rows: pd.DataFrame, found: Replicates, metrics: Mapping[str, str], *, top: int | None = None
) -> Table:
    """Return configurations over their seeds, one per row.

    Args:
        rows: what `by_configuration` returns.
        found: the trials that it is of.
        metrics: the columns that were averaged, by their names there.
        top: show no more than the best by the first metric; None is all.
    """
    subject, titles = _titles(list(metrics.values()))
    columns = _metric_columns(rows, metrics, found)
    shown, hidden = best_rows(rows, *next(iter(metrics.items())), top)
    cells = [
        (
            _search_cell(row["search"], row["selected_on"]),
            Cell(row["label"]),
            n_cell(row["n"], row["seeds"]),
            *_metric_cells(row, columns),
        )
        for row in shown.to_dict("records")
    ]
    return Table(
        title=f"{subject} {epoch_words(found)}, mean ± std over n seeds",
        columns=("search", "configuration", "n", *titles),
        rows=tuple(cells),
        notes=(*hidden, *_partly_missing(shown, columns), *_caveats(found, columns)),
        text_columns=frozenset({"search", "configuration"}),
    )


def grouped_table(
    rows: pd.DataFrame,
    found: Replicates,
    metrics: Sequence[str],
    *,
    by: Sequence[str],
    top: int | None = None,
) -> Table:
    """Return groups of trials, one per row.

    Args:
        rows: what `grouped` returns.
        found: the trials that it is of.
        metrics: the columns that were averaged.
        by: the columns that they are grouped by.
        top: show no more than the best by the first metric; None is all.
    """
    subject, titles = _titles(metrics)
    columns = _metric_columns(rows, dict(zip(metrics, metrics, strict=True)), found)
    shown, hidden = best_rows(rows, metrics[0], metrics[0], top)
    cells = [
        (
            *(_setting_cell(row[column]) for column in by),
            Cell(str(row["n"]), value=row["n"]),
            *_metric_cells(row, columns),
        )
        for row in shown.to_dict("records")
    ]
    said = (*hidden, *_spread(rows, found), *_partly_missing(shown, columns))
    return Table(
        title=f"{subject} {epoch_words(found)}, mean ± std over n trials",
        columns=(*by, "n", *titles),
        rows=tuple(cells),
        notes=(*said, *_caveats(found, columns)),
        text_columns=frozenset(by),
    )


def crossed_table(
    rows: pd.DataFrame, found: Replicates, metric: str, *, by: Sequence[str], across: str
) -> Table:
    """Return groups of trials, one per cell.

    Args:
        rows: what `grouped` returns, grouped by `by` and then `across`.
        found: the trials that it is of.
        metric: the column that was averaged.
        by: columns whose values make the rows.
        across: column whose values make the columns.
    """
    # Places among all trials: texts stand in the order of their first trial, not of the rows.
    place = places(pd.concat([found.frame[across], rows[across]], ignore_index=True))
    rows = rows.assign(
        line=rows.groupby([*by], sort=False, dropna=False).ngroup(),
        place=place.tail(len(rows)).to_numpy(),
    )
    headers = rows.drop_duplicates("place").sort_values("place")
    columns = {
        place: _metric_columns(rows[rows["place"] == place], {metric: metric}, found)
        for place in headers["place"]
    }
    cells = []
    for _, line in rows.groupby("line"):
        at = {row["place"]: row for row in line.to_dict("records")}
        first = next(iter(at.values()))
        cells.append(
            (
                *(_setting_cell(first[column]) for column in by),
                *(
                    _crossed_cell(at[place], columns[place]) if place in at else missing()
                    for place in columns
                ),
            )
        )
    return Table(
        title=f"{Metric(metric).title} {epoch_words(found)}, by {across}, mean ± std (n trials)",
        columns=(*by, *_headers(headers[across].tolist(), across, taken=by)),
        rows=tuple(cells),
        notes=(*_spread(rows, found), *_caveats(found, columns[headers["place"].iloc[0]])),
        text_columns=frozenset(by),
    )


def leaderboard_table(
    boards: Mapping[str, pd.DataFrame],
    specs: Mapping[str, SearchSpec],
    *,
    top: int | None = None,
    notes: Sequence[str] = (),
) -> Table:
    """Return the trials of searches, the best of each search first.

    Args:
        boards: what `leaderboard` returns, by search.
        specs: the searches.
        top: show no more of each search; None is all.
        notes: more that a reader must know.
    """
    several = len(boards) > 1
    staged = any(spec.stages is not None for spec in specs.values())
    splits = {"val": "validation", "test": "test"}
    maps = {f"{s} {part}": f"map.{splits[s]}.{part}" for s in splits for part in PARTS}
    cells, hidden = [], []
    for search, board in boards.items():
        shown = board if top is None else board.head(top)
        hidden += _hidden(len(board) - len(shown), search if several else "")
        for row in shown.to_dict("records"):
            trial = (
                Cell(str(row["number"]), value=row["number"]),
                *([Cell(str(row["stage"] or ""))] if staged else []),
                Cell(row["state"]),
                Cell(str(row["seed"]), value=row["seed"]),
                number(row["epoch"], 0),
                *(percent(row[column]) for column in maps.values()),
                Cell(label(row["variant"], short_params(row["params"]))),
            )
            cells.append((Cell(search), *trial) if several else trial)
    judges = [f"{search}: {spec.objective[0].column}" for search, spec in specs.items()]
    return Table(
        title=f"mAP in % after the last epoch, best first by its objective ({'; '.join(judges)})",
        columns=(*(["search"] if several else []), "trial", *(["stage"] if staged else []), "state",
                 "seed", "epoch", *maps, "parameters"),
        rows=tuple(cells),
        notes=(*hidden, *notes),
        text_columns=frozenset({"search", "stage", "state", "parameters"}),
    )  # fmt: skip


def best_rows(
    rows: pd.DataFrame, name: str, metric: str, top: int | None
) -> tuple[pd.DataFrame, list[str]]:
    """Return the best rows by the mean of a metric, and notes on those that are not shown.

    Args:
        rows: all of them; where there are no more than `top`, their order stays.
        name: of the metric in the rows.
        metric: its column in the ledger.
        top: how many; None is all.
    """
    if top is None or len(rows) <= top:
        return rows, []
    ascending = Metric(metric).better == "lower"
    best = rows.sort_values(f"{name}.mean", ascending=ascending, kind="stable").head(top)
    by = f"the {'lowest' if ascending else 'highest'} {metric} first"
    return best, [by, *_hidden(len(rows) - top)]


def n_cell(n: int, seeds: int) -> Cell:
    """Return how many seeds a row is over, beside how many there are to be, where it has fewer."""
    return Cell(str(n) if n >= seeds else f"{n} of {seeds}", value=n)


def _search_cell(search: str, selected_on: object) -> Cell:
    return Cell(
        search, details={"selected on": selected_on} if isinstance(selected_on, str) else {}
    )


def _titles(metrics: Sequence[str]) -> tuple[str, list[str]]:
    """Return what a table is about, and the titles of its metrics."""
    split = Metric(metrics[0]).split
    if all(metric.rpartition(".")[0] == f"map.{split}" for metric in metrics):
        return f"mAP in % on {split}", [f"mAP {metric.rpartition('.')[2]}" for metric in metrics]
    titles = [Metric(metric).title for metric in metrics]
    return titles[0] if len(titles) == 1 else "Metrics", titles


def _metric_columns(
    rows: pd.DataFrame, metrics: Mapping[str, str], found: Replicates
) -> dict[str, MetricColumn]:
    return {
        name: MetricColumn(Metric(column), rows[f"{name}.mean"], marks_best=not found.is_mixed)
        for name, column in metrics.items()
    }


def _metric_cells(row: Mapping[Any, Any], columns: Mapping[str, MetricColumn]) -> list[Cell]:
    return [
        column.cell(row[f"{name}.mean"], row[f"{name}.std"], row[f"{name}.n"], of=row["n"])
        for name, column in columns.items()
    ]


def _crossed_cell(row: Mapping[Any, Any], columns: Mapping[str, MetricColumn]) -> Cell:
    ((name, column),) = columns.items()
    return column.cell(row[f"{name}.mean"], row[f"{name}.std"], row[f"{name}.n"])


def _hidden(count: int, search: str = "") -> list[str]:
    of = f" of {search}" if search else ""
    return [f"and {count:,} more{of}: --top N or --format csv"] if count > 0 else []


def _setting_cell(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(plain_text(value), value=value if is_number and value == value else None)


def _headers(values: Sequence[Any], across: str, *, taken: Sequence[str]) -> list[str]:
    """Return a different title for each value of the column that makes the columns."""
    texts = [plain_text(value) for value in values]
    if len({*texts, *taken}) == len(texts) + len(taken):
        return texts
    return [f"{across}={value!r}" for value in values]


def _spread(rows: pd.DataFrame, found: Replicates) -> list[str]:
    """Say of what the means of groups are, where not of all their trials or of seeds alone."""
    notes = []
    if repeated := len(found.frame) - int(rows["n"].sum()):
        notes.append(f"left out: {repeated} that repeat a configuration and seed of another search")
    if rows["configurations"].max() < 2:
        return notes
    notes.append("a std is over all trials of its group: over seeds and over configurations")
    if chosen := [search for search, spec in found.specs.items() if spec.method == "search"]:
        notes.append(
            f"the sampler of {', '.join(chosen)} prefers what is good: a mean over its trials is "
            "not one over its space"
        )
    return notes


def _partly_missing(rows: pd.DataFrame, columns: Mapping[str, MetricColumn]) -> list[str]:
    counts = rows[[f"{name}.n" for name in columns]]
    is_part = counts.gt(0) & counts.lt(rows["n"], axis="index")
    return ["(k): only k of the n trials have this number"] if is_part.any(axis=None) else []


def _caveats(found: Replicates, columns: Mapping[str, MetricColumn]) -> tuple[str, ...]:
    return caveats(found, [column.metric for column in columns.values()])
