"""Between a running search and who started it: what it tells, and how it is stopped."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pgsearch.results import DriverLease, TrialRecord


class Listener(Protocol):
    """Who is told how a search goes on."""

    def trial_started(self, record: TrialRecord) -> None:
        """Take notice of a trial that is placed, or placed again after a resume."""

    def trial_interrupted(self, record: TrialRecord, reason: str) -> None:
        """Take notice of a trial whose worker was lost or stopped: it will go on."""

    def message(self, text: str) -> None:
        """Take notice of something that the user should know."""

    def epoch_recorded(self, record: TrialRecord, row: Mapping[str, Any]) -> None:
        """Take notice of an epoch: `epoch`, and `trainable.REPORTED_COLUMNS` of its row."""

    def trial_ended(self, record: TrialRecord) -> None:
        """Take notice of a trial that is complete, pruned or failed."""


@dataclass
class SearchControl:
    """What ends a search from outside its trials."""

    grace_seconds: float = 25.0
    """How long trials that run may take to checkpoint once a stop is requested."""
    storage_error: str | None = None
    lease: DriverLease | None = None
    in_first_turn: Callable[[], None] | None = None
    """Called once, when Tune's loop has begun: only then Tune takes no more signals for itself."""
    ray_lost: str | None = None
    """Why Ray can run nothing more, once it cannot."""
    _stop_at: float | None = None

    def request_stop(self) -> None:
        """Let what runs checkpoint and end, and begin nothing more. Safe in a signal handler."""
        if self._stop_at is None:
            self._stop_at = time.monotonic() + self.grace_seconds
            if self.lease is not None:
                self.lease.announce_stop()

    @property
    def stop_requested(self) -> bool:
        """Whether somebody asked the search to stop."""
        return self._stop_at is not None

    @property
    def reason_to_fail(self) -> str | None:
        """Why the search cannot go on, if it cannot."""
        return self.storage_error or (self.lease.lost if self.lease else None)

    @property
    def should_begin_nothing(self) -> bool:
        """Whether to place no more trials."""
        return bool(self.stop_requested or self.ray_lost or self.reason_to_fail)

    @property
    def should_end_now(self) -> bool:
        """Whether to end trials that still run."""
        out_of_time = self._stop_at is not None and time.monotonic() > self._stop_at
        return bool(out_of_time or self.ray_lost or self.reason_to_fail)
