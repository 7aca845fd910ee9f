"""A search that has come to its end, once for all tests that begin there."""

import shutil
from pathlib import Path

import pytest

from tests.search.searches import Search


@pytest.fixture(scope="session")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Search:
    search = Search(tmp_path_factory.mktemp("finished"))
    code, said = search.run()
    assert code == 0, said
    return search


@pytest.fixture
def finished(_finished: Search, tmp_path: Path) -> Search:
    """A copy that is the test's own, in a folder with a space in its name."""
    results = tmp_path / "my results"
    shutil.copytree(_finished.results, results)
    return Search(tmp_path, results=str(results))
