"""Real Ray clusters on this machine: each node is a `ray start` of its own, on its own loopback."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
SECONDS_TO_START = 60


class Node:
    """One node; ended with all its processes, which are of its own session."""

    def __init__(self, address: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.address, self._process, self.log = address, process, log

    def wait_until_started(self) -> None:
        deadline = time.monotonic() + SECONDS_TO_START
        while "Ray runtime started" not in self.log.read_text():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    @property
    def processes(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError, ValueError):
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
                if session == self._process.pid:
                    found.append(int(folder.name))
        return found

    def kill(self) -> None:
        """End it at once, without notice, as when its machine loses its power."""
        for _ in range(3):  # what one of them just started is in the next list
            for pid in self.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.wait(30)


class Cluster:
    """A head and nodes that join it; a context manager that ends them all.

    Args:
        folder: for logs; Ray's own folder is beside it, since paths of sockets are short.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temp = Path(f"/tmp/pgc{secrets.token_hex(3)}")
        self._port = free_port()
        self.address = f"127.0.0.2:{self._port}"  # Ray turns 127.0.0.1 into another
        self.nodes: list[Node] = []
        self.token = secrets.token_hex(16)

    def __enter__(self) -> "Cluster":
        self.start_node()
        return self

    def __exit__(self, *_: object) -> None:
        for node in reversed(self.nodes):
            node.kill()
        subprocess.run(["rm", "-rf", str(self._temp)], check=True)

    @property
    def environment(self) -> dict[str, str]:
        """Of its nodes, and of who uses it."""
        return {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_memory_monitor_refresh_ms": "0",
        }

    def start_node(
        self, *, within: list[str] | None = None, environment: Mapping[str, str] | None = None
    ) -> Node:
        """Start the head, or a node that joins it, with one CPU and one logical GPU.

        Args:
            within: a command that runs the node, such as unshare.
            environment: more variables.
        """
        number = len(self.nodes) + 1
        ip = f"127.0.0.{number + 1}"
        place = (
            ["--head", f"--port={self._port}", f"--temp-dir={self._temp}",
             "--include-dashboard=false", f"--ray-client-server-port={free_port()}"]
            if number == 1
            else [f"--address={self.address}"]
        )  # fmt: skip
        command = [*(within or []), RAY, "start", "--block", *place, f"--node-ip-address={ip}",
                   "--num-cpus=1", "--num-gpus=1", "--object-store-memory=80000000",
                   "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats",
                   f"--dashboard-agent-listen-port={free_port()}",
                   f"--dashboard-agent-grpc-port={free_port()}"]  # fmt: skip
        log = self._folder / f"node{number}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**self.environment, **(environment or {})},
                start_new_session=True,
            )
        node = Node(ip, process, log)
        self.nodes.append(node)
        node.wait_until_started()
        return node

    def announce_end(self, node: Node) -> None:
        """Tell Ray that a node is about to be taken away, as those of a spot market are."""
        program = """
import sys, time
from ray._raylet import GcsClient
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
client = GcsClient(address=sys.argv[1])
(node,) = (n for n in client.get_all_node_info().values() if n.node_manager_address == sys.argv[2])
deadline = 1000 * (int(time.time()) + 600)
reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
print(client.drain_node(node.node_id.hex(), reason, "spot market", deadline))
"""
        said = self.output(sys.executable, "-c", program, self.address, node.address)
        assert "True" in said, said

    def output(self, *command: str) -> str:
        """Run a command as a user of the cluster; returns what it printed."""
        ran = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def started(folder: Path, num_nodes: int) -> Iterator[Cluster]:
    """A cluster of some nodes, which begin one after the other: Ray's own start is racy."""
    with Cluster(folder) as cluster:
        for _ in range(num_nodes - 1):
            cluster.start_node()
        yield cluster
