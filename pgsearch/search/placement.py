"""How many trials fit on the nodes of a Ray: a trial is placed on one node, never on two."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from pgsearch.config import SearchSpec
from pgsearch.errors import UsageError

GROWS: Final = "pgsearch-grows"
"""Custom resource by which a node says that more nodes come when trials wait for them."""

_TOLERANCE = 1e-6  # 0.7 / 0.1 is a little below 7


class Share(NamedTuple):
    """What one trial occupies of its node."""

    cpus: float = 1
    gpus: float = 0
    """Part of one, or whole ones."""
    memory_gb: float | None = None
    """None where it is not looked at."""
    custom: Mapping[str, float] = MappingProxyType({})

    def for_ray(self) -> dict[str, float]:
        """Return it by Ray's names, memory in bytes."""
        memory = {} if self.memory_gb is None else {"memory": self.memory_gb * 1e9}
        return {"cpu": self.cpus, "gpu": self.gpus, **memory, **self.custom}


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


def num_at_a_time(nodes: Sequence[Node], spec: SearchSpec, share: Share) -> int:
    """Return how many trials of a search, of this share each, are to run at a time.

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
    places = num_places(nodes, share)
    return min(spec.max_concurrent or places, places)


def num_places(nodes: Sequence[Node], share: Share) -> int:
    """Return how many trials these nodes hold at a time.

    Raises UsageError where no single node holds one.
    """
    places = count_places(nodes, share)
    if places:
        return places
    needs = _words(share, share.cpus, share.gpus, (share.memory_gb or 0) * 1e9, share.custom)
    if not nodes:
        raise UsageError(f"a trial needs {needs}, and Ray has no node")
    largest = max(nodes, key=lambda node: _covered(node, share))
    has = _words(share, largest.cpus, largest.gpus, largest.memory_bytes, largest.custom)
    raise UsageError(
        f"a trial needs {needs} on one node, and none has them: the largest, {largest}, has {has}; "
        "lower resources in the spec, or add a larger node"
    )


def count_places(nodes: Sequence[Node], share: Share) -> int:
    """Return how many trials these nodes hold at a time; 0 where no single node holds one."""
    return sum(_places_on(node, share) for node in nodes)


def holds_one(node: Node, share: Share) -> bool:
    """Whether a trial may be placed on a node that has nothing else to do."""
    return _places_on(node, share) > 0


def _places_on(node: Node, share: Share) -> int:
    limits = [_whole(node.cpus / share.cpus)]
    if share.gpus >= 1:
        limits.append(_whole(node.gpus / share.gpus))
    elif share.gpus:  # a part of a GPU is never of two
        limits.append(_whole(node.gpus) * _whole(1 / share.gpus))
    if share.memory_gb:
        limits.append(_whole(node.memory_bytes / (share.memory_gb * 1e9)))
    limits += [_whole(node.custom.get(k, 0.0) / n) for k, n in share.custom.items()]
    return min(limits)


def _whole(ratio: float) -> int:
    return math.floor(ratio + _TOLERANCE)


def _covered(node: Node, share: Share) -> float:
    """Return how much of what a trial needs a node has."""
    covered = min(1.0, node.cpus / share.cpus)
    if share.gpus:
        covered += min(1.0, node.gpus / share.gpus)
    if share.memory_gb:
        covered += min(1.0, node.memory_bytes / (share.memory_gb * 1e9))
    return covered + sum(min(1.0, node.custom.get(k, 0.0) / n) for k, n in share.custom.items())


def _words(
    asked: Share, cpus: float, gpus: float, memory_bytes: float, custom: Mapping[str, float]
) -> str:
    """Return an amount in words, of what is asked for."""
    parts = [f"{cpus:g} CPUs"]
    parts += [f"{gpus:g} GPUs"] if asked.gpus else []
    parts += [f"{memory_bytes / 1e9:.1f} GB of memory"] if asked.memory_gb else []
    parts += [f"{custom.get(name, 0.0):g} {name}" for name in asked.custom]
    return " and ".join(parts)
