"""Claims: numbered, each taken by one process alone; who took the newest is the one who may write.

attempts/00003-2.json   the second execution of trial 3
drivers/4.json          the fourth driver of the search
"""

import contextlib
import os
import platform
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgsearch.errors import StorageError
from pgsearch.provenance import utc_now
from pgsearch.results.storage import Conflict, Storage, StoredFile, as_json


@dataclass(frozen=True)
class Claims:
    """The claims on one thing: objects `{prefix}{number}.json`, from 1."""

    storage: Storage
    prefix: str

    def file(self, number: int) -> StoredFile:
        """Return the object of a claim."""
        return StoredFile(self.storage, f"{self.prefix}{number}.json")

    def newest(self) -> int:
        """Return the highest number that was claimed, 0 before the first.

        There is none left out, so a few looks find it, where a listing would grow with the search.
        """
        high = 1
        while self.file(high).exists():
            high *= 2
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.file(middle).exists() else (low, middle)
        return low

    def is_newest(self, number: int) -> bool:
        """Whether no later claim was made."""
        return not self.file(number + 1).exists()

    def claim(self, facts: Mapping[str, Any], *, after: int) -> int | None:
        """Take the claim that follows `after`; None where somebody else just did."""
        content = as_json({**facts, "token": secrets.token_hex(8)})
        try:
            self.file(after + 1).swap(content, None)
        except Conflict:
            return None
        return after + 1


def this_process() -> dict[str, Any]:
    """Return what tells this process from every other, on this machine and elsewhere."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "process_start": _process_start(os.getpid()),
        "since_utc": utc_now().isoformat(timespec="seconds"),
    }


def is_known_dead(process: Mapping[str, Any]) -> bool | None:
    """Whether a process of `this_process` has ended; None where only its own machine can tell.

    Raises StorageError where this machine cannot tell what it should know.
    """
    pid = process.get("pid")
    if process.get("machine") != _machine() or not isinstance(pid, int):
        return None
    start = _process_start(pid)
    if start is not None and process.get("process_start") is not None:
        return bool(start != process["process_start"])
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return None  # there is one, of another user, and /proc hides whether it is this one
    return False


def _machine() -> str:
    """Return what processes share that see each other's numbers: a boot and its PID namespace."""
    with _of_the_kernel():
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
        except (FileNotFoundError, PermissionError):
            return platform.node()  # not Linux: there are no namespaces either


def _process_start(pid: int) -> str | None:
    """Return when a process began, in ticks since the boot; None where that cannot be seen."""
    with _of_the_kernel():
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return None
    # After the name, which may hold spaces and brackets: the state, …, the start.
    fields = stat.rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]


@contextlib.contextmanager
def _of_the_kernel() -> Iterator[None]:
    """Refuse to guess where /proc cannot be read, as with too many open files."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{error.filename or '/proc'}: cannot be read ({error.strerror}), so it is not known "
            "who works on these results; see what this machine lacks and repeat the command"
        ) from error
