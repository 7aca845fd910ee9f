"""A search on three Ray nodes of this machine: submitted, a node lost, stopped, resumed, read.

    make demo-cluster        or: python cluster/demo.py

Each node is a real one, with an address, a folder and processes of its own; that they share one
machine is all that differs from a cluster. Linux only. Nothing is left running, whatever happens.
"""

import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

SPEC = "search_spaces/digits_pg.yaml"
SECONDS_TO_WAIT = 120.0
SECONDS_TO_END = 20.0


class LocalCluster:
    """Ray nodes of this machine; a context manager, after which none of them is left.

    Args:
        folder: where each node has its files, with a short path.
        environment: more variables of the nodes.
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self._folder = folder
        self._mark = secrets.token_hex(8)
        self._nodes: dict[int, subprocess.Popen[bytes]] = {}
        self.address = f"127.0.0.1:{free_port()}"
        """For `pgsearch run --address`."""
        self.dashboard = f"http://127.0.0.1:{free_port()}"
        """For `pgsearch submit --address`."""
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_API_SERVER_ADDRESS": self.dashboard,
            "PGSEARCH_LOCAL_CLUSTER": self._mark,
            **(environment or {}),
        }
        """What a command needs that talks to it."""

    def __enter__(self) -> "LocalCluster":
        """Start the head, which has no CPU for trials: drivers alone run there."""
        self.start_head()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()

    def start_head(self, *arguments: str) -> None:
        """Start the head: node 1."""
        host, _, port = self.address.partition(":")
        self._start(
            1,
            *("--head", f"--port={port}", f"--node-ip-address={host}", "--num-cpus=0"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard.split(':')[2]}"),
            *("--include-dashboard=true", f"--ray-client-server-port={free_port()}"),
            *("--resources", '{"pgsearch-driver": 1}', *arguments),
        )

    def add(self, number: int, *arguments: str) -> None:
        """Start a worker node of one CPU, with a number from 2."""
        where = (f"--address={self.address}", f"--node-ip-address=127.0.0.{number}")
        self._start(number, *where, "--num-cpus=1", *arguments)

    def kill(self, number: int) -> None:
        """End a node as a power cut does: all its processes at once."""
        leader = self._nodes.pop(number)
        for pid in self.processes():
            with suppress(ProcessLookupError):
                if os.getsid(pid) == leader.pid:
                    os.kill(pid, signal.SIGKILL)
        leader.wait()

    def end(self) -> None:
        """End all nodes and whatever they have started."""
        for process in self._nodes.values():
            process.terminate()
        deadline = time.monotonic() + SECONDS_TO_END
        while self.processes() and time.monotonic() < deadline:
            for process in self._nodes.values():
                process.poll()
            time.sleep(0.2)
        while left := self.processes():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in self._nodes.values():
                process.poll()
            time.sleep(0.2)
        for process in self._nodes.values():
            process.wait()
        self._nodes.clear()

    def processes(self) -> list[int]:
        """Return all processes that carry this cluster's mark, however they were started."""
        mark = f"PGSEARCH_LOCAL_CLUSTER={self._mark}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes():  # of a zombie it is empty
                    found.append(int(entry.name))
        return found

    def _start(self, number: int, *arguments: str) -> None:
        folder = self._folder / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "ray_start.log"
        command = [
            *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *arguments),
            *("--disable-usage-stats", f"--temp-dir={folder}"),
            f"--dashboard-agent-listen-port={free_port()}",
        ]
        with log.open("wb") as output:
            self._nodes[number] = subprocess.Popen(
                command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_for(
            lambda: b"Ray runtime started" in log.read_bytes(),
            f"node {number} to start ({log})",
            unless=lambda: self._nodes[number].poll() is not None,
        )


def free_port() -> int:
    """Return a port that nothing listens on, outside those that Ray gives its workers."""
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
        time.sleep(0.5)


def main() -> None:
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="pgs-", dir="/tmp"))  # short: paths of sockets are
    results = folder / "results"
    try:
        with LocalCluster(folder / "nodes") as cluster:
            play(cluster, results)
            print(f"\n# Ending the cluster, {time.monotonic() - began:.0f} s after the start")
        left = cluster.processes()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"# {len(left)} processes are left; {time.monotonic() - began:.0f} s in all")


def play(cluster: LocalCluster, results: Path) -> None:
    """Go through the life of a search on a cluster."""

    def pgsearch(*words: str, codes: Sequence[int] = (0,)) -> str:
        print(f"\n$ pgsearch {shlex.join(words)}", flush=True)
        command = [sys.executable, "-m", "pgsearch.cli", *words]
        run = subprocess.run(
            command, env=cluster.environment, stdout=subprocess.PIPE, text=True, check=False
        )
        print(run.stdout, end="", flush=True)
        if run.returncode not in codes:
            raise SystemExit(f"exit code {run.returncode}, expected {codes}")
        return run.stdout

    def trials_begun() -> int:
        return len(list((results / "digits_pg" / "epochs").glob("*.parquet")))

    print("# A head for drivers and two worker nodes, each with one CPU")
    cluster.add(2)
    cluster.add(3)
    where = ("--results", str(results))
    pgsearch("doctor", "--address", cluster.address, *where)
    pgsearch("submit", SPEC, "trials=10", *where)
    wait_for(lambda: trials_begun() >= 3, "the first epoch of a third trial")
    pgsearch("jobs")
    print("\n# Node 2 loses its power; its trial goes on elsewhere", flush=True)
    cluster.kill(2)
    cluster.add(4)
    time.sleep(10)
    pgsearch("stop", "digits_pg")
    pgsearch("status", "digits_pg", *where)
    pgsearch("resume", "digits_pg")
    pgsearch("logs", "digits_pg", "-f")
    pgsearch("jobs")
    pgsearch("verify", "digits_pg", *where)
    pgsearch("table", "digits_pg", "--leaderboard", *where)


if __name__ == "__main__":
    main()
