"""The configurations of a search in the order of its objective, each over its seeds."""

import json

import pandas as pd

from pgsearch.config import SearchSpec
from pgsearch.config.trial import Stage
from pgsearch.results import Ledger, TrialState, read_trials

_COLUMNS = (
    "number",
    "state",
    "seed",
    "variant",
    "stage",
    "promoted_from",
    "configuration_id",
    "params",
    "values",
    "wall_seconds",
)


def complete_trials(ledger: Ledger, stage: Stage = "full") -> pd.DataFrame:
    """Return the complete trials of a search, one per configuration and seed, by number.

    A retry or a duplicate is no replicate: of equal configuration and seed the first one counts.
    Columns: number, state, seed, variant, stage, promoted_from, configuration_id, params (a
    mapping), value (the first objective), wall_seconds.

    Args:
        ledger: of the search.
        stage: of a search with stages; those of a search of one stage are all there.
    """
    trials: pd.DataFrame = read_trials(ledger, _COLUMNS).to_pandas()
    complete = trials[(trials["state"] == TrialState.COMPLETE.value) & of_stage(trials, stage)]
    complete = complete.drop_duplicates(["configuration_id", "seed"]).reset_index(drop=True)
    return complete.assign(
        params=[json.loads(params) for params in complete["params"]],
        value=[float(values[0]) for values in complete["values"]],
    ).drop(columns="values")


def of_stage(trials: pd.DataFrame, stage: Stage) -> "pd.Series[bool]":
    """Return for each trial whether it is of a stage; of a search of one stage all are."""
    return trials["stage"].isna() | (trials["stage"] == stage)


def ranked_configurations(complete: pd.DataFrame, spec: SearchSpec) -> pd.DataFrame:
    """Return the configurations of complete trials, the best first by their first objective.

    By the mean over their seeds; of equal ones the first trained comes first. Only configurations
    with all their seeds count, if there is one: the mean of fewer is more often lucky.

    Args:
        complete: what `complete_trials` returns, or some of it.
        spec: the search.

    Returns:
        One row per configuration: configuration_id, number (of its first trial), variant, params,
        value, n, wall_seconds (both means).
    """
    replicates = complete.groupby("configuration_id", sort=False)
    firsts = complete.drop_duplicates("configuration_id").set_index("configuration_id")
    frame = firsts[["number", "variant", "params"]].assign(
        value=replicates["value"].mean(),
        n=replicates.size(),
        wall_seconds=replicates["wall_seconds"].mean(),
    )
    frame = frame.reset_index()
    whole = frame[frame["n"] == len(spec.seeds)]
    frame = frame if whole.empty else whole
    return frame.sort_values(
        "value", ascending=spec.objective[0].direction == "minimize", kind="stable"
    ).reset_index(drop=True)
