"""The commits of the ledger, each as something that can be stopped anywhere and repeated.

An operation changes one object, its `key`. However it is stopped, that object is as it was before,
or as it is afterwards, and every other is as it was.
"""

import json
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import torch

from pgsearch.results import DriverLease, EpochWriter, Ledger, TrialRecord, TrialState
from pgsearch.results.claims import this_process
from pgsearch.results.local_storage import LocalStorage
from pgsearch.results.rows import read_table
from pgsearch.results.storage import StoredFile, as_json
from pgsearch.training.checkpoint import Checkpoints
from tests.faults.warm import Gate
from tests.records import epoch_record, spec, trial


class Operation(ABC):
    """One commit.

    Attributes:
        name: of the operation, for a test's name and for the process that does it.
        key: of the object that it changes.
        copies: where it puts copies of objects before it changes that one.
    """

    name: ClassVar[str]
    key: ClassVar[str]
    copies: ClassVar[str] = "none/"

    def prepare(self, folder: Path) -> None:  # noqa: B027
        """Make what is there before; nothing, unless an operation says otherwise."""

    @abstractmethod
    def begin(self, folder: Path) -> Callable[[], object]:
        """Read what the operation needs to know, and return the commit alone."""

    @abstractmethod
    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        """Raise AssertionError where the object is not as the operation leaves it."""

    def check_copies(self, folder: Path, *, done: bool) -> None:  # noqa: B027
        """Raise AssertionError where a copy is neither absent nor whole; there is none."""

    def repeat(self, folder: Path) -> None:
        """Do it again as whoever repeats the command does, whether or not it was done."""
        self.begin(folder)()


class Write(Operation):
    name, key = "write", "folder/a.bin"
    old, new = b"old" * 1_000, b"new" * 30_000

    def prepare(self, folder: Path) -> None:
        LocalStorage(folder).write(self.key, self.old)

    def begin(self, folder: Path) -> Callable[[], object]:
        return lambda: LocalStorage(folder).write(self.key, self.new)

    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        assert new == self.new


class SwapReplaces(Write):
    name = "swap, replaces"

    def begin(self, folder: Path) -> Callable[[], object]:
        storage = LocalStorage(folder)
        tag = storage.tag(self.key)
        return lambda: storage.swap(self.key, self.new, tag)


class SwapCreates(SwapReplaces):
    name, key = "swap, creates", "folder/in/folder/a.bin"

    def prepare(self, folder: Path) -> None:
        pass


class Append(Operation):
    """An epoch is recorded, after none or some."""

    key = "epochs/00000.parquet"
    num_known: ClassVar[int]

    def prepare(self, folder: Path) -> None:
        ledger = Ledger(folder)
        ledger.begin(spec())
        writer = EpochWriter(ledger, trial(), ledger.claim_attempt(0))
        for epoch in range(1, self.num_known + 1):
            writer.append(epoch_record(epoch))

    def begin(self, folder: Path) -> Callable[[], object]:
        writer = EpochWriter(Ledger(folder), trial(), Ledger(folder).attempts(0).newest())
        return lambda: writer.append(epoch_record(self.num_known + 1))["epoch"]

    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        known, rows = rows_in(old), rows_in(new)
        assert rows[:-1] == known
        assert [row["epoch"] for row in rows] == list(range(1, self.num_known + 2))

    def repeat(self, folder: Path) -> None:
        ledger = Ledger(folder)
        writer = EpochWriter(ledger, trial(), ledger.claim_attempt(0))
        for epoch in range(1, self.num_known + 2):
            writer.append(epoch_record(epoch, 0.25))
        values = [row["map.validation.total"] for row in ledger.epochs(0)]
        assert values[:-1] == [0.5] * self.num_known


class AppendFirst(Append):
    name, num_known = "append, first epoch", 0


class AppendLater(Append):
    name, num_known = "append, later epoch", 2


class WriteTrial(Operation):
    key = "trials/00003.parquet"
    record = TrialRecord(
        number=3,
        uid="small-00003",
        state=TrialState.RUNNING,
        seed=0,
        variant=None,
        configuration_id="abc",
        params={"loss.lambda1_neg.tail": 2.5},
    )

    def begin(self, folder: Path) -> Callable[[], object]:
        ledger = Ledger(folder)
        ledger.trials()
        return lambda: ledger.write_trial(self.record)

    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        (row,) = rows_in(new)
        assert row["state"] == self.record.state
        assert json.loads(row["params"]) == self.record.params


class WriteTrialNew(WriteTrial):
    name = "write_trial, new"


class WriteTrialEnded(WriteTrial):
    name = "write_trial, ended"
    record = TrialRecord(
        **{**vars(WriteTrial.record), "state": TrialState.COMPLETE, "values": [0.5]}
    )

    def prepare(self, folder: Path) -> None:
        Ledger(folder).write_trial(WriteTrial.record)


class Begin(Operation):
    name, key = "begin", "search.json"

    def prepare(self, folder: Path) -> None:
        Ledger(folder).storage.write("drivers/1.json", b"{}")

    def begin(self, folder: Path) -> Callable[[], object]:
        return lambda: Ledger(folder).begin(spec())

    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        assert json.loads(new or b"")["spec"] == spec().model_dump(mode="json")


class Extend(Begin):
    """The same search with more trials: its header is written again."""

    name = "begin, extends"

    def prepare(self, folder: Path) -> None:
        Ledger(folder).begin(spec())

    def begin(self, folder: Path) -> Callable[[], object]:
        return lambda: Ledger(folder).begin(spec(trials=50))

    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        before, after = json.loads(old or b""), json.loads(new or b"")
        assert after["spec"] == spec(trials=50).model_dump(mode="json")
        assert after["created_utc"] == before["created_utc"]


class Fork(Begin):
    """A search that knows the trials of another: whole files are copied, its header comes last."""

    name, copies = "begin, forks", "known/"

    def prepare(self, folder: Path) -> None:
        source = self._source(folder)
        source.begin(spec())
        source.write_trial(WriteTrial.record)
        source.write_trial(WriteTrialEnded.record)
        writer = EpochWriter(source, trial(3), source.claim_attempt(3))
        writer.append(epoch_record(1))

    def begin(self, folder: Path) -> Callable[[], object]:
        return lambda: Ledger(folder).begin(spec(), forked_from=self._source(folder))

    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        super().check_new(old, new)
        assert json.loads(new or b"")["forked_from"]["num_trials"] == 1

    def check_copies(self, folder: Path, *, done: bool) -> None:
        source, known = self._source(folder), Ledger(folder).known()
        for table in ("epochs", "trials"):
            copied = known.file(table, 3).read()
            original = source.file(table, 3).read()
            assert original is not None
            assert copied is not None or not done
            assert copied is None or copied.data == original.data

    def _source(self, folder: Path) -> Ledger:
        return Ledger(folder.parent / "source")


class ClaimAttempt(Operation):
    name, key = "claim_attempt", "attempts/00000-2.json"

    def prepare(self, folder: Path) -> None:
        Ledger(folder).claim_attempt(0)

    def begin(self, folder: Path) -> Callable[[], object]:
        return lambda: Ledger(folder).claim_attempt(0)

    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        assert json.loads(new or b"")["pid"] > 0


class TakeLease(Operation):
    """A driver begins after one that ended."""

    name, key = "lease", "drivers/2.json"

    def prepare(self, folder: Path) -> None:
        with DriverLease(LocalStorage(folder)):
            pass

    def begin(self, folder: Path) -> Callable[[], object]:
        return DriverLease(LocalStorage(folder)).__enter__

    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        assert json.loads(new or b"")["state"] in ("running", "released")

    def repeat(self, folder: Path) -> None:
        with DriverLease(LocalStorage(folder)):
            pass


class TakeHeldLease(TakeLease):
    """A driver begins while another, which lives, holds the lease: it must not get it."""

    name = "lease, held"

    def prepare(self, folder: Path) -> None:
        holder = {**this_process(), "state": "running", "beat": 0}
        LocalStorage(folder).swap("drivers/1.json", as_json(holder), None)


class SaveCheckpoint(Operation):
    key = "checkpoints/00000.pt"
    old: ClassVar[dict[str, Any] | None] = None
    new: ClassVar[dict[str, Any]] = {"epoch": 2, "model": torch.full((5_000,), 2.0)}

    def prepare(self, folder: Path) -> None:
        ledger = Ledger(folder)
        ledger.claim_attempt(0)
        if self.old:
            Checkpoints(ledger.checkpoint_file(0)).save(self.old)

    def begin(self, folder: Path) -> Callable[[], object]:
        attempts = Ledger(folder).attempts(0)
        number = attempts.newest()
        checkpoints = Checkpoints(
            Ledger(folder).checkpoint_file(0), may_write=lambda: attempts.is_newest(number)
        )
        return lambda: checkpoints.save(self.new)

    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "state.pt")
            path.write_bytes(new or b"")
            state = Checkpoints(path).load()
        assert state is not None
        assert state["epoch"] == self.new["epoch"]
        assert torch.equal(state["model"], self.new["model"])


class SaveFirstCheckpoint(SaveCheckpoint):
    name = "checkpoint, first"


class SaveLaterCheckpoint(SaveCheckpoint):
    name, old = "checkpoint, later", {"epoch": 1, "model": torch.full((5_000,), 1.0)}


class DeleteCheckpoint(SaveLaterCheckpoint):
    name = "delete"

    def begin(self, folder: Path) -> Callable[[], object]:
        return Ledger(folder).checkpoint_file(0).delete

    def check_new(self, old: bytes | None, new: bytes | None) -> None:
        assert new is None


COMMITS: tuple[Operation, ...] = (
    Write(),
    SwapCreates(),
    SwapReplaces(),
    AppendFirst(),
    AppendLater(),
    WriteTrialNew(),
    WriteTrialEnded(),
    Begin(),
    Extend(),
    Fork(),
    ClaimAttempt(),
    TakeLease(),
    SaveFirstCheckpoint(),
    SaveLaterCheckpoint(),
    DeleteCheckpoint(),
)
HELD_LEASE = TakeHeldLease()
_BY_NAME = {operation.name: operation for operation in (*COMMITS, HELD_LEASE)}


def by_name(operation: Operation) -> str:
    """Return the name of an operation, for the name of a test."""
    return operation.name


def perform(gate: Gate, name: str, folder: str) -> None:
    """Do one operation in a warm process once its gate is opened."""
    commit = _BY_NAME[name].begin(Path(folder))
    gate.wait()
    try:
        commit()
    finally:
        os.getsid(0)  # nothing else calls it: in a trace, the operation ends here


def warm_up() -> None:
    """Do every operation once, so that no import is left for a traced one."""
    for operation in COMMITS:
        with tempfile.TemporaryDirectory() as folder:
            operation.prepare(Path(folder, "small"))
            operation.repeat(Path(folder, "small"))


def rows_in(data: bytes | None) -> list[dict[str, Any]]:
    """Return the rows of the bytes of a Parquet file of the ledger."""
    if data is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "table.parquet").write_bytes(data)
        found = read_table(StoredFile(LocalStorage(Path(folder)), "table.parquet"))
    assert found is not None
    table: pa.Table = found[0]
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
