"""Promise 6: disks that are really full, read-only, or out of what else a file needs."""

import os
import re
import resource
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pgsearch.errors import StorageError
from pgsearch.results import DriverLease, EpochWriter, Ledger, TrialState, lease
from pgsearch.training.checkpoint import Checkpoints
from tests.faults.operations import COMMITS, Operation, WriteTrial, by_name
from tests.records import epoch_record, spec, trial

pytestmark = pytest.mark.promise(6)

SmallDisk = Callable[[str], Path]


class Search:
    """A search that fills a disk: what it was told is stored, and whether it is."""

    def __init__(self, folder: Path, *, epochs: int = 3) -> None:
        self.ledger, self._epochs = Ledger(folder), epochs
        self.rows: dict[tuple[int, int], dict[str, Any]] = {}
        self.checkpoints: dict[int, int] = {}
        self.ended: set[int] = set()

    def run(self, num_trials: int) -> None:
        """Begin, or go on with, so many trials."""
        self.ledger.begin(spec())
        known = {record.number: record for record in self.ledger.trials()}
        for number in range(num_trials):
            record = known.get(number) or replace(WriteTrial.record, number=number)
            if record.state.is_finished:
                continue
            self.ledger.write_trial(record)
            self._execute(number)
            self.ledger.write_trial(replace(record, state=TrialState.COMPLETE, values=[0.5]))
            self.ended.add(number)

    def _execute(self, number: int) -> None:
        writer = EpochWriter(self.ledger, trial(number), self.ledger.claim_attempt(number))
        checkpoints = Checkpoints(self.ledger.checkpoint_file(number))
        for epoch in range(1, self._epochs + 1):
            checkpoints.save({"epoch": epoch, "model": torch.ones(5_000)})
            self.checkpoints[number] = epoch
            self.rows[number, epoch] = writer.append(epoch_record(epoch))

    def require_whole(self) -> None:
        """Read all that was stored, as users and as pgsearch do."""
        storage = self.ledger.storage
        assert not list(storage.leftovers()), "a temporary file takes space"
        for table in ("epochs", "trials"):
            if self.ledger.files(table):
                pd.read_parquet(Path(storage.url) / table)
        records = self.ledger.trials()
        assert {r.number for r in records if r.state.is_finished} >= self.ended
        for (number, epoch), row in self.rows.items():
            (stored,) = [r for r in self.ledger.epochs(number) if r["epoch"] == epoch]
            assert stored["recorded_utc"] == row["recorded_utc"]
        for number, epoch in self.checkpoints.items():
            state = Checkpoints(self.ledger.checkpoint_file(number)).load()
            assert state is not None
            assert state["epoch"] in (epoch, epoch + 1)


def slow(values: Iterable[tuple[str, str]]) -> list[Any]:
    return [pytest.param(*value, marks=pytest.mark.slow) for value in values]


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


@pytest.mark.parametrize(
    ("small", "larger"),
    [
        *((f"size={kb}k", "size=50m") for kb in (16, 60, 275)),
        *slow((f"size={kb}k", "size=50m") for kb in (150, 200, 350, 425)),
        *slow((f"nr_inodes={n}", "nr_inodes=10k") for n in (2, 3, 4, 5, 6, 8, 11, 14)),
    ],
)
def test_a_full_disk_is_told_and_loses_nothing(
    small_disk: SmallDisk, small: str, larger: str
) -> None:
    disk = small_disk(small)
    search = Search(disk / "small")
    with pytest.raises(StorageError) as full:
        search.run(100)
    assert re.match(
        rf"{re.escape(search.ledger.url)}/\S+: the disk is full: "
        r"[\d,]+ bytes are needed, [\d,]+ are free; free some space",
        str(full.value),
    ), full.value
    assert full.value.exit_code == 5
    search.require_whole()
    begun = len(search.ledger.trials())
    with pytest.raises(StorageError, match="the disk is full"):  # and stays so
        search.run(100)
    search.require_whole()
    remount(disk, larger)
    search.run(begun + 3)
    search.require_whole()
    assert search.ended == set(range(begun + 3))


@pytest.mark.parametrize("operation", COMMITS, ids=by_name)
def test_a_read_only_disk_is_told(small_disk: SmallDisk, operation: Operation) -> None:
    disk = small_disk("size=10m")
    operation.prepare(disk / "small")
    commit = operation.begin(disk / "small")
    remount(disk, "ro")
    with pytest.raises(StorageError, match=r"small/?.*Read-only file system"):
        commit()
    remount(disk, "rw")
    operation.repeat(disk / "small")


@pytest.mark.parametrize("operation", COMMITS, ids=by_name)
def test_too_many_open_files_are_told(tmp_path: Path, operation: Operation) -> None:
    folder = tmp_path / "small"
    operation.prepare(folder)
    commit = operation.begin(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_file = os.open(tmp_path, os.O_RDONLY)
    os.close(next_file)
    told = None
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_file, hard))
    try:
        commit()
    except StorageError as error:
        told = str(error)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if operation.name == "delete":  # needs none
        assert told is None
    else:
        assert told is not None
        assert "Too many open files" in told
    operation.repeat(folder)


def test_a_driver_that_cannot_renew_its_lease_stops(
    small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_BEATS", 0.02)
    monkeypatch.setattr(lease, "SECONDS_UNTIL_DEAD", 0.5)
    disk = small_disk("size=100k")
    ballast = disk / "ballast"
    with DriverLease(Ledger(disk / "small").storage) as driver:
        fill(ballast)
        time.sleep(0.2)
        ballast.unlink()  # in time
        time.sleep(0.5)
        assert driver.lost is None
        fill(ballast)
        deadline = time.monotonic() + 10
        while driver.lost is None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert driver.lost is not None
    assert "drivers/1.json: the disk is full" in driver.lost
    assert "could not be renewed" in driver.lost


def fill(path: Path) -> None:
    """Write a file that leaves no space."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(file, bytes(4096))
    except OSError:
        return
    finally:
        os.close(file)
