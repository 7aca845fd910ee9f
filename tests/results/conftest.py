import itertools
from collections.abc import Iterator

import pytest

from tests.object_store import FlakyProxy, environment, s3_server

_COUNT = itertools.count()


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture
def s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of an empty place in an object store."""
    for name, value in environment(s3_port).items():
        monkeypatch.setenv(name, value)
    return f"s3://bucket/results-{next(_COUNT)}"


@pytest.fixture
def flaky_s3(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, FlakyProxy]]:
    """The same behind a proxy that can be told to fail."""
    with FlakyProxy(s3_port) as proxy:
        for name, value in environment(proxy.port).items():
            monkeypatch.setenv(name, value)
        yield f"s3://bucket/results-{next(_COUNT)}", proxy
