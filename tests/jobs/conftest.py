"""A real cluster of several Ray nodes on this machine, and commands that talk to it."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cluster.local import LocalCluster
from tests.object_store import environment, s3_server
from tests.search.searches import SPEC, Search

pytest.importorskip("aiohttp", reason="jobs need ray[default]")


@dataclass
class Terminal:
    """Where somebody sits who talks to a cluster, in a folder of theirs."""

    cluster: LocalCluster
    folder: Path

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "pgsearch.cli", *words],
            cwd=self.folder,
            env={**self.cluster.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, **environment: str) -> tuple[int, str, str]:
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err

    def search(self, name: str, spec: str = SPEC, *, results: str | None = None) -> Search:
        """Write a spec of this name; the search knows where its results will be."""
        folder = self.folder / name
        folder.mkdir()
        search = Search(folder, spec, results=results)
        search.file = search.file.rename(folder / f"{name}.yaml")
        search.file.write_text(spec.replace("name: small", f"name: {name}"))
        search.ledger = type(search.ledger)(f"{search.results}/{name}")
        return search


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """Variables that name an object store with the bucket `bucket`."""
    with s3_server() as port:
        yield environment(port)


@pytest.fixture(scope="module")
def cluster(s3: dict[str, str]) -> Iterator[LocalCluster]:
    """A head for drivers and two workers, of which one is kept for what has a deadline."""
    with (
        tempfile.TemporaryDirectory(prefix="pgs-", dir="/tmp") as folder,
        LocalCluster(Path(folder), s3) as cluster,
    ):
        cluster.add()
        cluster.add("--resources", '{"deadline": 1}')
        yield cluster
    assert cluster.processes() == []


@pytest.fixture
def terminal(cluster: LocalCluster, tmp_path: Path) -> Terminal:
    return Terminal(cluster, tmp_path)
