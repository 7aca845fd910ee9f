"""How many trials fit on the nodes of a Ray: a trial is placed on one node, never on two."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from pgsearch.config import SearchSpec
from pgsearch.config.search import Resources
from pgsearch.errors import UsageError

GROWS: Final = "pgsearch-grows"
"""Custom resource by which a node says that more nodes come when trials wait for them."""

_TOLERANCE = 1e-6  # 0.7 / 0.1 is a little below 7


class Node(NamedTuple):
    """A living node of a Ray, with what Ray takes it to have."""

    node_id: str
    address: str
    hostname: str
    cpus: float
    gpus: float
    memory_bytes: float
    custom: Mapping[str, float] = MappingProxyType({})
    """What was given to `ray start --resources`, and more of Ray's own."""
    grows: bool = False
    """Whether its cluster adds nodes when trials wait for them."""

    def __str__(self) -> str:
        return self.address if self.hostname == "" else f"{self.address} ({self.hostname})"


def alive_nodes() -> list[Node]:
    """Return the living nodes of the Ray that we are connected to, by address."""
    import ray

    nodes = [
        Node(
            node_id=node["NodeID"],
            address=node["NodeManagerAddress"],
            hostname=node["NodeManagerHostname"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            memory_bytes=node["Resources"].get("memory", 0.0),
            custom=node["Resources"],
            grows=GROWS in node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.address, node.node_id))


def num_at_a_time(nodes: Sequence[Node], spec: SearchSpec) -> int:
    """Return how many trials of a search are to run at a time.

    In a cluster that grows, as many as the spec says: those without a place make it grow.

    Raises UsageError where no single node holds one, or a cluster grows and the spec does not say.
    """
    if any(node.grows for node in nodes):
        if spec.max_concurrent is None:
            raise UsageError(
                "this cluster adds nodes when trials wait for them: say how many trials are to run "
                "at a time, such as max_concurrent=8"
            )
        return spec.max_concurrent
    places = num_places(nodes, spec.resources)
    return min(spec.max_concurrent or places, places)


def num_places(nodes: Sequence[Node], resources: Resources) -> int:
    """Return how many trials these nodes hold at a time.

    Raises UsageError where no single node holds one.
    """
    places = sum(_places_on(node, resources) for node in nodes)
    if places:
        return places
    needs = _words(
        resources,
        resources.cpus,
        resources.gpus,
        (resources.memory_gb or 0) * 1e9,
        resources.custom,
    )
    if not nodes:
        raise UsageError(f"a trial needs {needs}, and Ray has no node")
    largest = max(nodes, key=lambda node: _share(node, resources))
    has = _words(resources, largest.cpus, largest.gpus, largest.memory_bytes, largest.custom)
    raise UsageError(
        f"a trial needs {needs} on one node, and none has them: the largest, {largest}, has {has}; "
        "lower resources in the spec, or add a larger node"
    )


def _places_on(node: Node, resources: Resources) -> int:
    limits = [_whole(node.cpus / resources.cpus)]
    if resources.gpus >= 1:
        limits.append(_whole(node.gpus / resources.gpus))
    elif resources.gpus:  # a part of a GPU is never of two
        limits.append(_whole(node.gpus) * _whole(1 / resources.gpus))
    if resources.memory_gb:
        limits.append(_whole(node.memory_bytes / (resources.memory_gb * 1e9)))
    limits += [_whole(node.custom.get(k, 0.0) / n) for k, n in resources.custom.items()]
    return min(limits)


def _whole(ratio: float) -> int:
    return math.floor(ratio + _TOLERANCE)


def _share(node: Node, resources: Resources) -> float:
    """Return how much of what a trial needs a node has."""
    share = min(1.0, node.cpus / resources.cpus)
    if resources.gpus:
        share += min(1.0, node.gpus / resources.gpus)
    if resources.memory_gb:
        share += min(1.0, node.memory_bytes / (resources.memory_gb * 1e9))
    return share + sum(min(1.0, node.custom.get(k, 0.0) / n) for k, n in resources.custom.items())


def _words(
    asked: Resources, cpus: float, gpus: float, memory_bytes: float, custom: Mapping[str, float]
) -> str:
    """Return an amount in words, of what is asked for."""
    parts = [f"{cpus:g} CPUs"]
    parts += [f"{gpus:g} GPUs"] if asked.gpus else []
    parts += [f"{memory_bytes / 1e9:.1f} GB of memory"] if asked.memory_gb else []
    parts += [f"{custom.get(name, 0.0):g} {name}" for name in asked.custom]
    return " and ".join(parts)
