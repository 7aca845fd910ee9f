"""Promise 1: kill -9 at random moments, again and again, on a folder and on an object store."""

from pathlib import Path

import pytest

from pgsearch.results.storage import open_storage
from tests.conftest import Points
from tests.faults import kill
from tests.faults.kill import Searches
from tests.faults.warm import WarmProcesses
from tests.object_store import environment, s3_server

pytestmark = [pytest.mark.slow, pytest.mark.promise(1)]


def test_kill_9_at_random_moments_loses_and_repeats_nothing(
    tmp_path: Path, warm: WarmProcesses, points: Points
) -> None:
    with Searches(warm, open_storage(tmp_path), seed=1) as searches:
        for search in searches.killed(200):
            with points.point():
                search.check()
    assert searches.kinds.keys() == {"all", "driver", "worker"}
    assert searches.num_leftovers, "no kill came in the middle of a commit"
    assert not list(tmp_path.iterdir())


def test_kill_9_on_an_object_store(monkeypatch: pytest.MonkeyPatch, points: Points) -> None:
    with s3_server() as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        storage = open_storage("s3://bucket/faults")
        with WarmProcesses() as warm, Searches(warm, storage, seed=2) as searches:
            for search in searches.killed(12):
                with points.point():
                    search.check()
        assert not list(storage.entries())


def test_it_is_a_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kill.main(["--storage", str(tmp_path), "--points", "3", "--seed", "3"]) == 0
    assert "points tried 3, held 3, violated 0" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_storage_that_does_not_work_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert kill.main(["--storage", str(tmp_path / "file"), "--points", "4"]) != 0
    assert "Not a directory" in capsys.readouterr().out
