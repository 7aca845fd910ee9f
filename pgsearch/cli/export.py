"""`pgsearch export`: a search for other tools. It imports neither torch nor Ray."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Json, Results, Search, StageName, Stages
from pgsearch.export import Target

COMMANDS = {
    Target.optuna: "optuna-dashboard sqlite:///{}",
    Target.mlflow: "mlflow ui --backend-store-uri sqlite:///{}",
    Target.tensorboard: "tensorboard --logdir {}",
}
"""What opens an export."""


def export(
    search: Search,
    to: Annotated[Target, typer.Option(help="The tool that it is for.", show_default=False)],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            show_default=False,
            help="Database (optuna, mlflow) or folder (csv, tensorboard) to make.",
        ),
    ],
    results: Results = DEFAULT_RESULTS,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    stage: Stages = StageName.full,
    as_json: Json = False,
) -> None:
    """Write a search for another tool.

    optuna: a study in an SQLite database, for optuna-dashboard.
    csv: trials.csv and epochs.csv, for spreadsheets.
    mlflow: an experiment in an SQLite database, for mlflow ui.
    tensorboard: a run per trial, with the HParams table.

    It is a copy: the search stays as it is, and what it trains later is in the next export.
    """
    from pgsearch.cli.progress import data_progress
    from pgsearch.export.export import export as write
    from pgsearch.results import find_search

    ledger = find_search(search, results)
    with data_progress(what="exporting") as progress:
        num_trials = write(ledger, to, output, force=force, progress=progress, stage=stage.value)
    if as_json:
        typer.echo(json.dumps({"search": ledger.name, "trials": num_trials, "output": str(output)}))
        return
    typer.echo(f"{num_trials} trials of {ledger.name}: {output}")
    if to in COMMANDS:
        typer.echo(f"open it with {COMMANDS[to].format(shlex.quote(str(output)))}")
