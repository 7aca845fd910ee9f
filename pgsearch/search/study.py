"""The trials of a search: which comes next, whether one goes on, how each ended; all in the ledger.

Nothing else is stored: every trial's row holds what Optuna needs to know of it, so a new driver
makes the same study from the rows. An ended trial comes back as it ended, an unfinished one with
its epochs and its pruner's rungs, under the same number, parameters and seed.

Optuna chooses the trials of a search, or of its screen; a full stage has no sampler:
`next_promotion` says what it trains.
"""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from pgsearch.config import SearchSpec, TrialSpec, flatten
from pgsearch.config.trial import Stage, trial_uid
from pgsearch.errors import StorageError
from pgsearch.provenance import utc_now
from pgsearch.results import Ledger, TrialRecord, TrialState
from pgsearch.results.promotion import next_promotion
from pgsearch.search.forks import teaches
from pgsearch.search.kept_weights import KeptWeights
from pgsearch.search.optuna_study import OptunaStudy

_EPOCH_COLUMNS = (
    "epoch",
    "train_seconds",
    "evaluation_seconds",
    "data_fingerprint",
    "weights_fingerprint",
)


class SearchStudy:
    """Which trial comes next, whether one goes on, and how each ended; all of it in the ledger.

    Args:
        spec: the search.
        ledger: its results; the trials in it are taken over, and those that it was given by a fork.

    Raises:
        StorageError: a trial's row is damaged or missing.
    """

    def __init__(self, spec: SearchSpec, ledger: Ledger) -> None:
        self.spec, self._ledger = spec, ledger
        self._grid = spec.grid() if spec.method == "grid" else []
        self._points = spec.known_points() if spec.method == "search" else []
        self._num_asked = spec.num_trials_of(spec.first_stage)
        self._optuna = OptunaStudy(spec)
        self._records: dict[int, TrialRecord] = {}
        self._regular: list[int] = []  # the trials that Optuna was asked for, in order: no retries
        self._unfinished: deque[int] = deque()
        self.inputs: dict[tuple[str | None, Stage | None], set[tuple[str, str]]] = {}
        """Fingerprints of data and weights of the recorded epochs, by variant and stage."""
        self._learn(ledger.known())
        records = ledger.trials(to_go_on=True)
        epochs = ledger.epochs_of([r.number for r in records], columns=self._columns)
        for record, rows in zip(records, epochs, strict=True):
            self._take_over(record, rows)
        self._weights = KeptWeights(spec, ledger, self._records)

    # ------------------------------------------------------------ next

    @property
    def num_known(self) -> int:
        """Trials of the search that this one was forked from which its sampler learns from."""
        return self._optuna.num_known

    @property
    def records(self) -> dict[int, TrialRecord]:
        """All trials by number, as the ledger has them."""
        return self._records

    def next_trial(self) -> TrialSpec | None:
        """Return a trial to execute, recorded as RUNNING, or None when none is left to begin.

        The unfinished ones come first.
        """
        if self._unfinished:
            return self._spec_of(self._records[self._unfinished.popleft()])
        while len(self._regular) < self._num_asked:
            trial = self._ask(len(self._records))
            if trial is not None:
                return trial
        while (promotion := next_promotion(self.spec, self._records.values())) is not None:
            trial = self._promote(*promotion)
            if trial is not None:
                return trial
        return None

    def put_back(self, number: int) -> None:
        """Give a trial whose worker was lost to whoever asks next."""
        self._unfinished.appendleft(number)

    @property
    def unfinished(self) -> bool:
        """Whether a trial is to be begun or to be gone on with."""
        records = self._records.values()
        return (
            len(self._regular) < self._num_asked
            or any(not record.state.is_finished for record in records)
            or next_promotion(self.spec, records) is not None
        )

    @property
    def failed(self) -> list[int]:
        """Trials that failed and were not retried."""
        retried = {record.retry_of for record in self._records.values()}
        return [
            number
            for number, record in self._records.items()
            if record.state is TrialState.FAIL and number not in retried
        ]

    def retry(self, failed: int) -> None:
        """Record a new trial that repeats a failed one: its values and its seed."""
        old = self._records[failed]
        number = len(self._records)
        if old.promoted_from is not None:
            screened = self._records[old.promoted_from]
            trial = self._promote(screened, old.seed, retry_of=failed)
        else:
            trial = self._begin(number, old.variant, old.params, old.seed, retry_of=failed)
        if trial is not None:  # else its values still do not go together
            self._unfinished.append(number)

    def _spec_of(self, record: TrialRecord) -> TrialSpec:
        return self.spec.trial(
            record.number, record.params, record.variant, seed=record.seed, stage=record.stage
        )

    def _ask(self, number: int) -> TrialSpec | None:
        """Begin the next trial that Optuna chooses, or a replicate of it.

        None where its values do not go together, a FAIL.
        """
        seeds = self.spec.seeds_of(self.spec.first_stage)
        configuration, replicate = divmod(len(self._regular), len(seeds))
        variant: str | None = None
        known: Mapping[str, Any] | None = None
        if replicate:
            first = self._records[self._regular[-replicate]]
            variant, known = first.variant, first.params
        elif self._grid:
            variant, known = self._grid[configuration]
        elif configuration < len(self._points):
            known = self._points[configuration]
        return self._begin(number, variant, known, seeds[replicate])

    def _begin(
        self,
        number: int,
        variant: str | None,
        known: Mapping[str, Any] | None,
        seed: int,
        *,
        retry_of: int | None = None,
    ) -> TrialSpec | None:
        """Record a trial with known values, or such as the sampler chooses."""
        values = self._optuna.ask(number, variant, known)
        record = TrialRecord(
            number=number,
            uid=trial_uid(self.spec.name, number),
            state=TrialState.RUNNING,
            seed=seed,
            variant=variant,
            configuration_id="",
            params=values,
            retry_of=retry_of,
            stage=self.spec.first_stage,
            started_utc=utc_now(),
            optuna_state=self._optuna.memory_of(number),
        )
        if retry_of is None:
            self._regular.append(number)
        return self._record_new(record)

    def _promote(
        self, screened: TrialRecord, seed: int, *, retry_of: int | None = None
    ) -> TrialSpec | None:
        """Record a trial that trains a configuration of the screen as the spec says."""
        number = len(self._records)
        return self._record_new(
            TrialRecord(
                number=number,
                uid=trial_uid(self.spec.name, number),
                state=TrialState.RUNNING,
                seed=seed,
                variant=screened.variant,
                configuration_id="",
                params=screened.params,
                retry_of=retry_of,
                stage="full",
                promoted_from=screened.number,
                started_utc=utc_now(),
            )
        )

    def _record_new(self, record: TrialRecord) -> TrialSpec | None:
        """Record a trial with its configuration; None where its values do not go together."""
        try:
            spec = self._spec_of(record)
        except ValidationError as error:
            self._records[record.number] = record
            reasons = "; ".join(
                f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()
            )
            self.fail(record.number, f"these values do not go together: {reasons}")
            return None
        self._save(
            replace(
                record,
                configuration_id=spec.configuration_id,
                configuration=flatten(spec.configuration),
            )
        )
        return spec

    # ------------------------------------------------------------ during and after

    def observe(self, number: int, epoch: int, row: Mapping[str, Any]) -> bool:
        """Take an epoch's objective to the pruner; return whether to end the trial now.

        An epoch may come again, after a resume; the first one counts.
        """
        hopeless = self._is_hopeless(number, epoch, row)
        rungs = self._optuna.memory_of(number)
        if rungs != self._records[number].optuna_state and not hopeless:
            self._save(replace(self._records[number], optuna_state=rungs))
        return hopeless

    def _is_hopeless(self, number: int, epoch: int, row: Mapping[str, Any]) -> bool:
        value = row.get(self.spec.objective[0].column)
        if len(self.spec.objective) > 1 or self.spec.pruner.name == "none" or value is None:
            return False
        # What was promoted was chosen to be trained.
        return number in self._optuna and self._optuna.observe(number, epoch, float(value))

    def complete(self, number: int) -> TrialRecord:
        """Record a trial that reached its last epoch; FAIL if an objective is undefined there."""
        rows = self._epochs(number)
        row = rows[-1]
        # Too late to prune it, but others are compared with it.
        self._is_hopeless(number, row["epoch"], row)
        values = {o.column: row.get(o.column) for o in self.spec.objective}
        defined = [float(v) for v in values.values() if v is not None and math.isfinite(v)]
        if len(defined) < len(values):
            undefined = ", ".join(column for column, value in values.items() if value is None)
            return self.fail(
                number,
                f"{undefined} is undefined: no class of it has a positive image in the split; "
                "choose another objective, or a larger validation split",
            )
        self._end(number, TrialState.COMPLETE, rows=rows, values=defined)
        self._optuna.tell(number, TrialState.COMPLETE, defined)
        return self._records[number]

    def prune(self, number: int) -> TrialRecord:
        """Record a trial that the pruner ended."""
        self._end(number, TrialState.PRUNED)
        self._optuna.tell(number, TrialState.PRUNED)
        return self._records[number]

    def fail(self, number: int, error: str) -> TrialRecord:
        """Record a trial that ended in an error."""
        self._end(number, TrialState.FAIL, error=error)
        self._optuna.tell(number, TrialState.FAIL)
        return self._records[number]

    def remove_checkpoints(self, ended: int | None = None) -> None:
        """Remove weights and scores of an ended trial, or of the one that it is better than.

        The best `keep_checkpoints` by the first objective stay. Without a trial: what a kill left.
        """
        self._weights.remove_others(ended)

    def _end(
        self,
        number: int,
        state: TrialState,
        *,
        rows: list[dict[str, Any]] | None = None,
        values: list[float] | None = None,
        error: str | None = None,
    ) -> None:
        rows = self._epochs(number) if rows is None else rows
        self._save(
            replace(
                self._records[number],
                state=state,
                values=values,
                error=error,
                attempts=self._ledger.attempts(number).newest(),
                epochs=len(rows),
                wall_seconds=sum(r["train_seconds"] + r["evaluation_seconds"] for r in rows),
                ended_utc=utc_now(),
                optuna_state=self._optuna.memory_of(number),
            )
        )

    # ------------------------------------------------------------ study and ledger

    @property
    def _columns(self) -> list[str]:
        """What a driver needs of epochs, a tenth of their columns."""
        return [*_EPOCH_COLUMNS, *(objective.column for objective in self.spec.objective)]

    def _epochs(self, number: int) -> list[dict[str, Any]]:
        return self._ledger.epochs(number, columns=self._columns)

    def _save(self, record: TrialRecord) -> None:
        self._ledger.write_trial(record)
        self._records[record.number] = record

    def _take_over(self, record: TrialRecord, rows: list[dict[str, Any]]) -> None:
        if record.number != len(self._records):
            missing = self._ledger.file("trials", len(self._records))
            raise StorageError(
                f"{missing}: missing, while later trials are there; put it back, or let "
                f"pgsearch verify {self.spec.name} --repair find what is known of it"
            )
        for row in rows:
            fingerprints = (row["data_fingerprint"], row["weights_fingerprint"])
            key = (record.variant, record.stage)
            self.inputs.setdefault(key, set()).add(fingerprints)
        if record.stage == self.spec.first_stage:
            self._optuna.add(record, rows)
            if record.retry_of is None:
                self._regular.append(record.number)
        self._records[record.number] = record
        if not record.state.is_finished:
            self._unfinished.append(record.number)

    def _learn(self, known: Ledger) -> None:
        """Let Optuna know the trials of another search that this one could have."""
        teachers = [
            record
            for record in known.trials()
            if teaches(record, self.spec, self._optuna.distributions(record.variant))
        ]
        epochs = known.epochs_of([r.number for r in teachers], columns=self._columns)
        for record, rows in zip(teachers, epochs, strict=True):
            self._optuna.teach(record, rows)
