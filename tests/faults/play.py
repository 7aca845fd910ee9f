"""A search in which nothing is trained: a driver and workers that are only good for being killed.

They do what `pgsearch run` and `fit` do, in the same order and through the same code, but for Ray
and torch's steps. Whatever a worker does goes into a log that the one who kills can believe: a line
is there if, and only if, what it says was done before.
"""

import contextlib
import json
import os
import random
import select
import signal
import socket
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from pgsearch.config import SearchSpec, TrialSpec, flatten
from pgsearch.config.trial import trial_uid
from pgsearch.errors import AttemptReplaced
from pgsearch.provenance import utc_now
from pgsearch.results import (
    DriverLease,
    DriverWatch,
    EpochRecord,
    EpochWriter,
    Ledger,
    TrialRecord,
    TrialState,
)
from pgsearch.training.checkpoint import Checkpoints
from pgsearch.training.state import records_of
from tests.faults.warm import Gate
from tests.records import epoch_record, spec

NAME = "small"


@dataclass(frozen=True)
class Play:
    """A search, as plain data."""

    url: str
    log: str
    """A file of this machine."""
    trials: int = 4
    epochs: int = 4
    checkpoint_every: int = 1
    workers: int = 2

    @cached_property
    def spec(self) -> SearchSpec:
        training = {"epochs": self.epochs, "checkpoint_every": self.checkpoint_every}
        return spec(name=NAME, trials=self.trials, training=training)

    def write(self, what: str, **facts: Any) -> None:
        """Add a line to the log, whole or not at all."""
        line = json.dumps({"what": what, **facts}).encode() + b"\n"
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def first_weights(trial: TrialSpec) -> torch.Tensor:
    """Return what a trial begins with: it tells one set of parameters from another."""
    start = int(trial.configuration_id, 16) % 2**31
    return torch.arange(256, dtype=torch.int64) + start


def train(weights: torch.Tensor, epoch: int) -> torch.Tensor:
    """Return the weights after an epoch, exactly: a lost or repeated one shows in all later."""
    return (weights * 48_271 + epoch) % (2**31 - 1)


def evaluate(weights: torch.Tensor) -> float:
    """Return the score of weights, in [0, 1]."""
    return float(weights[0]) / 2**31


# ------------------------------------------------------------ a worker


def execute(play: Play, trial: TrialSpec, driver: int, report: Callable[..., None]) -> bool:
    """Execute a trial, as `train_trial` and `fit` do; return whether it came to its end."""
    ledger = Ledger(play.url)
    attempt = ledger.claim_attempt(trial.number)
    facts = {"number": trial.number, "attempt": attempt}
    writer = EpochWriter(ledger, trial, attempt)
    checkpoints = Checkpoints(
        ledger.checkpoint_file(trial.number),
        may_write=lambda: ledger.attempts(trial.number).is_newest(attempt),
    )
    watch = DriverWatch(ledger.storage, driver)

    def record_epoch(record: EpochRecord) -> None:
        row = writer.append(record)
        play.write(
            "acknowledged",
            **facts,
            epoch=row["epoch"],
            by=row["attempt"],
            recorded_utc=row["recorded_utc"].isoformat(),
        )
        report(epoch=row["epoch"])

    state = checkpoints.load() or {"epoch": 0, "weights": first_weights(trial), "records": []}
    weights, records = state["weights"], records_of(state)
    for record in records:
        record_epoch(record)
    for epoch in range(state["epoch"] + 1, play.epochs + 1):
        if watch.should_stop():
            return False
        weights = train(weights, epoch)
        play.write("trained", **facts, epoch=epoch)
        records.append(epoch_record(epoch, evaluate(weights), last=epoch == play.epochs))
        if epoch % play.checkpoint_every == 0 or epoch == play.epochs:
            values = [dict(vars(record)) for record in records]
            checkpoints.save({"epoch": epoch, "weights": weights, "records": values})
        record_epoch(records[-1])
    return True


class Worker:
    """A process that executes one trial after another, as an actor that Ray uses again."""

    def __init__(self, play: Play, gate: Gate, siblings: "list[Worker]") -> None:
        self.number: int | None = None
        """Trial that it executes."""
        self._socket, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid:
            theirs.close()
            return
        status = 1
        try:
            gate.leave_to_parent()
            for worker in (*siblings, self):
                worker._socket.close()
            _work(play, theirs)
            status = 0
        finally:
            os._exit(status)

    def place(self, trial: TrialSpec, driver: int) -> None:
        self.number = trial.number
        with contextlib.suppress(BrokenPipeError):  # it was killed: `hear` will tell
            self._socket.sendall(_line(trial=trial.model_dump(mode="json"), driver=driver))

    def fileno(self) -> int:
        return self._socket.fileno()

    def hear(self) -> list[dict[str, Any]]:
        """Return what it reports; nothing, once it is lost."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            data = self._socket.recv(1 << 16)
            while data and not data.endswith(b"\n"):
                data += self._socket.recv(1 << 16)
        return [json.loads(line) for line in data.splitlines()]

    def dismiss(self) -> None:
        self._socket.close()
        os.waitpid(self.pid, 0)


def _work(play: Play, driver: socket.socket) -> None:
    with driver.makefile("rb") as orders:
        for line in orders:
            order = json.loads(line)
            trial = TrialSpec.model_validate(order["trial"])
            play.write("placed", number=trial.number, pid=os.getpid())

            def report(**facts: Any) -> None:
                with contextlib.suppress(BrokenPipeError):  # the driver is lost: go on till told
                    driver.sendall(_line(**facts))

            try:
                ended = execute(play, trial, order["driver"], report)
                report(**{"ended" if ended else "interrupted": True})
            except AttemptReplaced:
                report(interrupted=True)
            except Exception as error:
                play.write("failed", error=f"{type(error).__name__}: {error}")
                report(error=str(error))
            play.write("left", number=trial.number, pid=os.getpid())


def _line(**facts: Any) -> bytes:
    return json.dumps(facts).encode() + b"\n"


# ------------------------------------------------------------ the driver


@dataclass
class Driver:
    """Drives the search to its end, as `run_search` and `SearchStudy` do."""

    play: Play
    workers: list[Worker]
    spec: SearchSpec
    ledger: Ledger
    lease: DriverLease
    records: dict[int, TrialRecord] = field(default_factory=dict)
    unfinished: deque[int] = field(default_factory=deque)

    def run(self) -> None:
        self.ledger.begin(self.spec)
        for record in self.ledger.trials():
            assert record.number == len(self.records), "the row of a trial is gone"
            self.ledger.epochs(record.number)
            self.records[record.number] = record
            if not record.state.is_finished:
                self.unfinished.append(record.number)
        while True:
            free = [worker for worker in self.workers if worker.number is None]
            busy = [worker for worker in self.workers if worker.number is not None]
            while free and len(busy) < self.play.workers and (trial := self.next_trial()):
                free[0].place(trial, self.lease.number)
                busy.append(free.pop(0))
            if not busy:
                return
            for worker in select.select(busy, [], [])[0]:
                self.take_reports(worker)
            assert self.lease.lost is None, self.lease.lost

    def next_trial(self) -> TrialSpec | None:
        if self.unfinished:
            return self.spec_of(self.records[self.unfinished.popleft()])
        number = len(self.records)
        if number == self.play.trials:
            return None
        # Truly random: a row that is lost does not come back the same.
        params = {
            "loss.lambda1_neg.tail": round(random.SystemRandom().uniform(0.5, 8.0), 6),
            "loss.lambda0.head": 1.5,
        }
        record = TrialRecord(
            number=number,
            uid=trial_uid(NAME, number),
            state=TrialState.RUNNING,
            seed=0,
            variant=None,
            configuration_id="",
            params=params,
            started_utc=utc_now(),
            optuna_state={"random": random.SystemRandom().random()},
        )
        trial = self.spec_of(record)
        self.save(
            replace(
                record,
                configuration_id=trial.configuration_id,
                configuration=flatten(trial.configuration),
            )
        )
        return trial

    def spec_of(self, record: TrialRecord) -> TrialSpec:
        return self.spec.trial(record.number, record.params, record.variant, seed=record.seed)

    def take_reports(self, worker: Worker) -> None:
        number = worker.number
        assert number is not None
        reports = worker.hear()
        for report in reports:
            assert "error" not in report, report["error"]
            if "epoch" not in report:
                worker.number = None
                if "ended" in report:
                    self.end(number)
                else:
                    self.unfinished.appendleft(number)
        if not reports:  # it was lost
            worker.dismiss()
            self.workers.remove(worker)
            self.unfinished.appendleft(number)

    def end(self, number: int) -> None:
        rows = self.ledger.epochs(number)
        assert len(rows) == self.play.epochs
        self.save(
            replace(
                self.records[number],
                state=TrialState.COMPLETE,
                values=[rows[-1]["map.validation.total"]],
                attempts=self.ledger.attempts(number).newest(),
                epochs=len(rows),
                wall_seconds=sum(r["train_seconds"] + r["evaluation_seconds"] for r in rows),
                ended_utc=utc_now(),
            )
        )
        if number:  # as `remove_checkpoints` keeps some
            self.ledger.checkpoint_file(number).delete()

    def save(self, record: TrialRecord) -> None:
        self.ledger.write_trial(record)
        self.records[record.number] = record


def drive(gate: Gate, facts: dict[str, Any]) -> str:
    """Do what `pgsearch run` does."""
    play = Play(**facts)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    # Before there are threads; one more than work at a time, should one be killed.
    workers: list[Worker] = []
    for _ in range(play.workers + 1):
        workers.append(Worker(play, gate, workers))
    ledger = Ledger(play.url)
    with DriverLease(ledger.storage) as lease:
        driver = Driver(play, workers, play.spec, ledger, lease)
        driver.run()
    for worker in driver.workers:
        worker.dismiss()
    unfinished = [r.number for r in driver.records.values() if not r.state.is_finished]
    return "no workers" if unfinished else "done"


def read_log(path: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a play's log; one that is being written is left out."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            data = file.read()
    except FileNotFoundError:
        return
    for line in data[: data.rfind(b"\n") + 1].splitlines():
        yield json.loads(line)
