"""What is said of an address where no cluster answers that we can work with."""

import socket
import threading
from collections.abc import Iterator

import pytest

from cluster.local import free_port
from pgsearch.errors import UsageError
from pgsearch.search import connection


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("head", "the address of a Ray cluster is HOST:PORT of its head"),
        ("head:none", "the address of a Ray cluster is HOST:PORT of its head"),
        (":6379", "the address of a Ray cluster is HOST:PORT of its head"),
        ("head:70000", "the address of a Ray cluster is HOST:PORT of its head"),
        ("http://head:8265", "pgsearch submit sends a search there"),
        ("ray://head:10001", "this needs the address of the cluster's head, HOST:PORT"),
        ("head.invalid:6379", "nobody answers there"),
    ],
)
def test_an_address_that_is_none(address: str, rule: str) -> None:
    with pytest.raises(UsageError) as caught:
        connection.require_cluster(address)
    assert str(caught.value).startswith(f"--address {address}: ")
    assert rule in str(caught.value)


def test_a_port_where_nobody_listens() -> None:
    with pytest.raises(UsageError, match=r"nobody answers there \(Connection refused\)"):
        connection.require_cluster(f"127.0.0.1:{free_port()}")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes every connection and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in taken:
            one.close()


def test_something_else_that_answers(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SECONDS_FOR_A_KNOCK", 2.0)
    with pytest.raises(UsageError, match="something answers, but not as the head"):
        connection.require_cluster(f"127.0.0.1:{silent_port}")


def test_a_cluster_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert connection.cluster_address(None) is None
    assert connection.cluster_address("local") is None
    assert connection.cluster_address("head:6379") == "head:6379"
    monkeypatch.setenv("RAY_ADDRESS", "other:6379")
    assert connection.cluster_address(None) == "other:6379"
    assert connection.cluster_address("local") is None
