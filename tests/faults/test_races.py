"""Promise 5: processes that want the same thing at once, and ones that come back too late."""

import json
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pgsearch.errors import StorageError
from pgsearch.results import DriverLease, Ledger, lease
from pgsearch.results.claims import this_process
from pgsearch.results.local_storage import LocalStorage
from pgsearch.results.storage import as_json
from pgsearch.training.checkpoint import Checkpoints
from tests.conftest import Points
from tests.faults.operations import (
    AppendFirst,
    AppendLater,
    Operation,
    SaveLaterCheckpoint,
    by_name,
    rows_in,
)
from tests.faults.strace import END, Trace
from tests.faults.test_syscalls import Case, objects
from tests.faults.warm import Child, WarmProcesses

pytestmark = [pytest.mark.slow, pytest.mark.promise(5)]

RACES = "tests.faults.races"


def let_go(children: list[Child]) -> None:
    for child in children:
        child.wait_at_gate()
    for child in children:
        child.go()


def test_attempts_that_are_claimed_at_once_are_numbered_without_gaps(
    tmp_path: Path, warm: WarmProcesses, points: Points
) -> None:
    num_processes, count = 6, 5
    for race in range(3):
        folder = tmp_path / str(race)
        children = [
            warm.start(f"{RACES}:claim_attempts", str(folder), count) for _ in range(num_processes)
        ]
        let_go(children)
        claimed: dict[int, int] = {}
        for child in children:
            told = child.hear()
            assert told is not None
            claimed |= dict.fromkeys(told["result"], child.pid)
            child.close()
        with points.point():
            assert sorted(claimed) == list(range(1, num_processes * count + 1))
            attempts = Ledger(folder).attempts(0)
            assert attempts.newest() == num_processes * count
            for number, pid in claimed.items():
                stored = attempts.file(number).read()
                assert stored is not None
                assert json.loads(stored.data)["pid"] == pid


def test_two_writers_of_one_file_lose_no_update(
    tmp_path: Path, warm: WarmProcesses, points: Points
) -> None:
    for num_processes, count in ((2, 100), (5, 20)):
        folder = tmp_path / str(num_processes)
        children = [
            warm.start(f"{RACES}:count_up", str(folder), count) for _ in range(num_processes)
        ]
        let_go(children)
        values = []
        for child in children:
            told = child.hear()
            assert told is not None
            values += told["result"]
            child.close()
        with points.point():
            assert sorted(values) == list(range(1, num_processes * count + 1))
            assert (folder / "number.json").read_text() == str(num_processes * count)


class Drivers:
    """Processes that want to drive one search."""

    def __init__(self, warm: WarmProcesses, folder: Path) -> None:
        self._warm, self._folder = warm, folder

    def compete(self, count: int) -> tuple[Child, list[str]]:
        """Return the one that got the lease, and what the others were told."""
        children = [
            self._warm.start(f"{RACES}:hold_lease", str(self._folder)) for _ in range(count)
        ]
        let_go(children)
        holders, refusals = [], []
        for child in children:
            told = child.hear(20.0)
            assert told is not None
            if "driver" in told:
                holders.append(child)
            else:
                assert told["error"] == "StorageError", told
                assert told["exit_code"] == 5
                refusals.append(told["message"])
                child.close()
        assert len(holders) == 1, f"{len(holders)} drivers hold the lease"
        return holders[0], refusals

    def require_refused(self, holder: Child) -> None:
        child = self._warm.start(f"{RACES}:hold_lease", str(self._folder)).wait_at_gate()
        child.go()
        told = child.hear(20.0)
        child.close()
        assert told is not None
        assert told.get("error") == "StorageError", told
        require_named(told["message"], holder)


def require_named(refusal: str, holder: Child) -> None:
    """See that a driver that is refused is told who holds the lease."""
    assert re.search(
        rf"host {re.escape(socket.gethostname())}, pid {holder.pid}, since \d{{4}}-\d\d-\d\dT",
        refusal,
    ), refusal


def test_of_many_drivers_exactly_one_holds_the_lease(
    tmp_path: Path, warm: WarmProcesses, points: Points
) -> None:
    drivers = Drivers(warm, tmp_path)
    for race in range(8):
        with points.point():
            start = time.monotonic()
            holder, refusals = drivers.compete(6)
            assert time.monotonic() - start < 5, "the next driver had to wait for a dead one"
            for refusal in refusals:
                require_named(refusal, holder)
        if race % 2:
            holder.go()
            assert holder.hear() == {"waits": True}
            assert holder.hear() == {"result": None}
        holder.close()  # kills it, where it did not end


def test_a_driver_that_is_paused_is_alive(
    tmp_path: Path, warm: WarmProcesses, points: Points
) -> None:
    drivers = Drivers(warm, tmp_path)
    holder, _ = drivers.compete(1)
    with points.point():
        holder.send(signal.SIGSTOP)
        while holder.state() != "T":
            time.sleep(0.001)
        drivers.require_refused(holder)
    with points.point():
        holder.send(signal.SIGCONT)
        drivers.require_refused(holder)
    with points.point():  # killed while it is paused
        holder.send(signal.SIGSTOP)
        holder.send(signal.SIGKILL)
        assert holder.has_ended(10)
        drivers.compete(1)[0].close()
    holder.close()


@pytest.mark.usefixtures("tracing")
@pytest.mark.parametrize("at_once", [True, False], ids=["late", "first"])
@pytest.mark.parametrize(
    "operation", [AppendFirst(), AppendLater(), SaveLaterCheckpoint()], ids=by_name
)
def test_an_attempt_that_is_paused_anywhere_overwrites_nothing_newer(
    operation: Operation, at_once: bool, tmp_path: Path, warm: WarmProcesses, points: Points
) -> None:
    """Stop an attempt after each of its system calls, and let a newer one begin meanwhile.

    The older one goes on after the newer one has written, or when that has read all it knows.
    """
    case = Case(warm, operation, tmp_path)
    blocked = 0
    for call in case.calls:
        if call.name == END:
            break
        case.begin_again()
        zombie = warm.start("tests.faults.operations:perform", operation.name, str(case.folder))
        trace = Trace(zombie.wait_at_gate(), tmp_path / "trace",
                      f"{call.name}:signal=SIGSTOP:when={call.count}")  # fmt: skip
        with points.point(), trace:
            trace.wait_until_stopped()
            newer = warm.start(f"{RACES}:go_on_as_newer_attempt", str(case.folder), 4, at_once)
            told = newer.hear(0.5)
            if told is None:  # the zombie holds the lock of the folder: one waits for the other
                blocked += 1
                zombie.send(signal.SIGCONT)
                told = newer.hear()
            between = objects(case.folder)
            zombie.send(signal.SIGCONT)
            ended = zombie.hear()
            assert ended is not None
            assert ended.get("error") in (None, "AttemptReplaced"), ended
            if at_once:
                assert objects(case.folder) == between
            else:
                between = objects(case.folder)
                newer.go()
                told = newer.hear()
            assert told is not None
            require_newest(
                Ledger(case.folder), told["result"], rows_in(between.get("epochs/00000.parquet"))
            )
        newer.close()
        zombie.close()
    assert blocked <= 5, "the lock is held for longer than it takes to compare and rename"


def require_newest(ledger: Ledger, attempt: int, before: list[dict[str, Any]]) -> None:
    """See that trial 0 is as its newest attempt left it, and what was there before as it was."""
    state = Checkpoints(ledger.checkpoint_file(0)).load()
    assert state == {"epoch": 4, "attempt": attempt}
    after = ledger.epochs(0)
    assert [row["epoch"] for row in after] == [1, 2, 3, 4]
    assert after[: len(before)] == before
    for row in after:
        older = row["attempt"] < attempt
        assert row["map.validation.total"] == (0.5 if older else 0.25)


# ------------------------------------------------------------ drivers of other machines


def claim_of_another_machine(folder: Path, **changes: object) -> LocalStorage:
    holder = {**this_process(), "machine": "elsewhere", "host": "far", "pid": 7, "beat": 4}
    storage = LocalStorage(folder)
    storage.write("drivers/1.json", as_json({**holder, "state": "running", **changes}))
    return storage


def test_a_driver_of_another_machine_is_dead_once_its_beat_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS_UNTIL_DEAD", 0.9)
    storage = claim_of_another_machine(tmp_path)
    told: list[str] = []
    start = time.monotonic()
    with DriverLease(storage, on_waiting=told.append) as taken:
        assert taken.number == 2
        assert time.monotonic() - start >= 0.9
    assert len(told) == 1
    assert "host far, pid 7, since" in told[0]


def test_a_driver_of_another_machine_lives_while_its_beat_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS_UNTIL_DEAD", 2.5)
    storage = claim_of_another_machine(tmp_path)
    beat = threading.Timer(0.3, claim_of_another_machine, [tmp_path], {"beat": 5})
    beat.start()
    with pytest.raises(StorageError, match=r"another driver works on this.*host far, pid 7, since"):
        DriverLease(storage).__enter__()
    beat.join()
    assert not (tmp_path / "drivers" / "2.json").exists()


def test_a_driver_of_another_machine_that_has_ended_is_replaced_at_once(tmp_path: Path) -> None:
    start = time.monotonic()
    with DriverLease(claim_of_another_machine(tmp_path, state="released")) as taken:
        assert taken.number == 2
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    "content", [b"", b"null", b"[1]", b"\xff", b'{"machine": 3}', b'{"pid": null, "state": []}']
)
def test_a_claim_that_nobody_can_read_is_dead_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(lease, "SECONDS_UNTIL_DEAD", 0.0)
    LocalStorage(tmp_path).write("drivers/1.json", content)
    with DriverLease(LocalStorage(tmp_path)) as taken:
        assert taken.number == 2


@pytest.mark.parametrize(
    "changes",
    [{"pid": "7"}, {"pid": None}, {"pid": 2**80}, {"process_start": "0"}, {"process_start": None}],
    ids=str,
)
def test_a_claim_of_this_machine_with_anything_in_it_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    monkeypatch.setattr(lease, "SECONDS_UNTIL_DEAD", 0.0)
    holder = {**this_process(), "state": "running", "beat": 1, **changes}
    LocalStorage(tmp_path).write("drivers/1.json", as_json(holder))
    if changes == {"process_start": None}:  # where that is not known, the number is all there is
        with pytest.raises(StorageError, match="another driver works on this search"):
            DriverLease(LocalStorage(tmp_path)).__enter__()
        return
    with DriverLease(LocalStorage(tmp_path)) as taken:
        assert taken.number == 2


def test_a_driver_that_was_replaced_learns_it_and_writes_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS_BETWEEN_BEATS", 0.02)
    storage = LocalStorage(tmp_path)
    with DriverLease(storage) as replaced:
        storage.swap("drivers/2.json", b"{}", None)
        deadline = time.monotonic() + 5
        while replaced.lost is None and time.monotonic() < deadline:
            time.sleep(0.01)
        before = (tmp_path / "drivers" / "1.json").read_bytes()
    assert replaced.lost is not None
    assert "another driver has taken this search over" in replaced.lost
    assert (tmp_path / "drivers" / "1.json").read_bytes() == before
