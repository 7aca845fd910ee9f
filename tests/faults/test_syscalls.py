"""Promise 2 and 6: kills and errors at every system call of every commit."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from pgsearch.results import Ledger
from pgsearch.results.local_storage import LocalStorage
from pgsearch.training.checkpoint import Checkpoints
from tests.conftest import Points
from tests.faults.operations import COMMITS, HELD_LEASE, Operation, by_name
from tests.faults.strace import END, Call, Trace
from tests.faults.warm import WarmProcesses
from tests.records import spec

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tracing")]

ERRORS = {
    "create": ("ENOSPC", "EROFS", "EMFILE"),
    "write": ("ENOSPC", "EIO"),
    "fsync": ("EIO", "EDQUOT"),
    "rename": ("EIO",),
    "link": ("EDQUOT", "EIO"),
    "unlink": ("EIO",),
    "mkdir": ("ENOSPC", "EROFS"),
    "utimensat": ("EIO",),
    "flock": ("EIO", "ENOLCK"),
    "openat": ("EMFILE", "EIO"),
    "read": ("EIO",),
    "close": ("EIO",),
    "getdents64": ("EIO",),
    "newfstatat": ("EIO",),
    "stat": ("EIO",),
    "statx": ("EIO",),
    "readlink": ("EIO",),
}
TOLERATED = {
    ("flock", "ENOLCK"),  # a file system without locks: whole files are replaced all the same
    *(("mkdir", error) for error in ERRORS["mkdir"]),  # of a folder that is there
}


class Case:
    """An operation, its trace, and the folder that it begins with."""

    def __init__(self, warm: WarmProcesses, operation: Operation, tmp_path: Path) -> None:
        self._warm, self.operation, self._tmp_path = warm, operation, tmp_path
        self._template, self.folder = tmp_path / "template", tmp_path / "small"
        self._template.mkdir()
        operation.prepare(self._template)
        self.before = objects(self._template)
        self.begin_again()
        told, self.calls = self.run(None)
        assert told is not None

    def begin_again(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self._template, self.folder, copy_function=shutil.copy2)

    def run(self, inject: str | None) -> tuple[dict[str, object] | None, list[Call]]:
        """Do the operation; return what its process told, and its calls unless it was killed."""
        child = self._warm.start(
            "tests.faults.operations:perform", self.operation.name, str(self.folder)
        )
        trace = Trace(child, self._tmp_path / "trace", inject)
        try:
            child.wait_at_gate()
            with trace:
                told = child.hear()
            return told, trace.calls() if told is not None else []
        finally:
            child.close()

    def require_old_or_new(self) -> bool:
        """Whether the operation is done; every object is whole, and no other one has changed."""
        after = objects(self.folder)
        key = self.operation.key
        others = {k: data for k, data in self.before.items() if k != key}
        copies = self.operation.copies
        assert others == {
            k: data for k, data in after.items() if k != key and not k.startswith(copies)
        }
        require_readable(self.folder)
        done = after.get(key) != self.before.get(key)
        if done:
            self.operation.check_new(self.before.get(key), after.get(key))
        self.operation.check_copies(self.folder, done=done)
        return done

    def require_repeatable(self) -> None:
        self.operation.repeat(self.folder)
        require_readable(self.folder)
        self.operation.check_new(
            self.before.get(self.operation.key), objects(self.folder).get(self.operation.key)
        )


def objects(folder: Path) -> dict[str, bytes]:
    keys = [entry.key for entry in LocalStorage(folder).entries()]
    return {key: (folder / key).read_bytes() for key in keys}


def require_readable(folder: Path) -> None:
    """Read everything as users and as pgsearch do."""
    ledger = Ledger(folder)
    for table in ("epochs", "trials"):
        if files := ledger.files(table):
            assert len(pd.read_parquet(folder / table)) >= len(files)
    ledger.trials()
    for number in ledger.kept_checkpoints():
        assert Checkpoints(ledger.checkpoint_file(number)).load() is not None
    if ledger.exists:
        ledger.spec()


@pytest.mark.promise(2)
@pytest.mark.parametrize("operation", COMMITS, ids=by_name)
def test_a_kill_at_every_system_call_leaves_the_old_state_or_the_new(
    operation: Operation, tmp_path: Path, warm: WarmProcesses, points: Points
) -> None:
    case = Case(warm, operation, tmp_path)
    was_done = []
    for call in case.calls:
        if not call.changes_state and call.name != END:
            continue
        case.begin_again()
        told, _ = case.run(f"{call.name}:signal=SIGKILL:when={call.count}")
        with points.point():
            assert told is None, f"not killed at {call}"
            was_done.append(case.require_old_or_new())
            case.require_repeatable()
    # The kills were where they should be: nothing was done at the first, all of it at the last,
    # and one call between them did it.
    assert not was_done[0]
    assert was_done[-1]
    assert was_done == sorted(was_done)


def failing_calls(calls: list[Call]) -> Iterator[tuple[Call, str]]:
    """Yield each call of an operation with each error that it may meet.

    Of those that read the same, one.
    """
    seen = set()
    for call in calls:
        what = call.name, ",".join(call.arguments.split(",")[:2])
        if not call.changes_state and what in seen:
            continue
        seen.add(what)
        kind = re.sub(r"at2?$", "", call.name) if call.name != "openat" else "openat"
        kind = "create" if kind == "openat" and call.changes_state else kind
        kind = {"fdatasync": "fsync", "pwrite64": "write", "pread64": "read"}.get(kind, kind)
        kind = call.name if call.name in ERRORS and kind not in ERRORS else kind
        for error in ERRORS.get(kind, ()):
            yield call, error


@pytest.mark.promise(6)
@pytest.mark.parametrize("operation", COMMITS, ids=by_name)
def test_an_error_of_any_system_call_is_told_and_loses_nothing(
    operation: Operation, tmp_path: Path, warm: WarmProcesses, points: Points
) -> None:
    case = Case(warm, operation, tmp_path)
    for call, error in failing_calls(case.calls):
        case.begin_again()
        told, _ = case.run(f"{call.name}:error={error}:when={call.count}")
        with points.point():
            assert told is not None, f"{call}: {error} ended the process"
            done = case.require_old_or_new()
            if "error" not in told:
                tolerated = (call.name, error) in TOLERATED or not call.changes_state
                assert tolerated, f"{call}: {error} was not told"
                assert done, f"{call}: {error} was not told, and nothing was done"
            else:
                assert told["error"] == "StorageError", f"{call}: {error}: {told}"
                assert told["exit_code"] == 5
                assert re.match(rf"({case.folder.parent}|/proc)", str(told["message"])), told
                if not call.name.startswith("unlink"):
                    leftovers = list(LocalStorage(case.folder).leftovers())
                    assert not leftovers, f"{call}: {error}: {leftovers}"
                if error in ("ENOSPC", "EDQUOT"):
                    assert re.search(r"[\d,]+ bytes are needed", str(told["message"])), told
            case.require_repeatable()


@pytest.mark.promise(5)
def test_no_error_gives_the_lease_of_a_driver_that_lives_to_another(
    tmp_path: Path, warm: WarmProcesses, points: Points
) -> None:
    case = Case(warm, HELD_LEASE, tmp_path)
    for call, error in failing_calls(case.calls):
        case.begin_again()
        told, _ = case.run(f"{call.name}:error={error}:when={call.count}")
        with points.point():
            assert told is not None
            assert told.get("error") == "StorageError", f"{call}: {error}: {told}"
            assert objects(case.folder) == case.before


@pytest.mark.promise(2)
def test_what_a_killed_fork_copied_is_not_known_to_a_search_that_forks_nothing(
    tmp_path: Path, warm: WarmProcesses
) -> None:
    (fork,) = [operation for operation in COMMITS if operation.name == "begin, forks"]
    case = Case(warm, fork, tmp_path)
    commit = [call for call in case.calls if call.name.startswith("link")][-1]  # of the header
    case.begin_again()
    case.run(f"{commit.name}:signal=SIGKILL:when={commit.count}")
    ledger = Ledger(case.folder)
    assert len(ledger.known().trials()) == 1
    ledger.begin(spec())
    assert not ledger.known().trials()
