"""System calls of a process, counted, failed, or not survived, by strace.

What strace does (6.1, measured): `signal=SIGKILL` ends the process at the entry of the call, which
is not executed; `error=EIO` makes the call fail, not executed either; `signal=SIGSTOP` stops the
process after the call. `when=K` counts the calls of that name since strace attached.
"""

import re
import select
import shutil
import subprocess
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.faults.warm import Child

END = "getsid"
"""The call that follows the last one of an operation."""

CHANGING = (
    *("write", "pwrite64", "writev", "ftruncate", "fallocate", "fsync", "fdatasync", "flock"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat", "utimensat", "chmod", "fchmod"),
)
"""Calls that change a file system, or may, beside an `openat` that creates."""

READING = (
    *("open", "openat", "close", "read", "pread64", "lseek", "getdents64", "readlink"),
    *("stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "readlinkat"),
)


@dataclass(frozen=True)
class Call:
    """One system call of an operation."""

    name: str
    arguments: str
    count: int
    """Which one of its name, from 1."""

    def __str__(self) -> str:
        return f"{self.name} {self.count} ({self.arguments[:60]})"

    @property
    def changes_state(self) -> bool:
        return self.name in CHANGING or (self.name == "openat" and "O_CREAT" in self.arguments)


def why_unavailable() -> str | None:
    """Return why this machine cannot trace, if it cannot."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    sleep = subprocess.Popen(["sleep", "60"])
    try:
        command = ["strace", "-o", "/dev/null", "-p", str(sleep.pid)]
        strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = strace.stderr.readline() if strace.stderr else ""
        strace.terminate()
        strace.communicate()
        return None if "attached" in said else f"strace cannot attach: {said.strip()}"
    finally:
        sleep.kill()
        sleep.wait()


class Trace:
    """strace on a child that waits at its gate; a context manager that opens the gate.

    Args:
        child: the process.
        log: file for the trace.
        inject: what to do at a call, in strace's words.
    """

    def __init__(self, child: Child, log: Path, inject: str | None = None) -> None:
        self._child, self._log, self._inject = child, log, inject

    def __enter__(self) -> "Trace":
        names = ",".join(f"?{name}" for name in (*CHANGING, *READING, END))
        options = [f"--inject={self._inject}"] if self._inject else []
        self._process = subprocess.Popen(
            ["strace", "-o", self._log, "-s", "48", f"--trace={names}", *options,
             "-p", str(self._child.pid)],
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stderr is not None
        assert select.select([self._process.stderr], [], [], 20)[0], "strace says nothing"
        said = self._process.stderr.readline()
        assert b"attached" in said, said
        self._child.go()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.terminate()
            self._process.wait()
            raise
        finally:
            assert self._process.stderr is not None
            self._process.stderr.close()

    def wait_until_stopped(self) -> None:
        """Wait until an injected SIGSTOP has stopped the child."""
        deadline = time.monotonic() + 20
        while "--- stopped by SIGSTOP ---" not in self._log.read_text():
            assert time.monotonic() < deadline, "the child was not stopped"
            time.sleep(0.002)

    def calls(self) -> list[Call]:
        """Return the calls of the operation, in order, and last the one that ends it."""
        counts: Counter[str] = Counter()
        found: list[Call] = []
        for line in self._log.read_text().splitlines():
            if match := re.match(r"(\w+)\((.*)", line):
                counts[match[1]] += 1
                found.append(Call(match[1], match[2], counts[match[1]]))
                if match[1] == END:
                    return found
        raise AssertionError(f"the operation did not end; its trace is\n{self._log.read_text()}")
