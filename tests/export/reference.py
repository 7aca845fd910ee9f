"""A search's Parquet read with plain loops, and the searches that the exports are tried on."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pgsearch.config import SearchSpec
from pgsearch.results import Ledger
from pgsearch.search.study import SearchStudy
from tests.records import grid, spec
from tests.studies import execute

HOSTILE = ("a_b&c%", "=cmd|' /C calc'!A0", "<script>alert(1)</script>")


def raw(folder: Path) -> list[dict[str, Any]]:
    """The rows of all Parquet files of a folder, in the order of their names."""
    return [
        row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()
    ]


def raw_epochs(folder: Path, number: int) -> list[dict[str, Any]]:
    rows = [row for row in raw(folder / "epochs") if row["number"] == number]
    return sorted(rows, key=lambda row: int(row["epoch"]))


def search_of_all_states(folder: Path, **changes: Any) -> Ledger:
    """Trials 0, 2, 4 complete, 1 fails after two epochs, 3 is pruned, 5 runs."""
    ledger = Ledger(folder)
    search: SearchSpec = spec(name=folder.name, pruner={"name": "median"}, **changes)
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    while (trial := study.next_trial()) is not None and trial.number < 6:
        match trial.number:
            case 1:
                execute(study, ledger, trial, epochs=2)
                study.fail(1, "=1+1 <b>\nno \x1b[31mmemory")
            case 3:
                execute(study, ledger, trial, epochs=2)
                study.prune(3)
            case 5:
                execute(study, ledger, trial, epochs=1)
                break
            case _:
                execute(study, ledger, trial)
    return ledger


def ablation_with_hostile_names(folder: Path) -> Ledger:
    ledger = Ledger(folder)
    variants = {
        name: {"training": {"learning_rate": 0.01 * (i + 1)}} for i, name in enumerate(HOSTILE)
    }
    search = grid(name=folder.name, variants=variants, seeds=[1, 2])
    ledger.begin(search)
    study = SearchStudy(search, ledger)
    while (trial := study.next_trial()) is not None:
        execute(study, ledger, trial)
    return ledger
