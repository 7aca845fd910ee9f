"""The classifier of a trial's best epoch, kept beside its newest state."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from pgsearch.config import Objective, TrialSpec
from pgsearch.results import EpochRecord, Ledger
from pgsearch.training.checkpoint import Checkpoints


class BestEpoch:
    """Keeps the classifier of the best epoch by an objective; of equal epochs, the earliest.

    It remembers nothing: which epoch is best is decided among all epochs of the trial, also those
    before a resume. Where it was not kept from the start, it keeps none until an epoch is better
    than all before.

    Args:
        checkpoints: where to keep it.
        objective: what is best. An epoch in which it is undefined or not evaluated never is.
    """

    def __init__(self, checkpoints: Checkpoints, objective: Objective) -> None:
        self._checkpoints, self._objective = checkpoints, objective

    def is_best(self, records: Sequence[EpochRecord]) -> bool:
        """Whether the last of these epochs, which are all so far, is the best of them."""
        *before, newest = map(self._score, records)
        return newest > max(before, default=-math.inf)

    def save(self, state: dict[str, Any]) -> None:
        """Replace it. Raises StorageError and AttemptReplaced as a checkpoint does."""
        self._checkpoints.save(state)

    def _score(self, record: EpochRecord) -> float:
        """Return how good an epoch is: more is better."""
        objective = self._objective
        value = record.map.get(objective.split, {}).get(objective.part, math.nan)
        if math.isnan(value):
            return -math.inf
        return value if objective.direction == "maximize" else -value


def best_epoch_of(
    trial: TrialSpec,
    ledger: Ledger,
    objective: Objective | None,
    *,
    may_write: Callable[[], bool] | None = None,
) -> BestEpoch | None:
    """Return what keeps the best epoch of a trial that is about to be executed; None keeps none.

    Then one that was kept before goes, unless the trial is complete: later epochs may be better.
    """
    file = ledger.best_file(trial.number)
    if objective is not None:
        return BestEpoch(Checkpoints(file, may_write=may_write), objective)
    if len(ledger.epochs(trial.number)) < trial.training.epochs:
        file.delete()
    return None
