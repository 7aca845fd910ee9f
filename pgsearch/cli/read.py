"""Commands that read results: `status`, `best`. They import neither torch nor Ray."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Json, Results, Search

if TYPE_CHECKING:
    from pgsearch.config import SearchSpec
    from pgsearch.results import Ledger


def status(search: Search, results: Results = DEFAULT_RESULTS, as_json: Json = False) -> None:
    """Show how a search stands: trials by state, the best so far, what runs, what failed."""
    from pgsearch.analysis.tables import best_configuration, leaderboard, short_params
    from pgsearch.results import find_search
    from pgsearch.results.lease import newest_driver

    ledger = find_search(search, results)
    spec = ledger.spec()
    frame = leaderboard(ledger)
    counts = Counter(frame["state"])
    driver = newest_driver(ledger.storage)
    replicates = best_configuration(ledger)
    best = replicates.assign(value=replicates["value"].mean()).head(1).to_dict("records")
    if as_json:
        facts = {
            "search": spec.name,
            "trials": spec.num_trials,
            "states": dict(counts),
            "driver": driver,
            "best": _plain(best[0]) if best else None,
            "running": [_plain(r) for r in frame[frame["state"] == "RUNNING"].to_dict("records")],
            "failed": [_plain(r) for r in frame[frame["state"] == "FAIL"].to_dict("records")],
        }
        typer.echo(json.dumps(facts))
        return
    typer.echo(f"{spec.name}: {spec.purpose or spec.method}")
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    typer.echo(f"{len(frame)} of {spec.num_trials} trials begun: {states or 'none'}")
    if driver is not None:
        typer.echo(f"driver: {driver}")
    for row in best:
        typer.echo(
            f"best: trial {row['number']}, {spec.objective[0].column} {row['value']:.4f}"
            f"{f', the mean of {len(replicates)} seeds' if len(replicates) > 1 else ''}"
            f"  {short_params(row['params'])}".rstrip()
        )
    for row in frame[frame["state"] == "RUNNING"].to_dict("records"):
        epoch = 0 if math.isnan(row["epoch"]) else int(row["epoch"])
        typer.echo(f"unfinished: trial {row['number']}, epoch {epoch} of {spec.training.epochs}")
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
            typer.echo(json.dumps(_plain(row)))
            return
        typer.echo(f"trial {row['number']}, seed {row['seed']}, epoch {row['epoch']:.0f}")
        typer.echo(f"{score}  {short_params(row['params'])}")
        for number in replicates["number"]:
            if (file := ledger.checkpoint_file(int(number))).exists():
                typer.echo(f"checkpoint: {file}")
            if (file := ledger.best_file(int(number))).exists():
                typer.echo(f"best epoch: {file}")
        return
    text = f"# The best configuration of {spec.name}: trial {row['number']}, {score}.\n"
    text += _spec_with_fresh_seeds(ledger, spec, row, seeds)
    if output is None:
        typer.echo(text.rstrip())
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text, encoding="utf-8")


def _spec_with_fresh_seeds(
    ledger: "Ledger", spec: "SearchSpec", row: Mapping[Any, Any], num_seeds: int
) -> str:
    """Return, as YAML, a grid of one configuration: a trial's, with seeds the search had not."""
    import yaml

    from pgsearch.search.retrain import fresh_seeds, retraining

    variant = row["variant"] if isinstance(row["variant"], str) else None
    trial = spec.trial(int(row["number"]), row["params"], variant)
    content = retraining(
        spec,
        {variant or f"{spec.name} trial {row['number']}": trial.configuration},
        name=f"{spec.name}_best",
        purpose=f"The best configuration of {spec.name}, with fresh seeds",
        seeds=fresh_seeds(ledger, num_seeds),
    )
    return yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True)


def _plain(row: Any) -> dict[str, Any]:
    """Return a row with plain numbers, and null for what is missing."""
    return {
        str(key): None if isinstance(value, float) and math.isnan(value) else value
        for key, value in row.items()
    }
