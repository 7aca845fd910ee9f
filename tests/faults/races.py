"""What the processes of the races do."""

import json
from pathlib import Path

from pgsearch.results import DriverLease, EpochWriter, Ledger
from pgsearch.results.local_storage import LocalStorage
from pgsearch.results.storage import Conflict
from pgsearch.training.checkpoint import Checkpoints
from tests.faults.warm import Gate
from tests.records import epoch_record, trial


def claim_attempts(gate: Gate, folder: str, count: int) -> list[int]:
    """Begin so many executions of trial 0."""
    ledger = Ledger(folder)
    gate.wait()
    return [ledger.claim_attempt(0) for _ in range(count)]


def hold_lease(gate: Gate, folder: str) -> None:
    """Drive a search until told to end."""
    lease = DriverLease(LocalStorage(Path(folder)))
    gate.wait()
    with lease:
        gate.tell(driver=lease.number)
        gate.wait()


def count_up(gate: Gate, folder: str, count: int) -> list[int]:
    """Add 1 to a shared number so many times; return what it was each time."""
    storage = LocalStorage(Path(folder))
    values: list[int] = []
    gate.wait()
    while len(values) < count:
        stored = storage.read("number.json")
        value = json.loads(stored.data) if stored else 0
        try:
            storage.swap("number.json", b"%d" % (value + 1), stored.tag if stored else None)
        except Conflict:
            continue
        values.append(value + 1)
    return values


def go_on_as_newer_attempt(gate: Gate, folder: str, num_epochs: int, at_once: bool) -> int:
    """Begin trial 0 again, record its epochs and save its state, at once or when told to."""
    ledger = Ledger(folder)
    attempt = ledger.claim_attempt(0)
    checkpoints = Checkpoints(
        ledger.checkpoint_file(0), may_write=lambda: ledger.attempts(0).is_newest(attempt)
    )
    checkpoints.load()
    writer = EpochWriter(ledger, trial(), attempt)
    if not at_once:
        gate.wait()
    checkpoints.save({"epoch": num_epochs, "attempt": attempt})
    for epoch in range(1, num_epochs + 1):
        writer.append(epoch_record(epoch, 0.25))
    return attempt
