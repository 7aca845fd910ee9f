"""`doctor`: whether a storage, and a Ray cluster, do what searches need of them."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Json

if TYPE_CHECKING:
    from pgsearch.results.probe import Finding
    from pgsearch.search.examine import ClusterReport


def doctor(
    storage: Annotated[
        str | None,
        typer.Option(
            "--results",
            "--storage",
            help="Folder or URL to try, such as s3://bucket/results. [default: results; none with "
            "--address]",
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Also look at the Ray cluster whose head is there (auto: the one on this "
            "machine), from one of its nodes.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Try whether a storage, and a Ray cluster, do what searches need of them.

    Storage: atomic replacement, exclusive and conditional writes, listings, clock, free space, in a
    hidden folder of its own, which is removed again. Exit code 5 where it does not do.

    With --address, of every node: versions, GPUs, free disk and memory, clock, and with --results
    whether it can write there and read what the other nodes wrote. Exit code 2 where the cluster
    cannot be reached or a node cannot run trials, 5 where one cannot use the storage. What is only
    advice leaves the exit code 0.
    """
    from pgsearch.errors import EXIT_USAGE, StorageError

    findings = []
    if storage is not None or address is None:
        findings = _try_storage(storage or DEFAULT_RESULTS, silent=as_json)
    report = None if address is None else _look_at_cluster(address, storage)
    if as_json:
        tried = [finding._asdict() for finding in findings]
        typer.echo(json.dumps(tried if report is None else {"storage": tried, **_facts(report)}))
    elif report is not None:
        _show(report, storage)
    if not all(finding.held for finding in findings) or (report and report.storage_problems):
        raise typer.Exit(StorageError.exit_code)
    if report is not None and report.problems:
        raise typer.Exit(EXIT_USAGE)


def _try_storage(storage: str, *, silent: bool) -> "list[Finding]":
    from pgsearch.results.probe import probe
    from pgsearch.results.storage import open_storage

    findings = []
    for finding in probe(open_storage(storage)):
        findings.append(finding)
        if not silent:
            typer.echo(f"{'ok  ' if finding.held else 'FAIL'}  {finding.name}: {finding.detail}")
    return findings


def _look_at_cluster(address: str, storage: str | None) -> "ClusterReport":
    from pgsearch.results.storage import absolute_storage
    from pgsearch.search.examine import examine

    return examine(address, None if storage is None else absolute_storage(storage))


def _facts(report: "ClusterReport") -> dict[str, Any]:
    return {
        "address": report.address,
        "ray": report.ray,
        "python": report.python,
        "asks_for_token": report.asks_for_token,
        "nodes": [
            {
                **r.node._asdict(),
                **r.facts,
                "skew_seconds": r.skew_seconds,
                "problems": r.problems,
                "storage_problem": r.storage_problem,
            }
            for r in report.nodes
        ],
        "advice": report.advice,
    }


def _show(report: "ClusterReport", storage: str | None) -> None:
    from pgsearch.analysis.formats import Cell, Table
    from pgsearch.cli import render

    token = {True: "a token is asked for", False: "no token is asked for", None: "unknown"}
    columns = {
        "node": [str(r.node) for r in report.nodes],
        "Python": [_fact(r.facts, "python") for r in report.nodes],
        "Ray": [_fact(r.facts, "ray") for r in report.nodes],
        "torch": [_fact(r.facts, "torch") for r in report.nodes],
        "pgsearch": [_fact(r.facts, "pgsearch") for r in report.nodes],
        "CPUs": [f"{r.node.cpus:g}" for r in report.nodes],
        "GPUs": [f"{r.node.gpus:g}" for r in report.nodes],
        "seen by torch": [_devices(r.facts) for r in report.nodes],
        "memory": [f"{r.node.memory_bytes / 1e9:.1f}" for r in report.nodes],
        "free": [_gigabytes(r.facts, "memory_free_bytes") for r in report.nodes],
        "cache": [_gigabytes(r.facts, "cache_free_bytes") for r in report.nodes],
        "temp": [_gigabytes(r.facts, "temp_free_bytes") for r in report.nodes],
        "clock": [
            "–" if r.skew_seconds is None else f"{r.skew_seconds:+.1f} s" for r in report.nodes
        ],
        "results": [
            "–" if storage is None or not r.facts else "FAIL" if r.storage_problem else "ok"
            for r in report.nodes
        ],
    }
    rows = zip(*columns.values(), strict=True)
    render.table(
        Table(
            f"Ray {report.ray}, Python {report.python} at {report.address}; authentication: "
            f"{token[report.asks_for_token]}",
            tuple(columns),
            tuple(tuple(Cell(text) for text in row) for row in rows),
            text_columns=frozenset({"node", "seen by torch"}),
            notes=("memory in GB of Ray and free; cache and temp: GB free on their disks",),
        )
    )
    for problem in [*report.problems, *report.storage_problems]:
        typer.echo(f"FAIL  {problem}")
    for advice in report.advice:
        typer.echo(f"note  {advice}")
    if not [*report.problems, *report.storage_problems, *report.advice]:
        typer.echo(f"ok    {len(report.nodes)} nodes can run searches")


def _fact(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    return "–" if value is None else str(value)


def _devices(facts: Mapping[str, Any]) -> str:
    devices = facts.get("devices")
    if devices is None:
        return "–"
    counts = Counter(f"{d['name']} {d['memory_bytes'] / 1e9:.0f} GB" for d in devices)
    return ", ".join(f"{count} × {kind}" for kind, count in counts.items()) or "none"


def _gigabytes(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name)
    return "–" if value is None else f"{value / 1e9:.1f}"
