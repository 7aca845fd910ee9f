from pathlib import Path

import pytest

from pgsearch.cache_dir import default_cache_dir


def test_default_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("PGSEARCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_cache_dir() == Path("/home/ada/.cache/pgsearch")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/ada")
    assert default_cache_dir() == Path("/var/cache/ada/pgsearch")
    monkeypatch.setenv("PGSEARCH_CACHE", "~/scratch")
    assert default_cache_dir() == Path("/home/ada/scratch")
