"""The pages about searches, as facts: all searches, the leaderboard, what a search is about."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
import yaml

from pgsearch.analysis import tables
from pgsearch.analysis.columns import short_name
from pgsearch.analysis.tables import PARTS, short_params
from pgsearch.config.trial import Stage
from pgsearch.errors import PgsearchError, UsageError
from pgsearch.results import TrialState
from pgsearch.web import facts
from pgsearch.web.reading import Reading, Readings

FIRST_ROWS: Final = 200
"""Of a leaderboard, unless more are asked for."""
SORT_KEYS: Final = (
    *("rank", "number", "stage", "state", "seed", "epoch", "variant", "label", "error"),
    *(f"{split}.{part}" for split in ("validation", "test") for part in PARTS),
)
SECONDS_PER_HOUR: Final = 3600


def search_list(readings: Readings) -> facts.SearchList:
    """Return all searches, the one with the newest epoch first; also those that are damaged."""
    summaries = [_summary_or_problem(readings, name) for name in readings.names()]
    summaries.sort(key=lambda s: -s.last_epoch_utc.timestamp() if s.last_epoch_utc else math.inf)
    return facts.SearchList(results=readings.results.url, searches=summaries)


def _summary_or_problem(readings: Readings, name: str) -> facts.SearchSummary:
    try:
        return summary(readings.get(name))
    except PgsearchError as error:
        return facts.SearchSummary(name=name, problem=str(error))


def summary(reading: Reading) -> facts.SearchSummary:
    """Return how a search stands."""
    spec = reading.spec
    counts = Counter(reading.board["state"])
    best: dict[str, Any] = {}
    if not reading.ranked.empty and len(spec.objective) == 1:
        first = reading.ranked.iloc[0]
        best = {
            "best": number(first["value"]),
            "best_trial": int(first["number"]),
            "best_label": label(first),
            "best_seeds": int(first["n"]),
        }
    recorded = reading.newest["recorded_utc"].max()
    return facts.SearchSummary(
        name=reading.name,
        purpose=spec.purpose,
        method=spec.method,
        states={state.value: counts[state.value] for state in TrialState if counts[state.value]},
        num_trials=spec.num_trials,
        objective=spec.objective[0].column,
        driver=reading.driver,
        is_running=(reading.driver or "").startswith("running"),
        last_epoch_utc=moment(recorded),
        stages=list(reading.stages),
        damaged=list(reading.damaged),
        **best,
    )


def leaderboard(
    reading: Reading,
    *,
    sort: str = "rank",
    descending: bool = False,
    words: str = "",
    limit: int | None = FIRST_ROWS,
) -> facts.Leaderboard:
    """Return the trials of a search.

    Args:
        reading: of the search.
        sort: one of `SORT_KEYS`, or the name of a dimension; what is missing comes last either way.
        descending: the largest first; of ranks, the worst.
        words: only trials whose number, state, seed, label or error hold all of them.
        limit: of the rows; None is all.

    Raises:
        UsageError: nothing is called as `sort` is.
    """
    board = reading.board.to_dict("records")
    planned = reading.planned_epochs
    rows = [trial_row(row, rank, planned) for rank, row in enumerate(board, start=1)]
    parameters = list(dict.fromkeys(name for row in rows for name in row.parameters))
    if sort not in (*SORT_KEYS, *parameters):
        keys = ", ".join([*SORT_KEYS, *parameters])
        raise UsageError(f"sort: trials have no {sort!r} to sort by; there are: {keys}")
    matching = [row for row in rows if _holds(row, words)]
    ordered = _sorted(matching, sort, descending)
    return facts.Leaderboard(
        search=summary(reading),
        version=reading.version,
        has_stages=reading.spec.stages is not None,
        has_variants=any(row.variant is not None for row in rows),
        parameters=[
            facts.ParameterColumn(name=name, short=short_name(name)) for name in parameters
        ],
        sort=sort,
        descending=descending,
        filter=words,
        num_matching=len(matching),
        rows=ordered[:limit],
    )


def trial_row(
    row: Mapping[Any, Any], rank: int, planned_epochs: Mapping[Stage | None, int]
) -> facts.TrialRow:
    """Return a row of the leaderboard."""
    error, promoted_from = row["error"], row["promoted_from"]
    return facts.TrialRow(
        rank=rank,
        number=row["number"],
        state=row["state"],
        seed=row["seed"],
        label=label(row),
        variant=row["variant"] if isinstance(row["variant"], str) else None,
        stage=row["stage"],
        promoted_from=None if pd.isna(promoted_from) else int(promoted_from),
        planned_epochs=planned_epochs[row["stage"]],
        parameters=row["params"],
        configuration_id=row["configuration_id"],
        epoch=None if pd.isna(row["epoch"]) else int(row["epoch"]),
        value=number(row["value"]),
        validation=_parts(row, "validation"),
        test=_parts(row, "test"),
        error=last_line(error) if isinstance(error, str) else None,
    )


def _parts(row: Mapping[Any, Any], split: str) -> facts.Parts:
    return facts.Parts(**{part: number(row[f"map.{split}.{part}"]) for part in PARTS})


def _holds(row: facts.TrialRow, words: str) -> bool:
    where = f"{row.number} {row.stage or ''} {row.state} seed={row.seed}"
    text = f"{where} {row.label} {row.error or ''}".casefold()
    return all(word in text for word in words.casefold().split())


def _sorted(rows: list[facts.TrialRow], sort: str, descending: bool) -> list[facts.TrialRow]:
    split, _, part = sort.partition(".")

    def value(row: facts.TrialRow) -> Any:
        if sort not in SORT_KEYS:
            return row.parameters.get(sort)
        return getattr(getattr(row, split), part) if part else getattr(row, split)

    there = [row for row in rows if value(row) is not None]
    # Choices of one parameter may be of several kinds.
    as_text = len({isinstance(value(row), str) for row in there}) > 1
    there.sort(key=lambda row: str(value(row)) if as_text else value(row), reverse=descending)
    return there + [row for row in rows if value(row) is None]


def about(reading: Reading) -> facts.AboutPage:
    """Return what was searched, what it took, what failed, and what its numbers came from."""
    header = reading.ledger.header()
    spec = reading.spec.model_dump(mode="json", exclude_defaults=True)
    recorded = reading.newest["recorded_utc"]
    return facts.AboutPage(
        search=summary(reading),
        version=reading.version,
        spec=spec,
        spec_yaml=yaml.safe_dump(spec, sort_keys=False, default_flow_style=None),
        created_utc=header.get("created_utc"),
        forked_from=header.get("forked_from", {}).get("search"),
        first_utc=moment(reading.trials["started_utc"].min()),
        last_utc=moment(recorded.max()),
        data=_data_sets(reading),
        cost=cost(reading),
        failures=_failures(reading),
        origins=_origins(reading),
    )


def cost(reading: Reading) -> facts.Cost:
    """Return what the recorded epochs of all trials took, unfinished and failed ones included."""
    resources = reading.spec.resources
    seconds = reading.newest[["train_seconds", "evaluation_seconds"]].to_numpy().sum()
    hours = float(seconds) / SECONDS_PER_HOUR
    return facts.Cost(
        trials=len(reading.newest),
        trial_hours=hours,
        cpu_hours=hours * resources.cpus,
        gpu_hours=float(reading.newest["gpu_seconds"].sum()) / SECONDS_PER_HOUR,
        cpus=resources.cpus,
        gpus=resources.gpus,
    )


def _data_sets(reading: Reading) -> list[facts.DataSet]:
    found = []
    for fingerprint, rows in reading.newest.groupby("data_fingerprint", sort=False):
        first = rows.iloc[0]
        columns = (first["classes"], first["class.group"], first["class.count"])
        classes = [
            facts.ClassCount(name=name, group=group, count=count)
            for name, group, count in zip(*columns, strict=True)
        ]
        classes.sort(key=lambda c: -c.count)
        found.append(facts.DataSet(fingerprint=str(fingerprint), trials=len(rows), classes=classes))
    return found


def _failures(reading: Reading) -> list[facts.Failure]:
    failed = reading.board[reading.board["state"] == TrialState.FAIL.value]
    return [
        facts.Failure(
            number=row["number"],
            label=label(row),
            epoch=None if pd.isna(row["epoch"]) else int(row["epoch"]),
            error=row["error"] if isinstance(row["error"], str) else "",
        )
        for row in failed.sort_values("number").to_dict("records")
    ]


def _origins(reading: Reading) -> list[facts.Origin]:
    keys = ["weights_fingerprint", "provenance"]
    origins = []
    for (weights, provenance), rows in reading.newest.groupby(keys, sort=False, dropna=False):
        known = json.loads(provenance) if isinstance(provenance, str) else {}
        origins.append(
            facts.Origin(
                trials=len(rows),
                weights_fingerprint=weights if isinstance(weights, str) else None,
                facts={str(key): str(value) for key, value in known.items()},
            )
        )
    return origins


def label(row: "Mapping[Any, Any] | pd.Series[Any]") -> str:
    """Return variant and parameters of a trial, as the tables of the terminal name it."""
    return tables.label(row["variant"], short_params(row["params"]))


def number(value: Any) -> float | None:
    """Return a number, or None where it is missing or not defined."""
    return None if value is None or not math.isfinite(value) else float(value)


def finite(value: Any) -> float | str | None:
    """Return the value of a cell, or None where it is missing or not defined."""
    return value if isinstance(value, str) else number(value)


def moment(value: Any) -> Any:
    """Return a time, or None where it is missing."""
    return None if pd.isna(value) else value.to_pydatetime()


def last_line(text: str) -> str:
    """Return the last line of an error, which says what it was."""
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
