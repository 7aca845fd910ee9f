"""A cluster looked at before anybody relies on it: what it is, and advice on what is wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgsearch.results.probe import LITTLE_SPACE_BYTES
from pgsearch.results.storage import Storage
from pgsearch.search.connection import cluster, knock

if TYPE_CHECKING:
    from pgsearch.search.nodes import NodeReport

LITTLE_MEMORY_BYTES = 1_000_000_000
_NO_TOKEN = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": ""}


@dataclass(frozen=True)
class ClusterReport:
    """What a cluster is, and what is wrong with it."""

    address: str
    ray: str
    python: str
    asks_for_token: bool | None
    """Whether only who has its token is let in; None where that could not be found out."""
    nodes: "Sequence[NodeReport]"
    advice: tuple[str, ...]
    """What endangers searches or slows them down, each with its remedy; they run all the same."""

    @property
    def problems(self) -> list[str]:
        """What keeps searches from running, apart from their storage."""
        return [f"node {r.node}: {problem}" for r in self.nodes for problem in r.problems]

    @property
    def storage_problems(self) -> list[str]:
        """Nodes that cannot take part in the results."""
        return [f"node {r.node}: {r.storage_problem}" for r in self.nodes if r.storage_problem]


def examine(address: str, storage: Storage | None) -> ClusterReport:
    """Look at a cluster and each of its nodes.

    Args:
        address: `HOST:PORT` of its head, or `auto`.
        storage: every node writes there too and reads what the others wrote; None: not tried.

    Raises:
        UsageError: it cannot be worked with, see `connection.cluster`.
        StorageError: this machine itself cannot write to the storage.
    """
    with cluster(address) as versions:
        from pgsearch.search.nodes import look_at_nodes  # after Ray's settings

        reports = look_at_nodes(storage, with_gpus=True)
    stranger = knock(versions["address"], _NO_TOKEN)
    asks = "Unauthenticated" in str(stranger) or "AuthenticationError" in str(stranger)
    asks_for_token = None if "error" in stranger and not asks else asks
    return ClusterReport(
        address=versions["address"],
        ray=versions["ray"],
        python=versions["python"],
        asks_for_token=asks_for_token,
        nodes=reports,
        advice=tuple(_advice(asks_for_token, reports)),
    )


def _advice(asks_for_token: bool | None, reports: "Sequence[NodeReport]") -> Iterator[str]:
    if asks_for_token is False:
        yield (
            "anybody who reaches the cluster's ports can run code there and read its data: set "
            "RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN for every node before ray start"
        )
    for report in reports:
        for text in _advice_on(report):
            yield f"node {report.node}: {text}"


def _advice_on(report: "NodeReport") -> Iterator[str]:
    facts = report.facts
    if not facts:
        return
    if facts["torch_error"] is not None:
        yield f"torch cannot be asked for GPUs there ({facts['torch_error']}); install it anew"
    elif len(facts["devices"]) < report.node.gpus:
        yield (
            f"Ray counts {report.node.gpus:g} GPUs there and torch sees {len(facts['devices'])}: "
            "install a torch for its CUDA driver, or give ray start the true --num-gpus"
        )
    elif len(facts["devices"]) > report.node.gpus:
        yield (
            f"torch sees {len(facts['devices'])} GPUs there and Ray counts {report.node.gpus:g}; "
            "the others stay idle: see --num-gpus of ray start"
        )
    for what, remedy in (
        ("cache", "decoded images and features go there; name another with PGSEARCH_CACHE"),
        ("temp", "Ray's logs and spilled objects go there; name another with --temp-dir"),
    ):
        free = facts[f"{what}_free_bytes"]
        if free is not None and free < LITTLE_SPACE_BYTES:
            folder = facts[f"{what}_folder"]
            yield f"{free / 1e9:.1f} GB are free in {folder}; {remedy}"
    if facts["memory_free_bytes"] < LITTLE_MEMORY_BYTES:
        yield (
            f"{facts['memory_free_bytes'] / 1e9:.1f} GB of memory are free; end what uses it, or "
            "let resources.memory_gb place fewer trials there"
        )
