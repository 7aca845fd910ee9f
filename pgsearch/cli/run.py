"""Commands that train: `run` a search, `train` one configuration."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Overrides, Results, SpecFile

if TYPE_CHECKING:
    from pgsearch.config import SearchSpec, TrialSpec
    from pgsearch.results import Ledger


def run(
    spec: SpecFile,
    overrides: Overrides = None,
    results: Results = DEFAULT_RESULTS,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster; default RAY_ADDRESS, or this machine.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Configurations to try; more extend a search.")
    ] = None,
    save_scores: Annotated[
        bool, typer.Option("--save-scores", help="Keep the best trials' scores of every image.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
) -> None:
    """Run a search, or go on with it: the same command after any interruption.

    Every epoch of every trial is recorded in RESULTS/NAME before anything else happens. Ctrl-C
    stops cleanly; a second one at once. Nothing recorded is lost either way.
    """
    from pgsearch.cli.progress import SearchProgress, data_progress
    from pgsearch.config import load_spec

    extended = [] if trials is None else [f"trials={trials}"]
    extended += ["save_scores=true"] if save_scores else []
    search = load_spec(spec, [*(overrides or []), *extended])

    from pgsearch.results import Ledger
    from pgsearch.search.run import run_search

    with (
        SearchProgress(search, quiet=quiet) as progress,
        data_progress(quiet=quiet) as decoded,
        data_progress(quiet=quiet, what="computing features") as computed,
    ):
        outcome = run_search(
            search,
            results,
            listener=progress,
            address=address,
            data_progress=decoded,
            feature_progress=computed,
        )
    progress.summary(outcome, results)
    if search.save_scores and not outcome.interrupted:
        _say_whose_scores_are_missing(Ledger(outcome.folder))
    raise typer.Exit(outcome.exit_code)


def _say_whose_scores_are_missing(ledger: "Ledger") -> None:
    """Scores are written when a trial ends: those that had ended before have none."""
    kept = sorted((ledger.folder / "checkpoints").glob("[0-9]*.pt"))
    missing = [path for path in kept if not ledger.scores_file(int(path.stem)).exists()]
    for path in missing:
        typer.echo(
            f"no scores: trial {int(path.stem)} had ended before they were asked for; "
            f"pgsearch evaluate {path} --save-scores FILE.parquet",
            err=True,
        )
    if not kept:
        typer.echo("no scores: no checkpoint is kept (keep_checkpoints)", err=True)


def train(
    spec: SpecFile,
    overrides: Overrides = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the training.")] = 0,
    variant: Annotated[str | None, typer.Option(help="Variant of a grid to train.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for rows and checkpoint; resumes if it has them.")
    ] = None,
    save_scores: Annotated[
        bool, typer.Option("--save-scores", help="With --save: also the scores of every image.")
    ] = False,
) -> None:
    """Train the base configuration of a spec once, in this process, without Ray.

    The same code as in a search; each epoch is printed as a line. With --save, epochs and
    checkpoint go to a folder, and the same command goes on after an interruption.
    """
    from pgsearch.cli.progress import data_progress, print_epoch
    from pgsearch.config import load_spec
    from pgsearch.errors import UsageError

    search = load_spec(spec, [*(overrides or []), f"seeds=[{seed}]"])
    if variant is not None and variant not in search.variants:
        known = ", ".join(search.variants) or "none"
        raise UsageError(f"--variant {variant}: the spec has no such variant; it has: {known}")
    if save_scores and save is None:
        raise UsageError("--save-scores needs --save FOLDER, where the scores go")
    trial = search.trial(0, {}, variant)

    from pgsearch.results import Ledger
    from pgsearch.search.run import prepare_data
    from pgsearch.training.fit import fit

    with (
        data_progress() as decoded,
        data_progress(what="computing features") as computed,
    ):
        prepare_data(search, decoded, computed, variants=[variant])
    if save is None:
        fit(trial, report=lambda record: print_epoch(record, trial.training.epochs))
        return
    _fit_into(Ledger(save.resolve()), search, trial, with_scores=save_scores)


def _fit_into(
    ledger: "Ledger", search: "SearchSpec", trial: "TrialSpec", *, with_scores: bool
) -> None:
    """Train into a folder, from its checkpoint if it has one."""
    from pgsearch.cli.progress import print_epoch
    from pgsearch.results import DriverLock, EpochRecord, EpochWriter
    from pgsearch.results.scores import write_scores
    from pgsearch.training.checkpoint import Checkpoints
    from pgsearch.training.fit import fit

    with DriverLock(ledger.folder):
        ledger.begin(search)
        writer = EpochWriter(ledger, trial, ledger.claim_attempt(trial.number))

        def report(record: EpochRecord) -> None:
            writer.append(record)
            print_epoch(record, trial.training.epochs)

        fit(
            trial,
            report=report,
            checkpoints=Checkpoints(ledger.checkpoint_file(trial.number)),
            save_scores=functools.partial(write_scores, ledger.scores_file(trial.number))
            if with_scores
            else None,
        )
    if with_scores:
        _say_whose_scores_are_missing(ledger)
