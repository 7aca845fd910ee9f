"""What training needs of the places where its states are kept."""

from collections.abc import Sequence
from typing import Any, Protocol

from pgsearch.results.schema import EpochRecord


class CheckpointStore(Protocol):
    """Where the newest state of a trial is kept."""

    def load(self) -> dict[str, Any] | None:
        """Return the newest state, or None."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace it."""


class BestEpochStore(Protocol):
    """Where the classifier of a trial's best epoch is kept, and who knows which that is."""

    def is_best(self, records: Sequence[EpochRecord]) -> bool:
        """Whether the last of these epochs, which are all so far, is the best of them."""

    def save(self, state: dict[str, Any]) -> None:
        """Replace it."""
