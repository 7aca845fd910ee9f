"""Frames of the ledger: the leaderboard of a search, and configurations over their seeds."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

from pgsearch.analysis.columns import Condition, short_name
from pgsearch.analysis.ranking import complete_trials, of_stage, ranked_configurations
from pgsearch.analysis.replicates import Replicates, WhichEpoch, replicates, trial_rows
from pgsearch.class_groups import GROUPS
from pgsearch.config import SearchSpec
from pgsearch.results import Ledger

PARTS: Final = ("total", *GROUPS)
_ORDER_OF_STATES: Final = {"COMPLETE": 0, "PRUNED": 1, "RUNNING": 2, "FAIL": 3}


def leaderboard(ledger: Ledger) -> pd.DataFrame:
    """Trials of a search, the best first by the first objective, then the pruned, then the rest.

    Of a search with stages all of the full stage come before those of its screen.
    Columns: number, state, seed, variant, stage (None in a search of one), promoted_from,
    configuration_id, epoch, value, `map.SPLIT.PART`, params, error.
    """
    objective = ledger.spec().objective[0]
    maps = [f"map.{split}.{part}" for split in ("validation", "test") for part in PARTS]
    columns = ["number", "state", "seed", "variant", "stage", "promoted_from", "configuration_id"]
    columns += ["epoch", "value", *maps, "params", "error"]
    frame = trial_rows(ledger, [*(c for c in columns if c != "value"), "values"])
    frame["value"] = [np.nan if v is None else v[0] for v in frame["values"]]
    frame["params"] = [json.loads(params) for params in frame["params"]]
    frame["_state"] = frame["state"].map(_ORDER_OF_STATES)
    shown = frame["value"].fillna(frame[objective.column])
    frame["_value"] = -shown if objective.direction == "maximize" else shown
    frame["stage"] = frame["stage"].astype(object).where(frame["stage"].notna(), None)
    frame["_screen"] = ~of_stage(frame, "full")
    frame = frame.sort_values(["_screen", "_state", "_value", "number"], kind="stable")
    return frame[columns].reset_index(drop=True)


def configurations(
    ledgers: Sequence[Ledger],
    *,
    split: str = "test",
    which_epoch: WhichEpoch = "last",
    conditions: Sequence[Condition] = (),
    allow_mixed: bool = False,
) -> pd.DataFrame:
    """Complete trials grouped by configuration over seeds: mean and sample standard deviation.

    Args:
        ledgers: the searches.
        split: test or validation, which the mAP are of.
        which_epoch: last; or best, the epoch of each trial with the best first objective.
        conditions: that all trials must fulfil.
        allow_mixed: put trials of different data sets, budgets or image sizes in one table.

    Returns:
        What `by_configuration` does, with the mAP of all classes and of each group by part.

    Raises:
        UsageError: the trials are not comparable, or none is complete.
    """
    metrics = {part: f"map.{split}.{part}" for part in PARTS}
    found = replicates(
        ledgers,
        metrics.values(),
        which_epoch=which_epoch,
        conditions=conditions,
        allow_mixed=allow_mixed,
    )
    return by_configuration(found, metrics)


def by_configuration(found: Replicates, metrics: Mapping[str, str]) -> pd.DataFrame:
    """Group complete trials by configuration over seeds.

    Args:
        found: the trials.
        metrics: columns to average, by the names that they get.

    Returns:
        One row per configuration, in the order of its first trial; by search: search, variant,
        label, selected_on (the split that a search optimised), n, seeds (how many the spec asks
        for), trials (their numbers), and for each metric `NAME.mean`, `NAME.std` (missing for one
        value) and `NAME.n` (trials that have it), as in the ledger. A configuration of a grid
        without a complete trial has n = 0.
    """
    frame = found.frame.assign(label=labels(found.frame, found.specs))
    groups = frame.groupby(["search", "configuration_id"], sort=False)
    rows = groups[["variant", "label", "selected_on", "params"]].first()
    rows["n"] = groups.size()
    rows["trials"] = groups["number"].agg(list)
    for name, column in metrics.items():
        values = frame[column].astype(float)
        stats = values.groupby([frame["search"], frame["configuration_id"]], sort=False)
        rows[f"{name}.mean"], rows[f"{name}.std"] = stats.mean(), stats.std(ddof=1)
        rows[f"{name}.n"] = stats.count()
    rows = _with_untrained(rows.reset_index(), found)
    rows.insert(0, "seeds", [len(found.specs[search].seeds) for search in rows["search"]])
    first = ["search", "variant", "label", "selected_on", "n", "seeds", "trials"]
    counts = {f"{name}.n": rows[f"{name}.n"].fillna(0).astype(int) for name in metrics}
    measured = [f"{name}.{number}" for name in metrics for number in ("mean", "std", "n")]
    return rows.assign(**counts)[[*first, *measured]]


def _with_untrained(rows: pd.DataFrame, found: Replicates) -> pd.DataFrame:
    """Add the configurations of grids without a complete trial, after those of their search."""
    if found.is_filtered:
        return rows
    parts = []
    for search, spec in found.specs.items():
        known = rows[rows["search"] == search]
        have = set(zip(map(_or_none, known["variant"]), known["params"], strict=True))
        untrained = [
            {"search": search, "variant": v, "label": label(v, short_params(p)) or spec.name}
            for v, p in (spec.grid() if spec.method == "grid" else [])
            if (v, json.dumps(p, sort_keys=True)) not in have
        ]
        parts.append(known)
        if untrained:
            parts.append(pd.DataFrame([{**row, "n": 0, "trials": []} for row in untrained]))
    return pd.concat(parts, ignore_index=True)


def _or_none(text: object) -> object:
    return text if isinstance(text, str) else None


def labels(frame: pd.DataFrame, specs: Mapping[str, SearchSpec]) -> list[str]:
    """Name the configuration of each trial by its variant and its parameters."""
    texts = {params: short_params(json.loads(params)) for params in frame["params"].unique()}
    return [
        label(variant, texts[params]) or specs[search].name
        for search, variant, params in zip(
            frame["search"], frame["variant"], frame["params"], strict=True
        )
    ]


def label(variant: object, params: str) -> str:
    """Name a configuration by its variant, where it has one, and its parameters."""
    return " ".join(text for text in (variant, params) if isinstance(text, str) and text)


def best_configuration(ledger: Ledger) -> pd.DataFrame:
    """Complete trials of the best configuration, as `ranked_configurations` judges it.

    Rows of the leaderboard; empty before the first complete trial.
    """
    complete = complete_trials(ledger)
    best = ranked_configurations(complete, ledger.spec())["configuration_id"].head(1)
    numbers = complete.loc[complete["configuration_id"].isin(best), "number"]
    frame = leaderboard(ledger)
    return frame[frame["number"].isin(numbers)]


def short_params(params: Mapping[str, Any]) -> str:
    """Return parameters in the paper's signs, such as `λ1-.tail=2.4 focusing.head=fixed`."""
    return " ".join(
        f"{short_name(name)}={value:.3g}"
        if isinstance(value, float)
        else f"{short_name(name)}={value}"
        for name, value in params.items()
    )
