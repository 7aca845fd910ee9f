"""Every node of a cluster, asked before a search begins: what it is, and whether it can take part.

Answers come from the node itself, by a task that Ray places there and nowhere else.
"""

import contextlib
import platform
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import pgsearch
from pgsearch.errors import InvalidData, StorageError, UsageError
from pgsearch.provenance import code_fingerprint
from pgsearch.results.probe import LARGEST_SKEW_SECONDS
from pgsearch.results.storage import Storage
from pgsearch.search import node_facts
from pgsearch.search.placement import Node, alive_nodes
from pgsearch.untrusted import one_line

SECONDS_FOR_AN_ANSWER = 12.0
SECONDS_UNTIL_RAY_KNOWS = 20.0
"""That a node has ended which did not say so: it misses five looks at its health, 3 s apart."""
SECONDS_FOR_GPUS = node_facts.SECONDS_FOR_TORCH + SECONDS_FOR_AN_ANSWER
DRIVER = "driver"


@dataclass(frozen=True)
class NodeReport:
    """What a node answered, and what is wrong with it."""

    node: Node
    facts: Mapping[str, Any] = field(default_factory=dict)
    """See `node_facts.node_facts`; empty where it did not answer."""
    skew_seconds: float | None = None
    """How far its clock is ahead of the driver's; the least that explains what was seen."""
    problems: tuple[str, ...] = ()
    """Why trials must not run there, each with its remedy."""
    storage_problem: str | None = None
    """Why it cannot take part in the results."""


def look_at_nodes(storage: Storage | None, *, with_gpus: bool = False) -> list[NodeReport]:
    """Ask every living node of the Ray that we are connected to.

    Args:
        storage: of all results; every node writes an object into a folder of its own there that
            all others must read, and that is removed again. None tries no storage.
        with_gpus: also which GPUs torch sees there, which takes some seconds.
    """
    nodes = alive_nodes()
    seconds = SECONDS_FOR_GPUS if with_gpus else SECONDS_FOR_AN_ANSWER
    with _sent_as_code():
        answers = _ask(nodes, node_facts.node_facts, lambda _: (with_gpus,), seconds=seconds)
        nodes = _without_ended(nodes, answers)
        skews = _clocks([node for node in nodes if answers[node.node_id].error is None])
        able = [node for node in nodes if (answers[node.node_id].value or {}).get("pgsearch")]
        storage_problems = prove_storage(able, storage) if storage is not None else {}
    return [
        NodeReport(
            node=node,
            facts=answers[node.node_id].value or {},
            skew_seconds=skews.get(node.node_id),
            problems=tuple(_problems(answers[node.node_id], skews.get(node.node_id))),
            storage_problem=storage_problems.get(node.node_id),
        )
        for node in nodes
    ]


def require_fit_nodes(storage: Storage) -> None:
    """Prove that every node can take part in a search whose results lie in `storage`.

    Leaves nothing behind.

    Raises:
        UsageError: a node does not answer, or differs in Python's minor version, Ray, torch or
            pgsearch, or its clock by more than `LARGEST_SKEW_SECONDS`.
        StorageError: a node cannot write there, or read what another wrote.
    """
    reports = look_at_nodes(storage)
    wrong = [f"node {r.node}: {problem}" for r in reports for problem in r.problems]
    if wrong:
        raise UsageError("\n".join(["a search cannot run on this cluster:", *wrong]))
    wrong = [f"node {r.node}: {r.storage_problem}" for r in reports if r.storage_problem]
    if wrong:
        raise StorageError(
            "\n".join(
                [
                    f"{storage.url}: results must lie where every node can write and read them:",
                    *wrong,
                    "name a folder that every node mounts, or s3://bucket/folder or gs://…, with "
                    "--results",
                ]
            )
        )


def require_inputs(nodes: Sequence[Node], paths: Sequence[str]) -> None:
    """Prove that nodes have the files that trials are trained on, as large as the driver's.

    What the driver itself does not have is left to who reads it.

    Args:
        nodes: where trials may be placed.
        paths: of files and folders, relative ones to the driver's folder.

    Raises InvalidData: a node has not; names it, the file and what helps.
    """
    here = str(Path.cwd())
    own = {p: n for p, n in node_facts.node_sees(here, list(paths)).items() if n is not None}
    with _sent_as_code():
        answers = _ask(nodes, node_facts.node_sees, lambda _: (here, list(own)))
    wrong = []
    for node in _without_ended(nodes, answers):
        answer = answers[node.node_id]
        if answer.error is not None:
            wrong.append(f"node {node}: {answer.error}")
            continue
        for path, size in answer.value.items():
            if size is None:
                wrong.append(f"node {node}: {path} is not there, or may not be read")
            elif size != own[path]:
                wrong.append(f"node {node}: {path} has {size} bytes, the driver's {own[path]}")
    if wrong:
        raise InvalidData(
            [
                "images and weights must lie at the same path on every node:",
                *wrong,
                "put them into a folder that every node mounts, or copy them to each",
            ]
        )


def require_compilers(nodes: Sequence[Node], *, gpu: bool) -> None:
    """Prove that nodes have what `training.compile: true` needs.

    Args:
        nodes: where trials may be placed.
        gpu: whether it is for networks on GPUs.

    Raises UsageError: a node has not; names it, what is missing and what helps.
    """
    with _sent_as_code():
        answers = _ask(nodes, node_facts.node_lacks_for_compiling, lambda _: (gpu,))
    wrong = [
        f"node {node}: {problem}"
        for node in _without_ended(nodes, answers)
        if (problem := answers[node.node_id].error or answers[node.node_id].value) is not None
    ]
    if wrong:
        raise UsageError(
            "\n".join(["training.compile: true:", *wrong, "or set training.compile: false"])
        )


def prove_storage(nodes: Sequence[Node], storage: Storage) -> dict[str, str]:
    """Let nodes and the driver write into a storage, then read what all wrote, and remove it.

    Returns what is wrong, by node id. Raises StorageError where the driver itself cannot.
    """
    token = secrets.token_hex(16)
    url = storage.at(f".pgsearch-proof-{token[:12]}").url
    # The driver first: the folders that are missing are made once, and removed last.
    own = node_facts.node_writes(url, DRIVER, token)
    written: dict[str, _Answer] = {}
    try:
        if own["error"] is not None:
            raise StorageError(own["error"])
        written = _ask(nodes, node_facts.node_writes, lambda node: (url, node.node_id, token))
        problems = _errors(written)
        able = [node for node in nodes if node.node_id not in problems]
        names = [DRIVER, *(node.node_id for node in able)]
        read = _ask(able, node_facts.node_reads, lambda _: (url, names, token))
        problems |= _errors(read)
        driver = node_facts.node_reads(url, names, token)
        if driver["error"] is not None:
            raise StorageError(driver["error"])
        seen = {n: set(read[n].value["seen"]) for n in names[1:] if n not in problems}
        return problems | _blind(nodes, seen | {DRIVER: set(driver["seen"])})
    finally:
        made = {n: a.value["made"] for n, a in written.items() if a.error is None}
        writers = [node for node in nodes if node.node_id in made]
        _ask(writers, node_facts.node_removes, lambda node: (url, made[node.node_id]))
        node_facts.node_removes(url, own["made"])


def _errors(answers: "Mapping[str, _Answer]") -> dict[str, str]:
    """Return why nodes could not do what they were asked for."""
    return {
        node_id: str(error)
        for node_id, answer in answers.items()
        if (error := answer.error or answer.value["error"]) is not None
    }


def _blind(nodes: Sequence[Node], seen: Mapping[str, set[str]]) -> dict[str, str]:
    """Return who does not see what others wrote; the driver's view is the ledger's."""
    names = {node.node_id: str(node) for node in nodes if node.node_id in seen}
    apart = {n for n in names if DRIVER not in seen[n] or n not in seen[DRIVER]}
    problems = dict.fromkeys(
        apart, "it does not see what the driver writes there, it has something else at that place"
    )
    together = names.keys() - apart
    for n in together:
        unseen = ", ".join(sorted(names[other] for other in together - seen[n]))
        if unseen:
            problems[n] = f"it does not see what {unseen} wrote there"
    return problems


def _problems(answer: "_Answer", skew: float | None) -> Iterator[str]:
    """Yield why trials must not run on a node."""
    if answer.error is not None:
        yield f"{answer.error}; see ray status, or take the node out of the cluster"
        return
    facts = answer.value
    if facts["pgsearch"] is None:
        yield (
            f"pgsearch is not installed there; install pgsearch {pgsearch.__version__}, or send "
            "the search with pgsearch submit, which brings it along"
        )
    ours = {
        "Python": _minor(platform.python_version()),
        "Ray": ray.__version__,
        "torch": _public(node_facts.package_version("torch")),
        "pgsearch": pgsearch.__version__,
    }
    theirs = {
        "Python": _minor(facts["python"]),
        "Ray": facts["ray"],
        "torch": _public(facts["torch"]),
        "pgsearch": facts["pgsearch"] or pgsearch.__version__,
    }
    for name, version in ours.items():
        if theirs[name] != version:
            yield (
                f"it has {name} {theirs[name] or '(none)'}, the driver {name} {version}; install "
                "the same version on every node"
            )
    if facts["pgsearch"] == pgsearch.__version__ and facts["code"] != code_fingerprint():
        yield (
            f"it has other code of pgsearch {pgsearch.__version__} than the driver; install the "
            "same on every node, or send the search with pgsearch submit, which brings it along"
        )
    if skew is not None and abs(skew) > LARGEST_SKEW_SECONDS:
        yield (
            f"its clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the driver's; "
            "set both by NTP (chrony, systemd-timesyncd)"
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _public(version: str | None) -> str | None:
    """Return a version without what says how it was built: 2.9.0+cu130 and 2.9.0+cpu are one."""
    return None if version is None else version.partition("+")[0]


def _clocks(nodes: Sequence[Node]) -> dict[str, float]:
    """Return how far each node's clock is ahead, as little as its round trip allows."""
    skews = {}
    for node_id, answer in _ask(nodes, node_facts.node_clock, lambda _: ()).items():
        if answer.error is None:
            ahead, behind = answer.value - answer.received, answer.value - answer.sent
            skews[node_id] = max(ahead, 0.0) if behind > 0 else behind
    return skews


class _Answer(NamedTuple):
    value: Any
    error: str | None
    sent: float
    """When it was asked and had answered, on the driver's clock, in seconds since 1970."""
    received: float


def _ask(
    nodes: Sequence[Node],
    function: Callable[..., Any],
    arguments: Callable[[Node], tuple[Any, ...]],
    *,
    seconds: float = SECONDS_FOR_AN_ANSWER,
) -> dict[str, _Answer]:
    """Call a function on each node, at the same time; return the answers by node id."""
    remote = ray.remote(num_cpus=0, max_retries=0)(function)
    waiting: dict[Any, str] = {}
    sent: dict[str, float] = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node.node_id, soft=False)
        sent[node.node_id] = time.time()
        reference = remote.options(scheduling_strategy=here).remote(*arguments(node))
        waiting[reference] = node.node_id
    answers = {}
    deadline = time.monotonic() + seconds
    while waiting:
        left = max(0.0, deadline - time.monotonic())
        ready, _ = ray.wait(list(waiting), num_returns=1, timeout=left)
        if not ready:
            break
        node_id = waiting.pop(ready[0])
        answers[node_id] = _answer(ready[0], sent[node_id])
    for reference, node_id in waiting.items():
        with contextlib.suppress(Exception):
            ray.cancel(reference, force=True)
        answers[node_id] = _Answer(
            None, f"it did not answer within {seconds:.0f} s", sent[node_id], time.time()
        )
    return answers


def _answer(reference: Any, sent: float) -> _Answer:
    received = time.time()
    try:
        return _Answer(ray.get(reference), None, sent, received)
    except Exception as error:  # whatever went wrong there, or with the node
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        return _Answer(None, one_line(f"it could not be asked ({last.strip()})"), sent, received)


@contextlib.contextmanager
def _sent_as_code() -> Iterator[None]:
    """Let Ray send the functions of `node_facts` themselves, for nodes that do not have them."""
    ray.cloudpickle.register_pickle_by_value(node_facts)
    try:
        yield
    finally:
        ray.cloudpickle.unregister_pickle_by_value(node_facts)


def _without_ended(nodes: Sequence[Node], answers: Mapping[str, _Answer]) -> list[Node]:
    """Leave out nodes that have ended, as those of a spot market do; Ray may learn of it late."""
    silent = {node_id for node_id, answer in answers.items() if answer.error is not None}
    deadline = time.monotonic() + SECONDS_UNTIL_RAY_KNOWS
    alive = {node.node_id for node in alive_nodes()} if silent else answers.keys()
    while silent & alive and time.monotonic() < deadline:
        time.sleep(0.5)
        alive = {node.node_id for node in alive_nodes()}
    return [node for node in nodes if node.node_id in alive]
