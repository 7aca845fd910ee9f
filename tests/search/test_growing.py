"""A cluster that grows holds what the spec asks for, not what its nodes hold now."""

import pytest

from pgsearch.errors import UsageError
from pgsearch.search.placement import Node, Share, num_at_a_time
from tests.records import spec

HEAD = Node("0", "10.0.0.1", "head", 0, 0, 8e9, grows=True)
WORKER = Node("1", "10.0.0.2", "worker", 4, 0, 8e9)


def test_without_a_worker_yet_as_many_as_the_spec_says() -> None:
    assert num_at_a_time([HEAD], spec(max_concurrent=8), Share()) == 8
    assert num_at_a_time([HEAD, WORKER], spec(max_concurrent=8), Share()) == 8


def test_a_spec_that_does_not_say_is_refused() -> None:
    with pytest.raises(UsageError, match="max_concurrent=8"):
        num_at_a_time([HEAD, WORKER], spec(), Share())


def test_another_cluster_holds_what_its_nodes_hold() -> None:
    assert num_at_a_time([WORKER], spec(), Share()) == 4
    assert num_at_a_time([WORKER], spec(max_concurrent=8), Share()) == 4
    assert num_at_a_time([WORKER], spec(max_concurrent=3), Share()) == 3
    with pytest.raises(UsageError, match="on one node, and none has them"):
        num_at_a_time([HEAD._replace(grows=False)], spec(max_concurrent=8), Share())
