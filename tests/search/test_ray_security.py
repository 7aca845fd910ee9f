"""A Ray that pgsearch starts: nobody else on the machine or its network can use it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Points
from tests.search.searches import Search, kill, processes_of

pytestmark = [pytest.mark.ray, pytest.mark.promise(12), pytest.mark.timeout(300)]

CONNECT = """
import sys
from ray._raylet import GcsClient
try:
    print("served", len(GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10)), "nodes")
except Exception as error:
    print("refused:", type(error).__name__, str(error)[:300])
"""


def ask(port: str, settings: dict[str, str], home: Path) -> str:
    """Return what a process of somebody else with these settings is answered."""
    own = {name: v for name, v in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", CONNECT, f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        env={**own, "HOME": str(home), **settings},
        check=False,
    ).stdout


def listeners(pids: list[int]) -> dict[str, int]:
    """Return the addresses on which processes listen, hexadecimal as the kernel tells them."""
    inodes = {}
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                target = str(link.readlink())
            except OSError:
                continue
            if target.startswith("socket:["):
                inodes[target[8:-1]] = pid
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:  # LISTEN
                found[fields[1]] = inodes[fields[9]]
    return found


def is_loopback(address: str) -> bool:
    ip = address.partition(":")[0]
    mapped = "0000000000000000FFFF00000100007F"  # ::ffff:127.0.0.1
    return ip in ("0100007F", mapped, "00000000000000000000000001000000")


@pytest.mark.parametrize(
    "of_another_cluster",
    [{}, {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}],
    ids=["clean environment", "environment for another cluster"],
)
def test_it_listens_on_loopback_and_asks_for_a_token(
    tmp_path: Path, points: Points, of_another_cluster: dict[str, str]
) -> None:
    environment = {"PGSEARCH_SPY_SECONDS": "0.3", **of_another_cluster}
    search = Search(tmp_path, spy=True, environment=environment)
    process = search.start()
    search.wait_for_steps(1, process)
    children = [process.pid, *processes_of(process.pid)]
    try:
        found = listeners(children)
        assert len(found) > 4
        for address in found:
            with points.point():
                assert is_loopback(address), (address, found[address])
        gcs = processes_of(process.pid, title="gcs_server")
        words = Path(f"/proc/{gcs[0]}/cmdline").read_bytes().decode().split("\0")
        (port,) = [w.partition("=")[2] for w in words if w.startswith("--gcs_server_port=")]
        if port == "0":  # it chose one itself
            port = str(int(next(a for a, p in found.items() if p == gcs[0]).partition(":")[2], 16))
        given = Path(f"/proc/{gcs[0]}/environ").read_bytes().decode().split("\0")
        (token,) = [v.partition("=")[2] for v in given if v.startswith("RAY_AUTH_TOKEN=")]
        token_mode = {"RAY_AUTH_MODE": "token"}
        assert ask(port, {**token_mode, "RAY_AUTH_TOKEN": token}, tmp_path) == "served 1 nodes\n"
        for stranger in ({"RAY_AUTH_MODE": "disabled"}, {**token_mode, "RAY_AUTH_TOKEN": "0" * 64}):
            with points.point():
                said = ask(port, stranger, tmp_path)
                assert said.startswith("refused"), said
                assert "auth" in said.lower(), said
    finally:
        kill(process, *children)
        process.communicate()
