"""Real clusters of several nodes on this machine: what a search asks of them, and their loss."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.local import LocalCluster, Node
from tests.search.searches import SPEC, SPY, Search, assert_whole, ended

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

GPU = "--num-gpus=1"
SHADOW = """\
__version__ = "0.0.9"
__path__.append({package!r})
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Three nodes of one CPU and one logical GPU, where a step of a trial takes a while."""
    with tempfile.TemporaryDirectory(prefix="pgs-", dir="/tmp") as folder:
        spy = {
            "PYTHONPATH": os.pathsep.join([str(SPY), os.environ.get("PYTHONPATH", "")]),
            "PGSEARCH_SPY_LOG": f"{folder}/steps.log",
            "PGSEARCH_SPY_SECONDS": "0.2",
        }
        with LocalCluster(Path(folder), spy, head=("--num-cpus=1", GPU)) as cluster:
            cluster.add(GPU)
            cluster.add(GPU)
            yield cluster


def pgsearch(
    cluster: LocalCluster, folder: Path, *words: str, **environment: str
) -> tuple[int, str]:
    """Run a command on the cluster; returns exit code and what it said, in less than Ray waits."""
    ran = subprocess.run(
        [sys.executable, "-m", "pgsearch.cli", *words],
        cwd=folder,  # not ours: workers on this machine would import pgsearch from there
        env={**cluster.environment, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in ran.stdout
    return ran.returncode, ran.stdout


@pytest.fixture
def search_file(tmp_path: Path) -> str:
    (tmp_path / "small.yaml").write_text(SPEC)
    return str(tmp_path / "small.yaml")


def test_every_node_answers(cluster: LocalCluster, tmp_path: Path) -> None:
    words = ("doctor", "--address", cluster.address, "--results", "a/b/results")
    code, said = pgsearch(cluster, tmp_path, *words, "--json")
    assert code == 0, said
    facts: dict[str, Any] = json.loads(said)
    assert [node["address"] for node in facts["nodes"]] == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
    assert facts["asks_for_token"] is True
    for node in facts["nodes"]:
        assert node["problems"] == []
        assert node["storage_problem"] is None
        assert node["pgsearch"] is not None
        assert abs(node["skew_seconds"]) < 1
        assert node["memory_free_bytes"] > 0
        assert node["cache_free_bytes"] > 0
        assert (node["cpus"], node["gpus"], node["devices"]) == (1, 1, [])
    assert sum("Ray counts 1 GPUs there and torch sees 0" in text for text in facts["advice"]) == 3
    assert list(tmp_path.iterdir()) == []  # the folders that the proof made are gone too


def test_a_wrong_token(cluster: LocalCluster, tmp_path: Path, search_file: str) -> None:
    for words in (("doctor",), ("run", search_file, "--results", "results")):
        code, said = pgsearch(
            cluster, tmp_path, *words, "--address", cluster.address, RAY_AUTH_TOKEN="0" * 32
        )
        assert code == 2, said
        assert "it asks for a token, and the one here is not its own" in said
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ({"ray_version": "2.61.0"}, "it runs Ray 2.61.0, and this is Ray 2."),
        ({"python_version": "3.8.1"}, "it runs Python 3.8.1, and this is Python 3."),
    ],
)
def test_another_version_of_ray_or_python(
    cluster: LocalCluster, tmp_path: Path, versions: dict[str, str], expected: str
) -> None:
    """The head tells what it was started with; here it is made to tell others."""
    known = json.loads(tell_versions(cluster, "{}"))
    tell_versions(cluster, json.dumps({**known, **versions}))
    try:
        code, said = pgsearch(cluster, tmp_path, "doctor", "--address", cluster.address)
    finally:
        tell_versions(cluster, json.dumps(known))
    assert code == 2, said
    assert expected in said


def tell_versions(cluster: LocalCluster, versions: str) -> str:
    """Let the head tell these versions, and return which it told."""
    program = """
import sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
print(client.internal_kv_get(b"CLUSTER_METADATA", b"cluster").decode())
if sys.argv[2] != "{}":
    client.internal_kv_put(b"CLUSTER_METADATA", sys.argv[2].encode(), True, b"cluster")
"""
    return output(cluster, program, cluster.address, versions)


def output(cluster: LocalCluster, program: str, *words: str) -> str:
    """Run a program as a user of the cluster; returns what it printed."""
    ran = subprocess.run(
        [sys.executable, "-c", program, *words],
        env=cluster.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_more_gpus_than_a_node_has(cluster: LocalCluster, tmp_path: Path, search_file: str) -> None:
    code, said = pgsearch(
        cluster, tmp_path, "run", search_file, "resources.gpus=2", "--address", cluster.address,
        "--results", "results",
    )  # fmt: skip
    assert code == 2, said
    assert "a trial needs 1 CPUs and 2 GPUs on one node, and none has them" in said
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_node_that_does_not_see_the_results(
    cluster: LocalCluster, tmp_path: Path, search_file: str
) -> None:
    """A node in a mount namespace of its own, with another file system at the place of results."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs the right to make one")
    shared = tmp_path / "shared"
    shared.mkdir()
    mounted = f'mount -t tmpfs none {shared} && exec "$@"'
    node = cluster.add(GPU, within=["unshare", "-m", "sh", "-c", mounted, "sh"])
    try:
        code, said = pgsearch(
            cluster, tmp_path, "run", search_file, "--address", cluster.address,
            "--results", str(shared),
        )  # fmt: skip
        assert code == 5, said
        assert f"node {node.address}" in said
        assert "it does not see what the driver writes there" in said
        assert said.count("node 127") == 1, said
        assert list(shared.iterdir()) == []
        there = Path(f"/proc/{node.processes()[0]}/root{shared}")
        assert list(there.iterdir()) == []
    finally:
        cluster.kill(node)


def test_a_node_that_does_not_have_the_images(
    cluster: LocalCluster, tmp_path: Path, search_file: str
) -> None:
    """With another file system at their place: it would fail every trial that it is given."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("a mount namespace needs the right to make one")
    manifest, weights = tmp_path / "data" / "images.csv", tmp_path / "resnet.pth"
    manifest.parent.mkdir()
    for file in (manifest, weights):
        file.write_text("not looked at yet")
    mounted = f'mount -t tmpfs none {manifest.parent} && exec "$@"'
    node = cluster.add(GPU, within=["unshare", "-m", "sh", "-c", mounted, "sh"])
    data = json.dumps({"name": "manifest", "manifest": "data/images.csv"})
    try:
        code, said = pgsearch(
            cluster, tmp_path, "run", search_file, f"data={data}", "model.weights=resnet.pth",
            "--address", cluster.address, "--results", "results",
        )  # fmt: skip
        assert code == 4, said
        assert f"node {node.address}" in said
        assert "data/images.csv is not there, or may not be read" in said
        assert said.count("node 127") == 1, said
        assert "resnet.pth is" not in said
        assert not (tmp_path / "results").exists()
    finally:
        cluster.kill(node)


def test_a_node_with_another_pgsearch(
    cluster: LocalCluster, tmp_path: Path, search_file: str
) -> None:
    import pgsearch as ours

    shadow = tmp_path / "shadow" / "pgsearch"
    shadow.mkdir(parents=True)
    package = str(Path(ours.__file__).parent)
    (shadow / "__init__.py").write_text(SHADOW.format(package=package))
    node = cluster.add(GPU, environment={"PYTHONPATH": str(shadow.parent)})
    try:
        code, said = pgsearch(
            cluster, tmp_path, "run", search_file, "--address", cluster.address,
            "--results", "results",
        )  # fmt: skip
        assert code == 2, said
        assert f"node {node.address}" in said
        assert f"it has pgsearch 0.0.9, the driver pgsearch {ours.__version__}" in said
        assert not (tmp_path / "results").exists()
    finally:
        cluster.kill(node)


def test_a_node_without_a_compiler(cluster: LocalCluster, tmp_path: Path, search_file: str) -> None:
    node = cluster.add(GPU, environment={"CXX": "no-compiler"})
    try:
        code, said = pgsearch(
            cluster, tmp_path, "run", search_file, "training.compile=true",
            "--address", cluster.address, "--results", "results",
            CXX="g++ is asked for on the nodes, not here",
        )  # fmt: skip
        assert code == 2, said
        assert f"training.compile: true:\nnode {node.address}" in said
        assert "no-compiler is not found" in said
        assert said.count("node 127") == 1, said
        assert not (tmp_path / "results").exists()
    finally:
        cluster.kill(node)


@pytest.mark.parametrize("notice", [True, False], ids=["announced", "unannounced"])
def test_a_node_lost_in_mid_trial(cluster: LocalCluster, tmp_path: Path, notice: bool) -> None:
    """Each takes a node away; with a notice not even a first retry is used up."""
    text = SPEC.replace("max_concurrent: 2", "resources: {cpus: 0.5, gpus: 0.5}")
    trials = 2 * len(cluster.nodes)  # two on each node
    text = text.replace("trials: 5", f"trials: {trials}")
    text += f"max_retries: {0 if notice else 3}\n"
    search = Search(tmp_path, text, environment=cluster.environment)
    process = search.start("--address", cluster.address)
    search.wait_for_epochs(3, process)
    node = cluster.nodes[-1]
    if notice:
        announce_end(cluster, node)
        time.sleep(3)  # notices come minutes ahead
    cluster.kill(node)
    code, said = ended(process)
    assert code == 0, said
    assert ("its node was taken away" if notice else "its worker was lost") in said
    assert_whole(search, trials=trials)
    assert max(trial.attempts for trial in search.ledger.trials()) >= 2


def announce_end(cluster: LocalCluster, node: Node) -> None:
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
    assert "True" in output(cluster, program, cluster.address, node.address)
