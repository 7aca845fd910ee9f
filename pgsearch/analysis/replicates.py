"""The trials that tables are made of: the complete ones, each once, with one of their epochs."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd

from pgsearch.analysis.columns import Condition, apply_conditions
from pgsearch.analysis.comparable import COMPARABLE_COLUMNS, differences, require_comparable
from pgsearch.analysis.ranking import of_stage
from pgsearch.config import SearchSpec
from pgsearch.errors import UsageError
from pgsearch.results import Ledger, TrialState, read_epochs, read_trials
from pgsearch.results.schema import trial_schema

WhichEpoch: TypeAlias = Literal["last", "best"]

_IDENTITY = ("number", "state", "seed", "variant", "stage", "configuration_id", "params")


@dataclass(frozen=True)
class Replicates:
    """Complete trials of some searches."""

    frame: pd.DataFrame
    """One row per trial: search, number, seed, variant, stage, configuration_id, params (JSON),
    epoch, selected_on (the split that its search optimised; missing for a grid), the columns of
    `COMPARABLE_COLUMNS` and those that were asked for."""
    specs: dict[str, SearchSpec]
    """By name in the column search, in the order they were named."""
    which_epoch: WhichEpoch
    """Whose numbers are in the columns of epochs."""
    notes: tuple[str, ...]
    """What a reader must know: trials that were left out, and what was mixed."""
    is_filtered: bool
    """Whether only trials that fulfil conditions are here."""
    is_mixed: bool
    """Whether the trials do not compare and the user wants them together all the same."""


def replicates(
    ledgers: Sequence[Ledger],
    columns: Collection[str],
    *,
    which_epoch: WhichEpoch = "last",
    conditions: Sequence[Condition] = (),
    allow_mixed: bool = False,
    apart: Collection[str] = (),
) -> Replicates:
    """Read the complete trials of searches, each configuration and seed once per search.

    Trials of a screen are left out, unless a condition or the table's own columns speak of stages.

    Args:
        ledgers: the searches.
        columns: of trials or epochs that are wanted.
        which_epoch: last; or best, the epoch of each trial with the best first objective.
        conditions: that all trials must fulfil.
        allow_mixed: put trials of different data sets, budgets or image sizes together.
        apart: columns in which the trials may differ, since the table tells them apart.

    Raises:
        UsageError: a search is named twice, no trial is complete or fulfils the conditions, or the
            trials are not comparable.
    """
    named = by_name(ledgers)
    specs = {name: ledger.spec() for name, ledger in named.items()}
    wanted = [*_IDENTITY, *COMPARABLE_COLUMNS, *columns, *(c.column for c in conditions)]
    with_screen = "stage" in apart or any(c.column == "stage" for c in conditions)
    frames, notes = [], []
    for name, ledger in named.items():
        rows = trial_rows(ledger, wanted, which_epoch=which_epoch)
        is_full = of_stage(rows, "full")
        if not with_screen and not is_full.all():
            notes.append(
                f"left out of {name}: {(~is_full).sum()} trials of its screen, which do not "
                "compare with fully trained ones (--where stage=screen shows them)"
            )
            rows = rows[is_full]
        complete, left_out = _complete(rows)
        frames.append(complete.assign(search=name, selected_on=selected_on(specs[name])))
        notes += [f"left out of {name}: {left_out}"] if left_out else []
    frame = pd.concat([f for f in frames if not f.empty] or frames, ignore_index=True)
    if frame.empty:
        screened = any(spec.stages is not None for spec in specs.values()) and not with_screen
        hint = ", and --where stage=screen for what is screened" if screened else ""
        raise UsageError(f"no complete trial in {', '.join(specs)} yet; see pgsearch status{hint}")
    frame = apply_conditions(frame, conditions)
    if not allow_mixed:
        require_comparable(frame, apart=apart)
    mixed = differences(frame, apart=apart)
    notes += [f"mixed: different {difference}" for difference in mixed.values()]
    return Replicates(
        frame,
        specs,
        which_epoch,
        tuple(notes),
        is_filtered=bool(conditions),
        is_mixed=bool(mixed),
    )


def trial_rows(
    ledger: Ledger, columns: Collection[str] | None = None, *, which_epoch: WhichEpoch = "last"
) -> pd.DataFrame:
    """Return one row per trial: its row in `trials`, joined with one of its epochs.

    Columns that both have are taken from the trial. Columns in which trials must not differ are of
    the last epoch, whichever is asked for. A trial without an epoch has no metrics; nor has one
    without a best epoch, whose objective was never evaluated.

    Args:
        ledger: of the search.
        columns: of trials and epochs; None is all. Number and epoch are always there.
        which_epoch: last; or best, the first with the best first objective.
    """
    known = set(trial_schema().names)
    of_trials, of_epochs = None, None
    if columns is not None:
        wanted = dict.fromkeys(columns)
        of_trials = list(dict.fromkeys(["number", *(c for c in wanted if c in known)]))
        of_epochs = list(dict.fromkeys(["number", "epoch", *(c for c in wanted if c not in known)]))
    trials: pd.DataFrame = read_trials(ledger, of_trials).to_pandas()
    if which_epoch == "best":
        chosen = _best_epochs(ledger, of_epochs)
    else:
        epochs: pd.DataFrame = read_epochs(ledger, of_epochs).to_pandas()
        chosen = epochs.drop_duplicates("number", keep="last")
    new_columns = ["number", *(c for c in chosen.columns if c not in trials.columns)]
    return trials.merge(chosen[new_columns], on="number", how="left")


def _best_epochs(ledger: Ledger, columns: Sequence[str] | None) -> pd.DataFrame:
    """Return the best epoch of each trial by the first objective; of equal ones the first."""
    objective = ledger.spec().objective[0]
    read = None if columns is None else list(dict.fromkeys([*columns, objective.column]))
    epochs: pd.DataFrame = read_epochs(ledger, read).to_pandas()
    judged = epochs.dropna(subset=[objective.column])
    signed = judged[objective.column] * (1 if objective.direction == "maximize" else -1)
    best = judged.loc[signed.groupby(judged["number"]).idxmax()]
    budget = [column for column in COMPARABLE_COLUMNS if column in epochs]
    last = epochs.drop_duplicates("number", keep="last")[["number", *budget]]
    chosen = last.merge(best.drop(columns=budget), on="number", how="left")
    return chosen if columns is None else chosen[list(columns)]


def by_name(ledgers: Sequence[Ledger]) -> dict[str, Ledger]:
    """Return searches by name, or by place where several have one name.

    Raises UsageError where one is named twice.
    """
    places = Counter(ledger.url for ledger in ledgers)
    for url, times in places.items():
        if times > 1:
            raise UsageError(f"{url} is named {times} times; name each search once")
    names = Counter(ledger.name for ledger in ledgers)
    return {ledger.name if names[ledger.name] == 1 else ledger.url: ledger for ledger in ledgers}


def _complete(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the complete trials, each configuration and seed once, and what was left out."""
    is_complete = rows["state"] == TrialState.COMPLETE.value
    counts = rows.loc[~is_complete, "state"].value_counts(sort=False)
    left_out = [f"{count} {state}" for state, count in sorted(counts.items())]
    # A complete trial has a last epoch, unless its file is damaged; `iterations` is always of that.
    has_epoch = rows["iterations"].notna()
    if without := int((is_complete & ~has_epoch).sum()):
        left_out.append(f"{without} COMPLETE without epochs")
    complete = rows[is_complete & has_epoch]
    # The same configuration and seed twice is one replicate, not two that agree.
    once = complete.drop_duplicates(["configuration_id", "seed"])
    if repeated := len(complete) - len(once):
        left_out.append(f"{repeated} that repeat a configuration and seed")
    return once, ", ".join(left_out)


def selected_on(spec: SearchSpec) -> str | None:
    """Return the split that a search optimised, several with commas; None for a grid."""
    if spec.method == "grid":  # trains all its configurations, and so selects none
        return None
    return ", ".join(dict.fromkeys(objective.split for objective in spec.objective))
