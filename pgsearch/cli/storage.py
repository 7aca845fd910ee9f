"""Commands about results that lie there: `verify`, `gc`. They import neither torch nor Ray."""

import json
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Json, Results

if TYPE_CHECKING:
    from pgsearch.results import Ledger

SomeSearches: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="SEARCH", help="Names of searches; default all.", show_default=False),
]


def verify(
    searches: SomeSearches = None,
    results: Results = DEFAULT_RESULTS,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Set damaged files aside and write again what is known."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Read every file of searches with its checksum.

    Exit code 5 where one is damaged. With --repair damaged files go to SEARCH/damaged, nothing is
    deleted. A trial's lost row is written again from its epochs or the spec; an ended trial that
    lost epochs becomes a FAIL that pgsearch retry trains again. After a repair the exit code is 0.
    """
    from pgsearch.cli.progress import data_progress
    from pgsearch.errors import StorageError
    from pgsearch.results import DriverLease
    from pgsearch.results.verify import repair as set_aside
    from pgsearch.results.verify import verify as look

    found: dict[str, list[str]] = {}
    done: dict[str, list[str]] = {}
    for ledger in _ledgers(searches, results):
        with data_progress(what=f"reading {ledger.name}") as progress:
            problems = look(ledger, progress=progress)
        done[ledger.name] = []
        if repair and problems:
            with DriverLease(ledger.storage, on_waiting=_say):
                problems = look(ledger)  # a driver may have worked on it since
                done[ledger.name] = set_aside(ledger, problems)
        found[ledger.name] = [str(problem) for problem in problems]
    if as_json:
        facts = {name: {"problems": found[name], "repaired": done[name]} for name in found}
        typer.echo(json.dumps(facts))
    else:
        for name, lines in found.items():
            typer.echo("\n".join([*lines, *done[name]]) if lines else f"{name}: sound")
        if any(found.values()) and not repair:
            _say("set damaged files aside with pgsearch verify --repair")
    if any(found.values()) and not repair:
        raise typer.Exit(StorageError.exit_code)


def gc(
    searches: SomeSearches = None,
    results: Results = DEFAULT_RESULTS,
    free: Annotated[bool, typer.Option("--free", help="Delete it; without, only show.")] = False,
    damaged: Annotated[
        bool, typer.Option("--damaged", help="Also what verify --repair set aside.")
    ] = False,
    cache_days: Annotated[
        float | None,
        typer.Option(
            "--cache",
            min=0,
            metavar="DAYS",
            help="Also this machine's cached images and features that nothing used for DAYS.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what nothing needs any more, and free it.

    Resume states of ended trials, checkpoints beyond keep_checkpoints, scores without a kept trial,
    and what kills left behind. Epochs and trials are never deleted.
    """
    from pgsearch.results import DriverLease
    from pgsearch.results.garbage import find_garbage
    from pgsearch.results.read import searches as known_searches

    rows = []
    only_cache = cache_days is not None and not searches and not known_searches(results)
    for ledger in [] if only_cache else _ledgers(searches, results):
        garbage = list(find_garbage(ledger, with_damaged=damaged))
        if free and garbage:
            with DriverLease(ledger.storage, on_waiting=_say):
                # A driver may have worked on it since: what was garbage may be needed.
                garbage = list(find_garbage(ledger, with_damaged=damaged))
                for item in garbage:
                    item.file.delete()
        rows += [(str(item.file), item.num_bytes, item.reason) for item in garbage]
    if cache_days is not None:
        from pgsearch.cache_dir import default_cache_dir
        from pgsearch.data.cache import remove_entry, unused_entries

        for entry, num_bytes in unused_entries(default_cache_dir(), days=cache_days):
            rows.append((str(entry), num_bytes, f"not used for {cache_days:g} days"))
            if free:
                remove_entry(entry)
    total = sum(num_bytes for _, num_bytes, _ in rows)
    if as_json:
        keys = ("file", "bytes", "reason")
        typer.echo(json.dumps([dict(zip(keys, row, strict=True)) for row in rows]))
        return
    for file, num_bytes, reason in rows:
        typer.echo(f"{num_bytes:>15,}  {file}: {reason}")
    verb = "freed" if free else "can be freed with --free"
    typer.echo(f"{total:>15,}  bytes in {len(rows)} files {verb}")


def _ledgers(names: list[str] | None, results: str) -> list["Ledger"]:
    from pgsearch.errors import UsageError
    from pgsearch.results import find_search
    from pgsearch.results.read import searches

    if names:
        return [find_search(name, results) for name in names]
    known = searches(results)
    if not known:
        raise UsageError(f"no search in {results}; name another folder with --results")
    return [find_search(name, results) for name in known]


def _say(text: str) -> None:
    typer.echo(text, err=True)
