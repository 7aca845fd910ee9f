"""What the exports have in common: trials with their epochs, settings and metrics by name."""

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pgsearch.config.trial import Stage, configuration_leaves
from pgsearch.results import Ledger, TrialRecord, read_epochs, read_trials
from pgsearch.results.rows import trial_record
from pgsearch.results.schema import epoch_schema


@dataclass(frozen=True)
class Trial:
    """A trial and the epochs that are recorded of it, in order."""

    record: TrialRecord
    epochs: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """Number, and the variant of an ablation."""
        return " ".join(filter(None, [f"{self.record.number:05d}", self.record.variant]))


def read(ledger: Ledger, columns: Sequence[str], stage: Stage) -> list[Trial]:
    """Return the trials by number, their epochs with these columns, number, epoch and time.

    Of a search with stages those of one of them.

    A damaged file is left out with a warning, and with the row of a trial its epochs.
    """
    records = [trial_record(row) for row in read_trials(ledger).to_pylist()]
    records = [record for record in records if record.stage in (None, stage)]
    epochs = defaultdict(list)
    for row in read_epochs(ledger, ["number", "epoch", "recorded_utc", *columns]).to_pylist():
        epochs[row["number"]].append(row)
    return [Trial(record, epochs[record.number]) for record in records]


@functools.cache
def metric_columns() -> tuple[str, ...]:
    """Return the columns of the epochs that hold one measured real number, whatever it is of."""
    settings = {leaf.path for leaf in configuration_leaves()}
    columns = [c.name for c in epoch_schema() if str(c.type) == "double"]
    return tuple(name for name in columns if name not in settings)


def metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """Return an epoch's metrics; what is undefined or was not measured is not among them.

    `map.test.tail` is named `map.test/tail`, which TensorBoard and MLflow show as a group.
    """
    return {
        "/".join(name.rsplit(".", 1)): row[name]
        for name in metric_columns()
        if row[name] is not None
    }
