"""How many trials fit: whole trials on single nodes, parts of a GPU on single GPUs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsearch.errors import InvalidSpec, UsageError
from pgsearch.search.placement import Node, Share, num_places
from tests.records import spec


def node(cpus: float, gpus: float = 0, memory_gb: float = 8, address: str = "10.0.0.1") -> Node:
    return Node(address, address, "host", cpus, gpus, memory_gb * 1e9)


def packed(nodes: list[Node], asked: Share) -> int:
    """Place trials one by one, as long as one fits; in hundredths, which are exact."""
    places = 0
    for one in nodes:
        cpus, memory = round(100 * one.cpus), round(one.memory_bytes / 1e7)
        devices = [100] * int(one.gpus)
        while cpus >= round(100 * asked.cpus) and memory >= round(100 * (asked.memory_gb or 0)):
            needed = round(100 * asked.gpus)
            if needed >= 100:
                free = [i for i, left in enumerate(devices) if left == 100][: needed // 100]
                if len(free) < needed // 100:
                    break
                for i in free:
                    devices[i] = 0
            elif needed:
                free = [i for i, left in enumerate(devices) if left >= needed][:1]
                if not free:
                    break
                devices[free[0]] -= needed
            cpus -= round(100 * asked.cpus)
            memory -= round(100 * (asked.memory_gb or 0))
            places += 1
    return places


@given(
    st.lists(
        st.builds(node, st.integers(0, 16), st.integers(0, 4), st.integers(1, 64)), max_size=4
    ),
    st.integers(5, 400).map(lambda n: n / 100),
    st.one_of(st.integers(0, 100).map(lambda n: n / 100), st.integers(1, 4).map(float)),
    st.one_of(st.none(), st.integers(1, 900).map(lambda n: n / 100)),
)
def test_places_are_those_of_placing_one_by_one(
    nodes: list[Node], cpus: float, gpus: float, memory_gb: float | None
) -> None:
    asked = Share(cpus=cpus, gpus=gpus, memory_gb=memory_gb)
    expected = packed(nodes, asked)
    if expected:
        assert num_places(nodes, asked) == expected
    else:
        with pytest.raises(UsageError):
            num_places(nodes, asked)


def test_a_trial_larger_than_every_node_names_the_largest() -> None:
    nodes = [node(8, 1, address="10.0.0.1"), node(4, 1, address="10.0.0.2"), node(64, 0)]
    with pytest.raises(UsageError) as caught:
        num_places(nodes, Share(cpus=8, gpus=2))
    assert str(caught.value) == (
        "a trial needs 8 CPUs and 2 GPUs on one node, and none has them: the largest, 10.0.0.1 "
        "(host), has 8 CPUs and 1 GPUs; lower resources in the spec, or add a larger node"
    )
    assert num_places(nodes, Share(cpus=8, gpus=0.5)) == 1


def test_what_only_some_nodes_have() -> None:
    nodes = [node(8), node(8, address="10.0.0.2")._replace(custom={"deadline": 2.5, "CPU": 8})]
    assert num_places(nodes, Share(custom={"deadline": 1})) == 2
    assert num_places(nodes, Share(cpus=8, custom={"deadline": 1})) == 1
    with pytest.raises(UsageError) as caught:
        num_places(nodes, Share(custom={"deadline": 3}))
    assert str(caught.value) == (
        "a trial needs 1 CPUs and 3 deadline on one node, and none has them: the largest, 10.0.0.2 "
        "(host), has 8 CPUs and 2.5 deadline; lower resources in the spec, or add a larger node"
    )


@pytest.mark.parametrize(
    ("custom", "message"),
    [({"GPU": 1}, "GPU is Ray's own: ask for it by cpus, gpus or memory_gb"),
     ({"a b": 1}, "a b"),
     ({"deadline": 0}, "deadline")],
)  # fmt: skip
def test_custom_resources_that_are_none(custom: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        spec(resources={"custom": custom})


def test_a_part_of_a_gpu_beyond_one_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="above 1 it is a whole number, such as 1"):
        spec(resources={"gpus": 1.5})
