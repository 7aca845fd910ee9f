"""One configuration out of the results, by a name that a user types, with its replicates."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from pgsearch.analysis.ranking import complete_trials, ranked_configurations
from pgsearch.analysis.tables import label, short_params
from pgsearch.errors import UsageError
from pgsearch.results import Ledger, find_search, read_trials
from pgsearch.untrusted import visible

MAX_LISTED: Final = 20
"""Configurations that an error lists."""


@dataclass(frozen=True)
class Selection:
    """One configuration of a search, with its complete trials."""

    ledger: Ledger
    configuration_id: str
    label: str
    """What names it again: `SEARCH`, `SEARCH:VARIANT` or `SEARCH:TRIAL`."""
    description: str
    """Its variant and parameters, in the paper's signs; may be empty."""
    replicates: pd.DataFrame
    """Its rows of `complete_trials`, at least one."""
    chosen_on: str | None = None
    """The split by whose numbers it was chosen as the best; None where it was named."""


def select(name: str, results: str | Path, *, best: bool = False) -> Selection:
    """Return the configuration that a name means.

    Args:
        name: `SEARCH`, a search with one configuration; `SEARCH:VARIANT`, a variant of a grid; or
            `SEARCH:12`, the configuration of trial 12. SEARCH may be a path or URL.
        results: folder or URL of all searches.
        best: where a name means several configurations, take the best by the mean of the first
            objective over its seeds.

    Raises:
        UsageError: the name is unknown or means several configurations, with those that there are;
            or nothing of it is complete.
    """
    scheme, slashes, rest = name.rpartition("://")
    place, colon, wanted = rest.partition(":")
    place = scheme + slashes + place
    ledger = find_search(place, results)
    complete = complete_trials(ledger)
    if complete.empty:
        raise UsageError(f"{ledger.name}: no complete trial yet; see pgsearch status {ledger.name}")
    meant = _matching(ledger, complete, wanted) if colon else complete
    ids = set(meant["configuration_id"])
    if len(ids) == 1:
        return _selection(ledger, complete, ids.pop(), place=place)
    if not best:
        raise UsageError(
            f"{ledger.name}{f': {wanted!r}' if colon else ''} means several configurations; name "
            f"one by a trial, or by a variant that only it has (pgsearch compare takes the best "
            f"with --best):\n{_listed(ledger, meant)}"
        )
    spec = ledger.spec()
    if len(spec.objective) > 1:
        raise UsageError(
            f"{ledger.name} has several objectives and so no single best; name a configuration:\n"
            f"{_listed(ledger, meant)}"
        )
    best_id = ranked_configurations(meant, spec)["configuration_id"].iloc[0]
    best_one = _selection(ledger, complete, best_id, place=place)
    return replace(best_one, chosen_on=spec.objective[0].split)


def selection_of(ledger: Ledger, configuration_id: str) -> Selection:
    """Return a configuration by its id. Raises UsageError where it has no complete trial."""
    complete = complete_trials(ledger)
    if configuration_id not in set(complete["configuration_id"]):
        raise UsageError(
            f"{ledger.name}: no complete trial of configuration {configuration_id!r}; there are:\n"
            f"{_listed(ledger, complete)}"
        )
    return _selection(ledger, complete, configuration_id, place=ledger.name)


def _matching(ledger: Ledger, complete: pd.DataFrame, wanted: str) -> pd.DataFrame:
    """Return the complete trials of a variant, or of the configuration that a trial has."""
    by_variant = complete[complete["variant"] == wanted]
    by_trial = complete.iloc[:0]
    if wanted.isascii() and wanted.isdecimal():
        trials: pd.DataFrame = read_trials(ledger, ["number", "configuration_id"]).to_pandas()
        same = trials.loc[trials["number"] == int(wanted), "configuration_id"]
        by_trial = complete[complete["configuration_id"].isin(same)]
    found = pd.concat([by_variant, by_trial]).drop_duplicates("number").sort_values("number")
    if found.empty:
        _refuse_screen(ledger, complete, wanted)
        raise UsageError(
            f"{ledger.name}: no variant {wanted!r}, nor a configuration of trial {wanted!r}, has a "
            f"complete trial; there are:\n{_listed(ledger, complete)}"
        )
    if len(by_trial) and len(by_variant) and len(found) > len(by_variant):
        raise UsageError(
            f"{ledger.name}: {wanted!r} is a variant, and a trial of another configuration; name "
            f"the one that you mean by another trial:\n{_listed(ledger, found)}"
        )
    return found


def _refuse_screen(ledger: Ledger, complete: pd.DataFrame, wanted: str) -> None:
    trials = complete_trials(ledger, stage="screen")
    if wanted in set(trials.loc[trials["stage"] == "screen", "number"].astype(str)):
        raise UsageError(
            f"{ledger.name}: trial {wanted} is of the screen, which does not compare with fully "
            f"trained ones; these were:\n{_listed(ledger, complete)}"
        )


def _selection(
    ledger: Ledger, complete: pd.DataFrame, configuration_id: str, *, place: str
) -> Selection:
    replicates = complete[complete["configuration_id"] == configuration_id]
    first = replicates.iloc[0]
    of_variant = complete[complete["variant"] == first["variant"]]
    if len(set(of_variant["configuration_id"])) == 1:
        name = f"{place}:{first['variant']}"
    elif len(set(complete["configuration_id"])) == 1:
        name = place
    else:
        name = f"{place}:{first['number']}"
    return Selection(
        ledger=ledger,
        configuration_id=configuration_id,
        label=name,
        description=_description(first),
        replicates=replicates.reset_index(drop=True),
    )


def _listed(ledger: Ledger, complete: pd.DataFrame) -> str:
    """Return a line for each configuration: what names it, its parameters, its seeds."""
    configurations = list(complete.groupby("configuration_id", sort=False))
    lines = [
        f"  {ledger.name}:{replicates['number'].iloc[0]}  "
        f"{visible(_description(replicates.iloc[0]))}  "
        f"(seeds {', '.join(map(str, replicates['seed']))})"
        for _, replicates in configurations[:MAX_LISTED]
    ]
    left = len(configurations) - MAX_LISTED
    return "\n".join([*lines, f"  and {left} more"] if left > 0 else lines)


def _description(trial: "pd.Series[Any]") -> str:
    return label(trial["variant"], short_params(trial["params"]))
