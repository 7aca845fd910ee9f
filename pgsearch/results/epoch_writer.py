"""Recording epochs: each once, whoever computed it, and only by a trial's newest execution."""

from typing import Any

import pyarrow as pa

from pgsearch.config import TrialSpec
from pgsearch.errors import AttemptReplaced, StorageError
from pgsearch.results.ledger import Ledger
from pgsearch.results.rows import as_parquet, as_table, epoch_row, read_table
from pgsearch.results.schema import EpochRecord, epoch_schema
from pgsearch.results.storage import Conflict, Tag


class EpochWriter:
    """Records the epochs of one execution of a trial.

    Args:
        ledger: where.
        trial: of what.
        attempt: which execution.
        gpus: what it occupies, a part where it shares one; None where nobody counts.

    Raises:
        StorageError: the file is damaged, or holds epochs of something else.
    """

    def __init__(
        self, ledger: Ledger, trial: TrialSpec, attempt: int, *, gpus: float | None = None
    ) -> None:
        self._ledger, self._trial, self._attempt = ledger, trial, attempt
        self._gpus = gpus
        self._file = ledger.file("epochs", trial.number)
        self._table: pa.Table = epoch_schema().empty_table()
        self._tag: Tag | None = None
        self._load()

    def append(self, record: EpochRecord) -> dict[str, Any]:
        """Record an epoch and return its row; one that is recorded already stays as it is.

        Raises:
            StorageError: it cannot be written.
            AttemptReplaced: a newer execution of this trial has begun.
        """
        row = self.recorded(record.epoch)
        while row is None:
            if not self._ledger.attempts(self._trial.number).is_newest(self._attempt):
                raise AttemptReplaced(
                    f"{self._trial.uid}: attempt {self._attempt} was replaced by a newer one and "
                    "records nothing more"
                )
            new = epoch_row(record, self._trial, self._attempt) | {"gpus": self._gpus}
            table = pa.concat_tables([self._table, as_table([new], epoch_schema())])
            try:
                self._tag = self._file.swap(as_parquet(table), self._tag)
            except Conflict:  # an attempt before or after ours wrote since we looked
                self._load()
                row = self.recorded(record.epoch)
            else:
                self._table, row = table, new
        return row

    def recorded(self, epoch: int) -> dict[str, Any] | None:
        """Return the row of an epoch that is recorded, else None."""
        epochs = self._table["epoch"].to_pylist()
        if epoch not in epochs:
            return None
        row: dict[str, Any] = self._table.slice(epochs.index(epoch), 1).to_pylist()[0]
        return row

    def _load(self) -> None:
        found = read_table(self._file)
        if found is None:
            return
        table, self._tag = found
        trial = self._trial
        identities = set(
            zip(table["configuration_id"].to_pylist(), table["seed"].to_pylist(), strict=True)
        )
        if identities - {(trial.configuration_id, trial.seed)}:
            raise StorageError(
                f"{self._file}: holds epochs of another configuration or seed; begin in another "
                "folder, or move the file away"
            )
        # An older file lacks the columns that came later.
        self._table = pa.concat_tables(
            [epoch_schema().empty_table(), table], promote_options="default"
        )
