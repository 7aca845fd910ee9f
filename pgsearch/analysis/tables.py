"""Tables from the ledger: the leaderboard of a search, and configurations over their seeds."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pgsearch.class_groups import GROUPS
from pgsearch.config import SearchSpec
from pgsearch.errors import UsageError
from pgsearch.results import Ledger, read_epochs, read_trials

PARTS = ("total", *GROUPS)

# Equal values of these make two trials comparable; their names say what a reader would object to.
COMPARABLE_COLUMNS = {
    "data_fingerprint": "data sets",
    "training.epochs": "numbers of epochs",
    "iterations": "numbers of iterations",
    "data.head_min": "thresholds of head classes",
    "data.tail_below": "thresholds of tail classes",
}


def final_epochs(ledger: Ledger) -> pd.DataFrame:
    """One row per trial: its row in `trials`, joined with its newest epoch.

    Columns of the epoch that the trial's row has too are taken from the trial. A trial without an
    epoch has no metrics.
    """
    trials: pd.DataFrame = read_trials(ledger).to_pandas()
    epochs: pd.DataFrame = read_epochs(ledger).to_pandas()
    newest = epochs.groupby("number", as_index=False).tail(1)
    new_columns = ["number", *(c for c in newest.columns if c not in trials.columns)]
    return trials.merge(newest[new_columns], on="number", how="left")


def leaderboard(ledger: Ledger) -> pd.DataFrame:
    """Trials of a search, the best first by the first objective, then the pruned, then the rest.

    Columns: number, state, seed, variant, configuration_id, epoch, value, `map.SPLIT.PART`,
    params, error.
    """
    objective = ledger.spec().objective[0]
    frame = final_epochs(ledger)
    frame["value"] = [np.nan if v is None else v[0] for v in frame["values"]]
    frame["params"] = [json.loads(params) for params in frame["params"]]
    order = {"COMPLETE": 0, "PRUNED": 1, "RUNNING": 2, "FAIL": 3}
    frame["_state"] = frame["state"].map(order)
    shown = frame["value"].fillna(frame[objective.column])
    frame["_value"] = -shown if objective.direction == "maximize" else shown
    frame = frame.sort_values(["_state", "_value", "number"], kind="stable")
    maps = [f"map.{split}.{part}" for split in ("validation", "test") for part in PARTS]
    columns = ["number", "state", "seed", "variant", "configuration_id", "epoch", "value"]
    columns += [*maps, "params", "error"]
    return frame[columns].reset_index(drop=True)


def configurations(
    ledgers: Sequence[Ledger], *, split: str = "test", allow_mixed: bool = False
) -> pd.DataFrame:
    """Complete trials grouped by configuration over seeds: mean and sample standard deviation.

    Args:
        ledgers: the searches.
        split: test or validation.
        allow_mixed: put trials of different data sets, epochs or iterations in one table.

    Returns:
        One row per configuration, in the order of its first trial; by search: search, variant,
        label, selected_on (the split that a search optimised), n, trials, and for each part
        `PART.mean` and `PART.std` (missing for n = 1), in [0, 1].

    Raises:
        UsageError: the trials are not comparable, or none is complete.
    """
    frames = [final_epochs(ledger).assign(search=ledger.name) for ledger in ledgers]
    # The same configuration and seed twice is one replicate, not two that agree.
    complete = [
        frame[(frame["state"] == "COMPLETE") & frame["epoch"].notna()].drop_duplicates(
            ["configuration_id", "seed"]
        )
        for frame in frames
    ]
    together = pd.concat([frame.dropna(axis="columns", how="all") for frame in complete])
    if together.empty:
        names = ", ".join(ledger.name for ledger in ledgers)
        raise UsageError(f"no complete trial in {names} yet; see pgsearch status")
    if not allow_mixed:
        _require_comparable(together)
    rows = []
    for ledger, frame in zip(ledgers, complete, strict=True):
        spec = ledger.spec()
        labels = _labels(spec, frame)
        splits = ", ".join(dict.fromkeys(o.split for o in spec.objective))
        for configuration, replicates in frame.groupby("configuration_id", sort=False):
            row: dict[str, Any] = {
                "search": ledger.name,
                "variant": replicates["variant"].iloc[0],
                "label": labels[str(configuration)],
                "selected_on": splits if spec.method == "search" else None,
                "n": len(replicates),
                "trials": replicates["number"].tolist(),
            }
            for part in PARTS:
                values = replicates[f"map.{split}.{part}"].astype(float)
                row[f"{part}.mean"], row[f"{part}.std"] = values.mean(), values.std(ddof=1)
            rows.append(row)
    return pd.DataFrame(rows)


def best_configuration(ledger: Ledger) -> pd.DataFrame:
    """Complete trials of the best configuration by its mean first objective over its seeds.

    Only configurations with all their seeds count, if there is one. Empty before the first.
    """
    spec = ledger.spec()
    frame = leaderboard(ledger)
    complete = frame[frame["state"] == "COMPLETE"].drop_duplicates(["configuration_id", "seed"])
    by_configuration = complete.groupby("configuration_id")["value"].agg(["mean", "size"])
    whole = by_configuration[by_configuration["size"] == len(spec.seeds)]
    means = (by_configuration if whole.empty else whole)["mean"]
    if means.empty:
        return complete
    best = means.idxmax() if spec.objective[0].direction == "maximize" else means.idxmin()
    return complete[complete["configuration_id"] == best]


def _require_comparable(frame: pd.DataFrame) -> None:
    for column, meaning in COMPARABLE_COLUMNS.items():
        by_value = frame.groupby(column)["search"].unique()
        if len(by_value) > 1:
            found = "; ".join(f"{value}: {', '.join(names)}" for value, names in by_value.items())
            raise UsageError(
                f"these trials have different {meaning} ({found}), so their mAP do not compare; "
                "name searches of one kind, or pass --allow-mixed"
            )


def _labels(spec: SearchSpec, frame: pd.DataFrame) -> dict[str, str]:
    """Name each configuration by its variant and by the parameters in which it differs."""
    params = {
        str(row.configuration_id): (row.variant, json.loads(str(row.params)))
        for row in frame.itertuples()
    }
    labels = {}
    for configuration, (variant, values) in params.items():
        named = [variant] if isinstance(variant, str) else []
        label = " ".join([*named, short_params(values)] if values else named)
        labels[configuration] = label.strip() or spec.name
    return labels


def short_params(params: Mapping[str, Any]) -> str:
    """Return parameters in the paper's signs, such as `λ1-.tail=2.4 focusing.head=fixed`."""
    signs = {"lambda1_neg": "λ1-", "lambda2_neg": "λ2-", "lambda1_pos": "λ1+", "lambda2_pos": "λ2+"}
    parts = []
    for name, value in params.items():
        short = name.removeprefix("loss.")
        for plain, sign in signs.items():
            short = short.replace(plain, sign)
        short = short.replace("lambda0", "λ0").replace("gamma", "γ").replace("_mode", "mode")
        parts.append(f"{short}={value:.3g}" if isinstance(value, float) else f"{short}={value}")
    return " ".join(parts)
