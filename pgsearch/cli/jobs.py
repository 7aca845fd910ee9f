"""Commands about searches as jobs of a Ray cluster: submit, list, follow, stop, go on."""

import json
import re
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Json, Overrides, SpecFile
from pgsearch.errors import EXIT_DONE
from pgsearch.untrusted import visible

if TYPE_CHECKING:
    from pgsearch.config import SearchSpec
    from pgsearch.jobs import Job, JobServer

Server: TypeAlias = Annotated[
    str,
    typer.Option(
        "--address",
        envvar="RAY_API_SERVER_ADDRESS",
        metavar="URL",
        help="Dashboard of the Ray cluster.",
    ),
]
DEFAULT_SERVER: Final = "http://127.0.0.1:8265"
Where: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--results",
        "--storage",
        envvar="PGSEARCH_RESULTS",
        help="Folder that every node sees, or URL (s3://…).",
    ),
]
JobName: TypeAlias = Annotated[
    str,
    typer.Argument(metavar="SEARCH|JOB", help="A search, or one of its jobs.", show_default=False),
]
Grace: TypeAlias = Annotated[
    float, typer.Option(min=0, help="Seconds that trials may take to checkpoint when it stops.")
]
Environment: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--env", metavar="NAME", help="Give the job this variable too. Readable by its cluster."
    ),
]
Follow: TypeAlias = Annotated[
    bool, typer.Option("--follow", "-f", help="Until it ends, with its exit code.")
]
NoWait: TypeAlias = Annotated[
    bool, typer.Option("--no-wait", help="Do not look whether it begins well.")
]
SECONDS_TO_BEGIN: Final = 20.0
_BEGUN: Final = re.compile(r"^trial \d+ begins", re.MULTILINE)
_LINES_OF_A_FAILURE: Final = 20


def submit(
    spec: SpecFile,
    overrides: Overrides = None,
    address: Server = DEFAULT_SERVER,
    results: Where = None,
    grace: Grace = 25.0,
    environment: Environment = None,
    follow: Follow = False,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Run a search on a Ray cluster, as a job that outlives this terminal.

    The job carries the spec and this pgsearch, no data and nothing secret: images, weights and
    credentials of an object store are those of the cluster's nodes. Paths in the spec are as each
    node sees them. A relative --results or path is taken for one below the current folder.

    For a cluster with tokens set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN.
    """
    from pgsearch.config import load_spec
    from pgsearch.jobs import JobServer

    search = load_spec(spec, overrides or [])
    server = JobServer(address)
    job = server.submit(
        search,
        _absolute(results or DEFAULT_RESULTS),
        grace_seconds=grace,
        environment=environment or [],
    )
    _begin(server, job, follow=follow, no_wait=no_wait, as_json=as_json)


def resume(
    search: Annotated[str, typer.Argument(metavar="SEARCH", show_default=False)],
    address: Server = DEFAULT_SERVER,
    results: Where = None,
    grace: Grace = 25.0,
    environment: Environment = None,
    follow: Follow = False,
    no_wait: NoWait = False,
    as_json: Json = False,
) -> None:
    """Go on with a search as a new job: after a stop, a failure, or on another cluster.

    It goes on where its results stand. On a cluster that had a job of it the spec and the results
    are that job's; on another one --results says where they are.
    """
    from pgsearch.jobs import JobServer

    server = JobServer(address)
    spec, where = _of_earlier_job(server, search, results)
    job = server.submit(spec, where, grace_seconds=grace, environment=environment or [])
    _begin(server, job, follow=follow, no_wait=no_wait, as_json=as_json)


def jobs(address: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """List the jobs of searches on a Ray cluster, the newest first.

    Trials and best are read from the results, where this machine can; else they are –.
    """
    from pgsearch.jobs import JobServer

    found = JobServer(address).jobs()
    progress = {
        place: _progress(*place) for place in dict.fromkeys((j.results, j.search) for j in found)
    }
    if as_json:
        typer.echo(json.dumps([_facts(j) | progress[j.results, j.search] for j in found]))
        return
    if not found:
        typer.echo(f"no jobs of searches at {address}; begin one with pgsearch submit SPEC")
        return
    from pgsearch.analysis.formats import Cell, Table
    from pgsearch.cli import render

    rows = []
    for job in found:
        facts = progress[job.results, job.search]
        done = "–" if facts["done"] is None else f"{facts['done']}/{facts['trials']}"
        words = [
            *(job.id, job.search, _state(job, facts), done),
            *(_best(facts), _age(job), job.results),
        ]
        rows.append(tuple(Cell(word) for word in words))
    columns = ("job", "search", "state", "trials done", "best", "age", "results")
    text = frozenset({"job", "search", "state", "results"})
    render.table(Table(f"Jobs at {address}", columns, tuple(rows), text_columns=text))


def logs(name: JobName, address: Server = DEFAULT_SERVER, follow: Follow = False) -> None:
    """Print what a job has printed; with -f until it ends.

    With -f the exit code is that of its run: 75 where it was stopped. Ctrl-C ends the following,
    not the job.
    """
    from pgsearch.jobs import JobServer

    server = JobServer(address)
    job = server.job(name)
    if not follow:
        _show(server.logs(job))
        return
    raise typer.Exit(_follow(server, job))


def stop(name: JobName, address: Server = DEFAULT_SERVER, as_json: Json = False) -> None:
    """Let a job's trials checkpoint, and end it.

    Nothing is lost: pgsearch resume goes on in the middle of an epoch.
    """
    from pgsearch.jobs import JobServer

    server = JobServer(address)
    job = server.job(name)
    if not job.has_ended:
        began, told = time.monotonic(), False
        for state in server.stop(job):
            job = state
            if time.monotonic() - began > 2 and not told:
                typer.echo(f"{job.id}: waiting for its trials to checkpoint", err=True)
                told = True
        what = "stopped" if job.state == "STOPPED" else f"ended by itself: {job.state}"
    else:
        what = f"had ended already: {job.state}"
    if as_json:
        typer.echo(json.dumps(_facts(job)))
        return
    typer.echo(f"{job.id} {what}")
    if job.state == "STOPPED":
        typer.echo(f"next: pgsearch resume {job.search} --address {address}")


def _absolute(results: str) -> str:
    """Return results with an absolute path: a job's current folder is one of Ray's."""
    return results if "://" in results else str(Path(results).absolute())


def _of_earlier_job(
    server: "JobServer", search: str, results: str | None
) -> tuple["SearchSpec", str]:
    """Return spec and results of a search: of its last job, else from its results."""
    import yaml

    from pgsearch.config import parse_spec
    from pgsearch.errors import UsageError
    from pgsearch.results import find_search

    earlier = [job for job in server.jobs() if job.search == search]
    if earlier and results is None:
        return parse_spec(yaml.safe_load(earlier[0].spec), earlier[0].id), earlier[0].results
    if results is None:
        raise UsageError(
            f"no job of {search!r} at {server.address}; say where its results are with --results, "
            "or begin it with pgsearch submit SPEC"
        )
    where = _absolute(results)
    return find_search(search, where).spec(), where


def _begin(server: "JobServer", job: "Job", *, follow: bool, no_wait: bool, as_json: bool) -> None:
    """Say that a job is submitted; wait a little to see whether it fails at once."""
    if not as_json:
        typer.echo(f"submitted {job.id} to {server.address}", err=True)
    if follow:
        raise typer.Exit(_follow(server, job))
    if not no_wait:
        job = _wait_until_begun(server, job)
    if as_json:
        typer.echo(json.dumps(_facts(job)))
    elif job.has_ended and job.exit_code != EXIT_DONE:
        tail = "\n".join(job.message.splitlines()[-_LINES_OF_A_FAILURE:])
        typer.echo(f"{job.id} {job.state}:\n{_visible(tail)}", err=True)
    else:
        typer.echo(f"{job.id} {_state(job, {})}")
        address = "" if server.address == DEFAULT_SERVER else f" --address {server.address}"
        typer.echo(f"next: pgsearch logs {job.search} -f{address}")
    raise typer.Exit(job.exit_code or EXIT_DONE)


def _wait_until_begun(server: "JobServer", job: "Job") -> "Job":
    """Return a job when its first trial begins, when it has ended, or after a while."""
    from pgsearch.jobs import SECONDS_BETWEEN_LOOKS

    deadline = time.monotonic() + SECONDS_TO_BEGIN
    while time.monotonic() < deadline:
        time.sleep(SECONDS_BETWEEN_LOOKS)
        job = server.job(job.id)
        if job.has_ended or (job.state == "RUNNING" and _BEGUN.search(server.logs(job))):
            break
    return job


def _follow(server: "JobServer", job: "Job") -> int:
    job = server.follow(job, _show)
    if job.state != "SUCCEEDED" and job.driver_exit_code is None and job.message:
        typer.echo(f"{job.id} {job.state}: {_visible(job.message)}", err=True)
    return job.exit_code or EXIT_DONE


def _show(text: str) -> None:
    sys.stdout.write(_visible(text))
    sys.stdout.flush()


def _visible(text: str) -> str:
    return "\n".join(map(visible, text.expandtabs().split("\n")))


def _state(job: "Job", facts: Mapping[str, Any]) -> str:
    """Return a job's state, and why it does nothing yet."""
    if job.state == "PENDING":
        return "PENDING (waits for a node, or its environment is set up)"
    if job.state == "RUNNING" and facts.get("with_epochs") == 0:
        return "RUNNING (no epoch yet: data is prepared, or nodes start)"
    if job.state == "FAILED" and job.driver_exit_code is not None:
        return f"FAILED (exit code {job.driver_exit_code})"
    return job.state


def _progress(results: str, search: str) -> dict[str, Any]:
    """Return how far a search is, by its results; nothing where they cannot be read from here."""
    from pgsearch.analysis.ranking import complete_trials, ranked_configurations
    from pgsearch.errors import PgsearchError
    from pgsearch.results import find_search, read_trials

    unknown = dict.fromkeys(("trials", "with_epochs", "done", "objective", "best"))
    try:
        ledger = find_search(search, results)
        spec = ledger.spec()
        states = read_trials(ledger, ["state"])["state"].to_pylist()
        with_epochs = len(ledger.versions("epochs"))
        ranked = ranked_configurations(complete_trials(ledger), spec)
    except PgsearchError:
        return unknown
    return {
        "trials": spec.num_trials,
        "with_epochs": with_epochs,
        "done": sum(state != "RUNNING" for state in states),
        "objective": spec.objective[0].column,
        "best": None if ranked.empty else float(ranked.iloc[0]["value"]),
    }


def _best(facts: Mapping[str, Any]) -> str:
    if facts["best"] is None:
        return "–"
    is_share = str(facts["objective"]).startswith(("map", "f1"))
    return f"{100 * facts['best']:.2f} %" if is_share else f"{facts['best']:.4g}"


def _age(job: "Job") -> str:
    from pgsearch.provenance import utc_now

    if job.started_utc is None:
        return "–"
    seconds = max(timedelta(), utc_now() - job.started_utc)
    return str(timedelta(seconds=round(seconds.total_seconds())))


def _facts(job: "Job") -> dict[str, Any]:
    return {
        "job": job.id,
        "search": job.search,
        "state": job.state,
        "message": job.message,
        "results": job.results,
        "started_utc": job.started_utc.isoformat() if job.started_utc else None,
        "ended_utc": job.ended_utc.isoformat() if job.ended_utc else None,
        "exit_code": job.exit_code,
    }
