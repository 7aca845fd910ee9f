"""Fixtures of the fault tests."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import strace
from tests.faults.warm import WarmProcesses


@pytest.fixture(scope="session")
def _warm() -> Iterator[WarmProcesses]:
    with WarmProcesses() as processes:
        yield processes


@pytest.fixture
def warm(_warm: WarmProcesses) -> Iterator[WarmProcesses]:
    """Processes that begin at once, and end with the test."""
    yield _warm
    _warm.end_all()


@pytest.fixture(scope="session")
def tracing() -> None:
    """Skips where strace cannot do its work."""
    if reason := strace.why_unavailable():
        pytest.skip(reason)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a real file system, small in the given way (`size=300k`)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = 0

    def mount(options: str) -> Path:
        nonlocal mounted
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small file system needs the right to mount")
        mounted += 1
        return disk

    yield mount
    for _ in range(mounted):
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
