"""The ledger: one Parquet row per epoch and per trial, written whole, read by anything."""

from pgsearch.results.epoch_writer import EpochWriter
from pgsearch.results.lease import DriverLease, DriverWatch
from pgsearch.results.ledger import Ledger
from pgsearch.results.read import find_search, read_epochs, read_trials
from pgsearch.results.schema import FACTORS, EpochRecord, TrialRecord, TrialState

__all__ = [
    "FACTORS",
    "DriverLease",
    "DriverWatch",
    "EpochRecord",
    "EpochWriter",
    "Ledger",
    "TrialRecord",
    "TrialState",
    "find_search",
    "read_epochs",
    "read_trials",
]
