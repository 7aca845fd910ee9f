"""The ledger: one Parquet row per epoch and per trial, written whole, read by anything."""

from pgsearch.results.ledger import DriverLock, EpochWriter, Ledger
from pgsearch.results.read import find_search, read_epochs, read_trials
from pgsearch.results.schema import FACTORS, EpochRecord, TrialRecord, TrialState

__all__ = [
    "FACTORS",
    "DriverLock",
    "EpochRecord",
    "EpochWriter",
    "Ledger",
    "TrialRecord",
    "TrialState",
    "find_search",
    "read_epochs",
    "read_trials",
]
