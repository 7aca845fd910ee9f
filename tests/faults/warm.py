"""Processes that begin at once, forked from one that has imported everything.

A kill then costs some milliseconds and not the seconds that it takes to import torch. The server
touches no object store: its client's threads would not survive a fork.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1  # of prctl(2)


class WarmProcesses:
    """Starts functions in processes of their own; a context manager that ends them all."""

    def __init__(self) -> None:
        self._children: list[Child] = []

    def __enter__(self) -> "WarmProcesses":
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.warm", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
            )
        if self._socket.recv(16) != b"ready":
            self.__exit__()
            raise RuntimeError("the server of warm processes did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self.end_all()
        self._socket.close()
        self._server.wait(timeout=60)

    def start(self, task: str, *arguments: Any) -> "Child":
        """Start `module:function` with a gate and arguments that JSON can hold."""
        ours, theirs = socket.socketpair()
        with theirs:
            message = json.dumps([task, arguments]).encode()
            socket.send_fds(self._socket, [message], [theirs.fileno()])
        child = Child(int(self._socket.recv(16)), ours, self._socket)
        self._children.append(child)
        return child

    def end_all(self) -> None:
        """Kill what was started and was not closed."""
        for child in self._children:
            child.close()
        self._children.clear()


class Child:
    """A process that was started; it leads a process group of its own.

    Nobody else can get its number, or its group's, before it is closed: what is killed is ours.
    """

    def __init__(self, pid: int, channel: socket.socket, server: socket.socket) -> None:
        self.pid, self._channel, self._server = pid, channel, server
        self._process = os.pidfd_open(pid)
        self._buffer = b""

    def wait_at_gate(self) -> "Child":
        """Wait until it stands at its gate."""
        told = self.hear()
        assert told == {"waits": True}, told
        return self

    def go(self) -> None:
        """Open its gate."""
        self._channel.send(b"!")

    def hear(self, timeout: float = 60.0) -> dict[str, Any] | None:
        """Return what it tells next; None where it has ended, or told nothing for so long."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._channel], [], [], left)
            if not readable or not (new := self._channel.recv(1 << 20)):
                return None
            self._buffer += new
        line, _, self._buffer = self._buffer.partition(b"\n")
        told: dict[str, Any] = json.loads(line)
        return told

    def send(self, number: int) -> None:
        """Send a signal to the process alone."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, number)

    def kill(self) -> None:
        """Kill it and whatever it has started, and wait until they are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        assert self.has_ended(10.0)

    def has_ended(self, timeout: float = 0.0) -> bool:
        """Whether it ends within some time."""
        return bool(select.select([self._process], [], [], timeout)[0])

    def state(self) -> str:
        """Return its state as `ps` prints it."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def send_to_member(self, pid: int, number: int) -> bool:
        """Send a signal to a process of its group; return whether there is such a one."""
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if os.getpgid(pid) != self.pid:
                return False
            signal.pidfd_send_signal(process, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(process)
        return True

    def close(self) -> None:
        """Kill it and forget it."""
        if self._channel.fileno() < 0:
            return  # closed before
        self.kill()
        self._channel.close()
        os.close(self._process)
        self._server.send(str(self.pid).encode())  # which waits for it


class Gate:
    """What a task has of the process that started it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def wait(self) -> None:
        """Wait until it says go. Makes no system call that a trace of files counts."""
        self.tell(waits=True)
        if not self._channel.recv(1):
            os._exit(0)  # it is no more

    def tell(self, **what: Any) -> None:
        """Tell it something."""
        with contextlib.suppress(BrokenPipeError):
            self._channel.sendall(json.dumps(what).encode() + b"\n")

    def leave_to_parent(self) -> None:
        """Close it in a process that was forked from the task's, so that its end can be seen."""
        self._channel.close()


# ------------------------------------------------------------ the server


def _serve(descriptor: int) -> None:
    server = socket.socket(fileno=descriptor)
    _warm_up()
    children: set[int] = set()
    server.send(b"ready")
    while True:
        message, descriptors, _, _ = socket.recv_fds(server, 1 << 16, 1)
        if not message:
            break
        if not descriptors:  # the number of one that was closed
            children.remove(int(message))
            os.waitpid(int(message), 0)
            continue
        pid = os.fork()
        if pid == 0:
            server.close()
            _run(message, *descriptors)
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)  # as the child does: whoever comes first
        children.add(pid)
        for passed in descriptors:
            os.close(passed)
        server.send(str(pid).encode())
    for child in children:  # none was waited for, so that each number is still its own
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)


def _warm_up() -> None:
    """Import, and do once, all that the children will do."""
    import torch

    from pgsearch.provenance import provenance
    from tests.faults import operations, play, races

    torch.set_num_threads(1)
    provenance()  # asks git
    operations.warm_up()
    assert play
    assert races
    gc.collect()
    gc.freeze()  # so that a child's collector touches, and copies, none of it


def _run(message: bytes, channel: int) -> None:
    """Do a task in a child and end it."""
    status = 1
    try:
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # should the server be killed
        gate = Gate(socket.socket(fileno=channel))
        task, arguments = json.loads(message)
        module, _, name = task.partition(":")
        gate.tell(result=getattr(importlib.import_module(module), name)(gate, *arguments))
        status = 0
    except BaseException as error:
        gate.tell(
            error=type(error).__name__,
            message=str(error),
            exit_code=getattr(error, "exit_code", None),
            traceback=traceback.format_exc(),
        )
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
