"""The ledger against a plain model: any order of what drivers and attempts do, crashes included.

Whoever takes part is an object in this process. A driver is alive as long as the process is that
stands for it, which sleeps; time passes only while a driver waits to see another's beat.
"""

import contextlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgsearch.errors import AttemptReplaced, StorageError
from pgsearch.results import (
    DriverLease,
    EpochWriter,
    Ledger,
    TrialRecord,
    TrialState,
    claims,
    lease,
)
from pgsearch.results.local_storage import LocalStorage
from pgsearch.results.rows import read_table, trial_record
from pgsearch.results.storage import StoredFile, Tag
from pgsearch.training.checkpoint import Checkpoints
from tests.conftest import Points
from tests.faults.faulty_storage import Crash, FaultyStorage, Plan, Process, crash
from tests.faults.operations import WriteTrial
from tests.records import epoch_record, spec, trial

NUM_EPOCHS = 4

Fault: TypeAlias = tuple[str, int] | None
"""A crash before or after the effect of the n-th operation on the storage."""


def faults(num_operations: int) -> st.SearchStrategy[Fault]:
    """Return crashes at any operation of something that does so many, or none."""
    at = st.integers(0, num_operations - 1)
    return st.none() | st.tuples(st.sampled_from(["before", "after"]), at)


@dataclass(eq=False)
class Driver:
    """A driver of the search."""

    process: Process
    lease: DriverLease
    ledger: Ledger
    stands_for: subprocess.Popen[bytes]
    elsewhere: bool
    paused: bool = False
    dead: bool = False
    records: dict[int, TrialRecord] = field(default_factory=dict)

    @property
    def trials(self) -> list[int]:
        """Trials that it may write: those that have not ended, as far as it knows, and the next."""
        running = [n for n, record in self.records.items() if not record.state.is_finished]
        return [*running, len(self.records)]


@dataclass(eq=False)
class Attempt:
    """An execution of a trial."""

    trial: int
    number: int
    process: Process
    writer: EpochWriter
    checkpoints: Checkpoints
    epoch: int = 0
    """The newest that it has trained and recorded."""
    saved: int = 0
    """The newest that is in its checkpoint."""


class Clock:
    """Time that passes only while somebody waits for a beat; then all that live have theirs."""

    def __init__(self, beat: Callable[[], None]) -> None:
        self._now, self._beat = 0.0, beat

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds
        if self._now % 5 == 0:
            self._beat()


class SearchMachine(RuleBasedStateMachine):
    """Drivers, attempts and the model of what they have stored."""

    def __init__(self) -> None:
        super().__init__()
        in_memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=in_memory if in_memory.is_dir() else None))
        self.storage = LocalStorage(self.folder / "small")
        self.reader = Ledger(self.storage)
        self.drivers: list[Driver] = []
        self.attempts: list[Attempt] = []
        self.rows: dict[tuple[int, int], dict[str, Any]] = {}
        self.trials: dict[int, TrialRecord] = {}
        self.newest: dict[int, int] = {}
        self.saved: dict[int, tuple[int, int]] = {}
        """Epoch and attempt of each checkpoint."""
        self.may_grow: set[tuple[int, int]] = set()
        """Rows that may be there after this step, and were not before."""
        self.acknowledged: dict[tuple[int, int], dict[str, Any]] = {}
        self.read_before: dict[str, tuple[Tag, list[dict[str, Any]]]] = {}
        self.patches = contextlib.ExitStack()
        self.patches.enter_context(mock.patch.object(lease, "SECONDS_BETWEEN_BEATS", 1e6))
        self.patches.enter_context(mock.patch.object(lease, "time", Clock(self._beats)))

    @initialize(
        elsewhere=st.booleans(), checkpoint_every=st.sampled_from([1, 2, 2]), asks=st.booleans()
    )
    def begin(self, elsewhere: bool, checkpoint_every: int, asks: bool) -> None:
        self.checkpoint_every = checkpoint_every
        self.asks = asks  # whether a driver looks for a newer one before it writes
        self.reader.begin(spec())
        self._start(elsewhere, None)
        self._write(self.drivers[0], 0, None)
        self._claim(0, None)

    def teardown(self) -> None:
        for driver in self.drivers:
            self._end(driver)
        self.patches.close()
        shutil.rmtree(self.folder)

    # ------------------------------------------------------------ drivers

    @property
    def holder(self) -> Driver | None:
        """Return the newest driver, unless it is dead."""
        return self.drivers[-1] if self.drivers and not self.drivers[-1].dead else None

    @precondition(lambda self: not self.is_held)
    @rule(elsewhere=st.booleans(), fault=faults(3), meanwhile=st.none() | st.integers(0, 2))
    def a_driver_comes(self, elsewhere: bool, fault: Fault, meanwhile: int | None) -> None:
        """Maybe another does too, at one of this one's operations."""
        plan = self._plan(fault)
        if meanwhile is not None:
            plan = Plan(meanwhile, before=lambda: self._start(not elsewhere, None))
        self._start(elsewhere, plan)

    @precondition(lambda self: self.holder)
    @rule(
        what=st.sampled_from(
            ["stays", "dies", "ends", "is paused", "is thought dead", "is thought dead", "goes on"]
        ),
        elsewhere=st.booleans(),
    )
    def the_driver(self, what: str, elsewhere: bool) -> None:
        """The newest driver stays or leaves, and another wants to drive."""
        holder = self.holder
        assert holder
        if what == "dies":
            self._end(holder)
        elif what == "ends" and not holder.paused:
            holder.lease.__exit__(None, None, None)  # it says so to whoever comes next
            self._end(holder)
        elif what == "goes on" and holder.paused:
            holder.paused = False
            self._beat(holder)
            assert holder.lease.lost is None
        elif what in ("is paused", "is thought dead"):
            holder.paused = True
        if what in ("stays", "is thought dead"):
            self._start(elsewhere, None)

    def _start(self, elsewhere: bool, plan: Plan | None) -> None:
        process = Process()
        storage = FaultyStorage(self.storage, process)
        stands_for = subprocess.Popen(["sleep", "600"])
        facts = {**claims.this_process(), "pid": stands_for.pid}
        facts["process_start"] = claims._process_start(stands_for.pid)
        facts |= {"machine": "elsewhere"} if elsewhere else {}
        held, refused = self.is_held, ""
        process.plan = plan
        new = DriverLease(storage)
        try:
            with mock.patch.object(lease, "this_process", return_value=facts):
                new.__enter__()
        except (Crash, StorageError) as error:
            stands_for.kill()
            stands_for.wait()
            if isinstance(error, Crash):
                return
            refused = str(error)
        finally:
            process.plan = None
        if refused:
            assert held or self.is_held, f"refused, though nobody holds the lease: {refused}"
            assert "another driver works on this search" in refused
            return
        assert not held, "two drivers hold the lease"
        assert not self.is_held, "two drivers hold the lease"
        driver = Driver(process, new, Ledger(storage), stands_for, elsewhere)
        if self.asks:
            driver.ledger.drive_as(new.number)
        driver.records = {record.number: record for record in driver.ledger.trials()}
        self.drivers.append(driver)

    @property
    def is_held(self) -> bool:
        """Whether a driver holds the lease whom others must respect."""
        holder = self.holder
        # One that is paused on this machine is seen to be alive.
        return holder is not None and not (holder.paused and holder.elsewhere)

    def _beats(self) -> None:
        holder = self.holder
        if holder and not holder.paused:
            self._beat(holder)

    def _beat(self, driver: Driver) -> None:
        """Let a driver's thread do its work once."""
        file = self.storage.folder / "drivers" / f"{driver.lease.number}.json"
        before, deadline = file.read_bytes(), time.monotonic() + 10
        driver.lease._wake.set()
        while file.read_bytes() == before and driver.lease.lost is None:
            assert time.monotonic() < deadline, "a driver neither renews its lease nor loses it"
            time.sleep(0.0005)

    def _end(self, driver: Driver) -> None:
        driver.dead = driver.process.ended = True
        driver.lease.lost = driver.lease.lost or "dead"
        driver.lease._wake.set()
        driver.lease._thread.join()
        driver.stands_for.kill()
        driver.stands_for.wait()

    @property
    def zombies(self) -> list[Driver]:
        """Drivers that were thought dead, and were replaced."""
        return [driver for driver in self.drivers[:-1] if not driver.dead]

    # ------------------------------------------------------------ rows of trials

    @precondition(lambda self: self.holder and not self.holder.paused)
    @rule(data=st.data(), fault=faults(2))
    def the_driver_writes(self, data: st.DataObject, fault: Fault) -> None:
        assert self.holder
        number = data.draw(st.sampled_from(self.holder.trials), label="trial")
        self._write(self.holder, number, self._plan(fault))

    @precondition(lambda self: self.zombies)
    @rule(data=st.data(), fault=faults(2), meanwhile=st.booleans())
    def a_zombie_writes(self, data: st.DataObject, fault: Fault, meanwhile: bool) -> None:
        """Before, while or after the one that replaced it does; or it notices that it was."""
        zombie, plan, holder = self.zombies[0], self._plan(fault), self.holder
        number = data.draw(st.sampled_from([*zombie.trials, None]), label="trial")
        if number is None:
            self._beat(zombie)
            assert zombie.lease.lost is not None
            self._end(zombie)
            return
        if meanwhile and holder and not holder.paused:
            plan = Plan(0, before=lambda: self._write(holder, number, None))
        self._write(zombie, number, plan)

    def _write(self, driver: Driver, number: int, plan: Plan | None) -> None:
        """Let a driver begin or end a trial: a row is replaced only if it is as it knows it."""
        by, num_epochs = driver.lease.number, len([e for n, e in self.rows if n == number])
        if number not in driver.trials:
            return
        if (known := driver.records.get(number)) is None:
            record = replace(WriteTrial.record, number=number, params={"by": by, "of": number})
        else:
            state = TrialState.COMPLETE if num_epochs == NUM_EPOCHS else TrialState.FAIL
            record = replace(known, state=state, epochs=num_epochs, attempts=by)
        driver.process.plan = plan
        try:
            driver.ledger.write_trial(record)
            outcome = "written"
        except Crash:
            outcome = "crashed"
        except StorageError as error:
            outcome = str(error)
        finally:
            driver.process.plan = None
        knew = self.trials.get(number) == driver.records.get(number)
        if outcome == "written":
            assert knew, "a newer row is lost"
            self.trials[number] = driver.records[number] = record
            return
        self._end(driver)  # it must not go on
        if "another driver has taken it over" in outcome:
            assert self.asks
            assert not self.reader.drivers().is_newest(by), "refused without a reason"
        elif outcome != "crashed":
            assert "another driver has changed it" in outcome
            assert not knew, "refused without a reason"
        elif knew and self._stored_trials().get(number) == record:
            self.trials[number] = record

    # ------------------------------------------------------------ attempts

    @property
    def running(self) -> list[int]:
        return [n for n, record in self.trials.items() if not record.state.is_finished]

    @precondition(lambda self: self.running)
    @rule(data=st.data(), fault=faults(6))
    def an_attempt_begins(self, data: st.DataObject, fault: Fault) -> None:
        number = data.draw(st.sampled_from(self.running), label="trial")
        self._claim(number, self._plan(fault))

    def _claim(self, number: int, plan: Plan | None) -> None:
        process = Process()
        ledger = Ledger(FaultyStorage(self.storage, process))
        before = self.newest.get(number, 0)
        process.plan = plan
        try:
            claimed = ledger.claim_attempt(number)
            assert claimed == before + 1
            self.newest[number] = claimed
            checkpoints = Checkpoints(
                ledger.checkpoint_file(number),
                may_write=lambda: ledger.attempts(number).is_newest(claimed),
            )
            state = checkpoints.load()
            writer = EpochWriter(ledger, trial(number), claimed)
            attempt = Attempt(number, claimed, process, writer, checkpoints)
            attempt.saved = state["epoch"] if state else 0
            while attempt.epoch < attempt.saved:
                self._append(attempt)  # what the checkpoint knows is told again
            self.attempts.append(attempt)
        except Crash:
            process.ended = True
            self.newest[number] = self.reader.attempts(number).newest()
            assert self.newest[number] in (before, before + 1)
        finally:
            process.plan = None

    @precondition(lambda self: self.attempts)
    @rule(data=st.data(), fault=faults(2), meanwhile=st.none() | st.integers(0, 1))
    def an_attempt_goes_on(self, data: st.DataObject, fault: Fault, meanwhile: int | None) -> None:
        """Any attempt, also one that was replaced, and maybe while a newer one begins."""
        attempt = data.draw(st.sampled_from(self.attempts), label="attempt")
        if meanwhile is None:
            self._step(attempt, self._plan(fault))
            return
        before = data.draw(st.integers(0, 3), label="steps of the newer one meanwhile")
        after = data.draw(st.integers(0, 2), label="its steps afterwards")
        newer: list[Attempt] = []
        self._step(attempt, Plan(meanwhile, lambda: newer.append(self._overtake(attempt, before))))
        for _ in range(after if newer else 0):
            self._step(newer[0], None)

    def _overtake(self, older: Attempt, steps: int) -> Attempt:
        self._claim(older.trial, None)
        newer = self.attempts[-1]
        for _ in range(steps):
            self._step(newer, None)
        return newer

    def _step(self, attempt: Attempt, plan: Plan | None) -> None:
        """Save the next epoch in a checkpoint, or record the one that is saved."""
        if attempt not in self.attempts:
            return
        attempt.process.plan = plan
        try:
            epoch = attempt.epoch + 1
            due = epoch % self.checkpoint_every == 0 or epoch == NUM_EPOCHS
            if epoch > NUM_EPOCHS:
                self.attempts.remove(attempt)
            elif due and attempt.saved < epoch:
                self._save(attempt)
            else:
                self._append(attempt)
        except AttemptReplaced:
            assert attempt.number < self.newest[attempt.trial], "the newest was sent away"
            self.attempts.remove(attempt)
        except Crash:
            attempt.process.ended = True
            self.attempts.remove(attempt)
        finally:
            attempt.process.plan = None

    def _append(self, attempt: Attempt) -> None:
        key = (attempt.trial, attempt.epoch + 1)
        was_newest = attempt.number == self.newest[attempt.trial]
        if was_newest:  # even where it crashes; never where it was replaced before
            self.may_grow.add(key)
        row = attempt.writer.append(epoch_record(key[1], attempt.number / 100))
        assert row["map.validation.total"] == row["attempt"] / 100, "a mixture of two attempts"
        assert was_newest or key in self._stored_rows(), "acknowledged and not recorded"
        known = self.acknowledged.setdefault(key, row)
        assert _identity(known) == _identity(row), "acknowledged twice, differently"
        attempt.epoch = key[1]

    def _save(self, attempt: Attempt) -> None:
        number, epoch = attempt.trial, attempt.epoch + 1
        was_newest = attempt.number == self.newest[number]
        state = {"epoch": epoch, "attempt": attempt.number}
        try:
            attempt.checkpoints.save(state)
        except Crash:
            stored = self._stored_checkpoint(number)
            if was_newest and stored == (epoch, attempt.number):
                self.saved[number] = stored
            raise
        assert was_newest, "an older attempt has replaced a checkpoint"
        # Where it was overtaken meanwhile, the newer one's is newer.
        known = self.saved.get(number, (0, 0))
        if known[1] <= attempt.number:
            self.saved[number] = (epoch, attempt.number)
        attempt.saved = epoch

    # ------------------------------------------------------------ what must hold

    @invariant()
    def rows_only_grow(self) -> None:
        stored = self._stored_rows()
        for key, row in self.rows.items():
            assert stored.get(key) == row, f"the row of {key} was changed or lost"
        for key, row in self.acknowledged.items():
            assert key in stored, f"the acknowledged row of {key} is lost"
            assert _identity(stored[key]) == _identity(row)
        assert stored.keys() - self.rows.keys() <= self.may_grow
        self.rows, self.may_grow = stored, set()

    @invariant()
    def rows_of_trials_are_as_written(self) -> None:
        assert self._stored_trials() == self.trials

    @invariant()
    def checkpoints_are_as_saved(self) -> None:
        for number in self.trials:
            assert self._stored_checkpoint(number) == self.saved.get(number)

    @invariant()
    def claims_are_numbered(self) -> None:
        for number in self.trials:
            assert self.reader.attempts(number).newest() == self.newest.get(number, 0)

    @invariant()
    def one_driver_at_most(self) -> None:
        works = [d for d in self.drivers if not (d.dead or d.paused) and d not in self.zombies]
        assert len(works) <= 1
        for zombie in self.zombies:
            assert not zombie.lease._claims.is_newest(zombie.lease.number)

    def _stored_rows(self) -> dict[tuple[int, int], dict[str, Any]]:
        found = [row for file in self.reader.files("epochs") for row in self._read(file)]
        rows = {(row["number"], row["epoch"]): row for row in found}
        assert len(rows) == len(found), "an epoch is there twice"
        return rows

    def _stored_trials(self) -> dict[int, TrialRecord]:
        found = [row for file in self.reader.files("trials") for row in self._read(file)]
        return {row["number"]: trial_record(row) for row in found}

    def _read(self, file: StoredFile) -> list[dict[str, Any]]:
        """Return the rows of a file, which are read once per version."""
        known = self.read_before.get(file.key)
        if known is None or known[0] != self.storage.tag(file.key):
            found = read_table(file)
            assert found is not None
            known = self.read_before[file.key] = found[1], found[0].to_pylist()
        return known[1]

    def _stored_checkpoint(self, number: int) -> tuple[int, int] | None:
        state = Checkpoints(self.reader.checkpoint_file(number)).load()
        return None if state is None else (state["epoch"], state["attempt"])

    def _plan(self, fault: Fault) -> Plan | None:
        if fault is None:
            return None
        return Plan(fault[1], **{fault[0]: crash})


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["attempt"], row["recorded_utc"], row["map.validation.total"]


def run_model(points: Points, *, examples: int, steps: int) -> None:
    class Counted(SearchMachine):
        def teardown(self) -> None:
            with points.point():
                super().teardown()

    run_state_machine_as_test(
        Counted,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.promise(5)
def test_the_ledger_agrees_with_its_model(points: Points) -> None:
    run_model(points, examples=5, steps=20)


@pytest.mark.slow
@pytest.mark.promise(5)
def test_the_ledger_agrees_with_its_model_for_long(points: Points) -> None:
    run_model(points, examples=90, steps=40)
