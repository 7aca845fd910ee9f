"""Ledgers of complete trials, written at once: for tests that read, where no commit is tested."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pgsearch.config import SearchSpec, TrialSpec, flatten
from pgsearch.results import EpochRecord, Ledger, TrialRecord, TrialState
from pgsearch.results.rows import as_parquet, as_table, epoch_row, trial_row
from pgsearch.results.schema import epoch_schema, trial_schema


def write_ledger(
    folder: Path,
    search: SearchSpec,
    record_of: Callable[[TrialSpec], EpochRecord],
    points: Sequence[tuple[str | None, Mapping[str, Any]]] | None = None,
) -> Ledger:
    """Write `folder/NAME` with the last epoch of each trial.

    Args:
        folder: of all searches.
        search: the spec.
        record_of: the last epoch of a trial.
        points: variant and parameters of each configuration; None is all of a grid.
    """
    ledger = Ledger(folder / search.name)
    ledger.begin(search)
    for table in ("epochs", "trials"):
        (folder / search.name / table).mkdir()
    trials = itertools.product(search.grid() if points is None else points, search.seeds)
    for number, ((variant, params), seed) in enumerate(trials):
        trial = search.trial(number, params, variant, seed=seed)
        epoch = epoch_row(record_of(trial), trial, 1)
        row = TrialRecord(
            number=number,
            uid=trial.uid,
            state=TrialState.COMPLETE,
            seed=seed,
            variant=variant,
            configuration_id=trial.configuration_id,
            params=dict(params),
            values=[epoch[objective.column] for objective in search.objective],
            attempts=1,
            epochs=trial.training.epochs,
            wall_seconds=epoch["train_seconds"] + epoch["evaluation_seconds"],
            configuration=flatten(trial.configuration),
        )
        name = f"{number:05d}.parquet"
        tables = {
            "epochs": as_table([epoch], epoch_schema()),
            "trials": as_table([trial_row(row, search.name)], trial_schema()),
        }
        for table, content in tables.items():
            (folder / search.name / table / name).write_bytes(as_parquet(content))
    return ledger
