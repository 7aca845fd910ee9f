"""One export of one search, whole or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pgsearch.config.trial import Stage
from pgsearch.export import Target
from pgsearch.export.place import whole
from pgsearch.results import Ledger

Progress = Callable[[int, int], None]


class _Writer(Protocol):
    """A module that writes for one tool."""

    @property
    def FILES(self) -> tuple[str, ...] | None:
        """Names of the files in the folder that it makes; None: it makes one SQLite file."""

    def write(self, ledger: Ledger, place: Path, progress: Progress, stage: Stage, /) -> int:
        """Make `place` and return how many trials it has."""


def export(
    ledger: Ledger,
    target: Target,
    place: Path,
    *,
    force: bool = False,
    progress: Progress | None = None,
    stage: Stage = "full",
) -> int:
    """Write a search for another tool and return how many trials it has there.

    A damaged file of the ledger is left out with a warning.

    Args:
        ledger: of the search.
        target: the tool.
        place: file (optuna, mlflow) or folder (csv, tensorboard) of the export.
        force: replace an earlier export.
        progress: told how much of how much is written.
        stage: of a search with stages: trials of several do not compare.

    Raises:
        UsageError: `place` is taken, in a search or not local; or the tool's library is missing.
        StorageError: the ledger cannot be read, or the export cannot be written.
    """
    writer = _writer(target)
    with whole(place, force=force, files=writer.FILES) as new:
        return writer.write(ledger, new, progress or _silent, stage)


def _silent(_done: int, _total: int) -> None:
    pass


def _writer(target: Target) -> _Writer:
    match target:  # each imports what only it needs
        case Target.optuna:
            from pgsearch.export import optuna_study

            return optuna_study
        case Target.csv:
            from pgsearch.export import csv_tables

            return csv_tables
        case Target.mlflow:
            from pgsearch.export import mlflow_runs

            return mlflow_runs
        case Target.tensorboard:
            from pgsearch.export import tensorboard_runs

            return tensorboard_runs
