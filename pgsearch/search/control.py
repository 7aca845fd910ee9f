"""Between a running search and who started it: what it tells, and how it is stopped."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pgsearch.results import TrialRecord


class Listener(Protocol):
    """Who is told how a search goes on."""

    def trial_started(self, record: TrialRecord) -> None:
        """Take notice of a trial that is placed, or placed again after a resume."""

    def epoch_recorded(self, record: TrialRecord, row: Mapping[str, Any]) -> None:
        """Take notice of an epoch: `epoch`, and `REPORTED_COLUMNS` of its row in the ledger."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Take notice of a trial that is complete, pruned or failed."""


@dataclass
class SearchControl:
    """What ends a search from outside its trials."""

    stop_requested: bool = False
    storage_error: str | None = None

    @property
    def should_stop(self) -> bool:
        """Whether to begin nothing more and to end what runs."""
        return self.stop_requested or self.storage_error is not None
