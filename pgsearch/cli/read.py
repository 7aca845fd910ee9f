"""Commands that read results: `status`, `best`. They import neither torch nor Ray."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Json, Results, Search
from pgsearch.cli.write import plain


def status(
    search: Search,
    results: Results = DEFAULT_RESULTS,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Dashboard of a Ray cluster: also how its job stands; the results are the job's.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how a search stands: trials by state, the best so far, what runs, what failed."""
    from pgsearch.analysis.stages import agreement, facts, lines
    from pgsearch.analysis.tables import best_configuration, leaderboard, short_params
    from pgsearch.results import find_search
    from pgsearch.results.lease import newest_driver

    job = None
    if address is not None:
        from pgsearch.jobs import JobServer

        job = JobServer(address).job(search)
        results = job.results if results == DEFAULT_RESULTS else results
        search = job.search
    ledger = find_search(search, results)
    spec = ledger.spec()
    frame = leaderboard(ledger)
    counts = Counter(frame["state"])
    driver = newest_driver(ledger.storage)
    replicates = best_configuration(ledger)
    best = replicates.assign(value=replicates["value"].mean()).head(1).to_dict("records")
    by_stage = {
        stage: dict(Counter(frame.loc[frame["stage"] == stage, "state"]))
        for stage in spec.stage_names
        if stage is not None
    }
    if as_json:
        found = agreement(ledger)
        answer = {
            "search": spec.name,
            "trials": spec.num_trials,
            "states": dict(counts),
            "driver": driver,
            "job": None if job is None else {"id": job.id, "state": job.state},
            "best": plain(best[0]) if best else None,
            "running": [plain(r) for r in frame[frame["state"] == "RUNNING"].to_dict("records")],
            "failed": [plain(r) for r in frame[frame["state"] == "FAIL"].to_dict("records")],
            "stages": by_stage or None,
            "agreement": None if found is None else facts(found),
        }
        typer.echo(json.dumps(answer))
        return
    typer.echo(f"{spec.name}: {spec.purpose or spec.method}")
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    typer.echo(f"{len(frame)} of {spec.num_trials} trials begun: {states or 'none'}")
    for stage, states_of in by_stage.items():
        states = ", ".join(f"{count} {state}" for state, count in sorted(states_of.items()))
        num = f"{sum(states_of.values())} of {spec.num_trials_of(stage)}"
        typer.echo(f"{stage}: {num} trials begun: {states or 'none'}")
    if job is not None:
        typer.echo(f"job: {job.id} {job.state}")
    if driver is not None:
        typer.echo(f"driver: {driver}")
    for row in best:
        typer.echo(
            f"best: trial {row['number']}, {spec.objective[0].column} {row['value']:.4f}"
            f"{f', the mean of {len(replicates)} seeds' if len(replicates) > 1 else ''}"
            f"  {short_params(row['params'])}".rstrip()
        )
    for line in lines(ledger):
        typer.echo(line)
    for row in frame[frame["state"] == "RUNNING"].to_dict("records"):
        epoch = 0 if math.isnan(row["epoch"]) else int(row["epoch"])
        planned = spec.epochs_of(row["stage"])
        typer.echo(f"unfinished: trial {row['number']}, epoch {epoch} of {planned}")
    for row in frame[frame["state"] == "FAIL"].to_dict("records"):
        typer.echo(f"failed: trial {row['number']}: {str(row['error']).splitlines()[-1]}")


def best(
    search: Search,
    results: Results = DEFAULT_RESULTS,
    emit_config: Annotated[
        bool, typer.Option("--emit-config", help="Print a spec that trains it again.")
    ] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Fresh seeds in that spec.")] = 3,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the spec to a file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the best configuration of a search, or emit a spec that trains it with fresh seeds.

    The best by the mean of its seeds. Fresh, since the best of a search is partly luck of its seed.
    """
    from pgsearch.analysis.tables import best_configuration, short_params
    from pgsearch.errors import UsageError
    from pgsearch.results import find_search

    ledger = find_search(search, results)
    spec = ledger.spec()
    if len(spec.objective) > 1:
        raise UsageError(
            f"{search} has several objectives and so no single best; see "
            f"pgsearch table {search} --leaderboard"
        )
    replicates = best_configuration(ledger)
    if replicates.empty:
        raise UsageError(f"{search}: no complete trial yet; see pgsearch status {search}")
    row = replicates.to_dict("records")[0]
    score = f"{spec.objective[0].column} {replicates['value'].mean():.4f}"
    if len(replicates) > 1:
        score += f", the mean of {len(replicates)} seeds"
    if not emit_config and output is None:
        if as_json:
            typer.echo(json.dumps(plain(row)))
            return
        typer.echo(f"trial {row['number']}, seed {row['seed']}, epoch {row['epoch']:.0f}")
        typer.echo(f"{score}  {short_params(row['params'])}")
        for number in replicates["number"]:
            if (file := ledger.checkpoint_file(int(number))).exists():
                typer.echo(f"checkpoint: {file}")
            if (file := ledger.best_file(int(number))).exists():
                typer.echo(f"best epoch: {file}")
        return
    from pgsearch.results.local_storage import replace_file
    from pgsearch.search.retrain import retraining_as_yaml

    text = f"# The best configuration of {spec.name}: trial {row['number']}, {score}.\n"
    text += retraining_as_yaml(
        ledger,
        row,
        name=f"{spec.name}_best",
        purpose=f"The best configuration of {spec.name}, with fresh seeds",
        num_seeds=seeds,
    )
    if output is None:
        typer.echo(text.rstrip())
    else:
        data = text.encode()
        replace_file(output, lambda file: file.write(data), len(data))
