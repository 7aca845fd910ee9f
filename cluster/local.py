"""Ray nodes of this machine, as a cluster has them, for `cluster/demo.py` and the tests.

Each is a `ray start` of its own, with an address, a folder and processes of its own; that they
share one machine is all that differs from a cluster. Linux only.
"""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

MARK = "PGSEARCH_LOCAL_NODE"
DRIVERS_ALONE = ("--num-cpus=0", "--resources", '{"pgsearch-driver": 1}')
SECONDS_TO_WAIT = 120.0


class Node:
    """One node. All that it starts carries its mark, also what leaves its session."""

    def __init__(self, address: str, mark: str, leader: subprocess.Popen[bytes]) -> None:
        self.address, self._mark, self._leader = address, mark, leader

    @property
    def has_ended(self) -> bool:
        return self._leader.poll() is not None

    def processes(self) -> list[int]:
        return marked(self._mark)

    def kill(self) -> None:
        """End it as a power cut does: all its processes, at once and without notice."""
        while pids := self.processes():  # what one of them just started is in the next list
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._leader.poll()
            time.sleep(0.01)
        self._leader.wait()


class LocalCluster:
    """A head and the nodes that join it; a context manager, after which none of them is left.

    Args:
        folder: where each node has a folder of its own (those that shared one would unpack the
            files of a job over each other); its path is short, since Ray's sockets are in it.
        environment: more variables of the nodes.
        head: what the head is; by default it has no CPU for trials, drivers alone run there.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        *,
        head: Sequence[str] = DRIVERS_ALONE,
    ) -> None:
        self._folder, self._head = folder, head
        self._mark = secrets.token_hex(8)
        self._num_started = 0
        self.nodes: list[Node] = []
        """Those that live, the head first."""
        self.address = f"127.0.0.2:{free_port()}"  # Ray turns 127.0.0.1 into another
        """For `pgsearch run --address`."""
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        """For `pgsearch submit --address`."""
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "RAY_memory_monitor_refresh_ms": "0",  # what others of this machine take is not ours
            **(environment or {}),
        }
        """What a command needs that talks to it."""

    def __enter__(self) -> "LocalCluster":
        host, _, port = self.address.partition(":")
        self._start(
            *("--head", f"--port={port}", f"--node-ip-address={host}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard.split(':')[2]}"),
            *("--include-dashboard=true", f"--ray-client-server-port={free_port()}", *self._head),
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in [*reversed(self.nodes)]:
            self.kill(node)

    def add(
        self,
        *arguments: str,
        within: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Node:
        """Start a node of one CPU that joins the head.

        Args:
            arguments: more arguments of `ray start`.
            within: a command that runs the node, such as unshare.
            environment: more variables.
        """
        ip = f"127.0.0.{self._num_started + 2}"
        where = (f"--address={self.address}", f"--node-ip-address={ip}", "--num-cpus=1")
        return self._start(*where, *arguments, within=within, environment=environment)

    def kill(self, node: Node) -> None:
        """End a node as a power cut does."""
        node.kill()
        self.nodes.remove(node)

    def processes(self) -> list[int]:
        """Return all processes of all nodes, of killed ones too."""
        return marked(self._mark)

    def _start(
        self,
        *arguments: str,
        within: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Node:
        self._num_started += 1
        folder = self._folder / str(self._num_started)
        folder.mkdir(parents=True)
        log = folder / "ray_start.log"
        mark = f"{self._mark}-{self._num_started}."
        command = [
            *(*within, sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments),
            *("--object-store-memory=80000000", "--disable-usage-stats", f"--temp-dir={folder}"),
            *("--min-worker-port=0", "--max-worker-port=0"),
            f"--dashboard-agent-listen-port={free_port()}",
            f"--dashboard-agent-grpc-port={free_port()}",
        ]
        with log.open("wb") as output:
            leader = subprocess.Popen(
                command,
                env={**self.environment, **(environment or {}), MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        address = next(a.partition("=")[2] for a in arguments if a.startswith("--node-ip-address="))
        node = Node(address, mark, leader)
        self.nodes.append(node)
        try:
            wait_for(
                lambda: b"Ray runtime started" in log.read_bytes(),
                f"node {address} to start",
                unless=lambda: node.has_ended,
            )
        except RuntimeError as error:
            self.kill(node)
            raise RuntimeError(f"{error}; it said\n{log.read_text()}") from None
        return node


def marked(mark: str) -> list[int]:
    """Return the processes whose mark begins with this one, however they were started."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes():  # of a zombie it is empty
                found.append(int(entry.name))
    return found


def free_port() -> int:
    """Return a port that nothing listens on, outside those that the system gives Ray's workers."""
    while True:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as tried, suppress(OSError):
            tried.bind(("127.0.0.1", port))
            return port


def wait_for(
    is_met: Callable[[], bool], what: str, *, unless: Callable[[], bool] = lambda: False
) -> None:
    """Return once something is so. Raises RuntimeError where it is not in time."""
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while not is_met():
        if unless() or time.monotonic() > deadline:
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.1)
