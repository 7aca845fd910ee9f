"""Commands that train: `run` a search, `retry` its failed trials, `train` one configuration."""

import functools
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Overrides, Results, Search, SpecFile

if TYPE_CHECKING:
    from pgsearch.config import SearchSpec, TrialSpec
    from pgsearch.results import Ledger
    from pgsearch.search.run import Outcome, RunOptions

Address: TypeAlias = Annotated[
    str | None, typer.Option(help="Ray cluster; default RAY_ADDRESS, or this machine.")
]
Grace: TypeAlias = Annotated[
    float,
    typer.Option(min=0, help="Seconds that trials may take to checkpoint after a stop signal."),
]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
DEFAULT_GRACE = 25.0


def run(
    spec: SpecFile,
    overrides: Overrides = None,
    results: Results = DEFAULT_RESULTS,
    address: Address = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Configurations to try; more extend a search.")
    ] = None,
    fork: Annotated[
        str | None,
        typer.Option(
            metavar="NEW",
            help="Begin search NEW with this spec; it knows the finished trials of the search "
            "that has the spec's name.",
        ),
    ] = None,
    save_scores: Annotated[
        bool, typer.Option("--save-scores", help="Keep the best trials' scores of every image.")
    ] = False,
    grace: Grace = DEFAULT_GRACE,
    quiet: Quiet = False,
) -> None:
    """Run a search, or go on with it: the same command after any interruption.

    Every epoch of every trial is recorded in RESULTS/NAME before anything else happens. Ctrl-C,
    SIGTERM and SIGUSR1 let the trials checkpoint, in the middle of an epoch too, and end with exit
    code 75; a second one ends at once. Nothing recorded is lost either way.
    """
    from pgsearch.config import load_spec

    extended = [] if trials is None else [f"trials={trials}"]
    extended += ["save_scores=true"] if save_scores else []
    search = load_spec(spec, [*(overrides or []), *extended])

    from pgsearch.results import find_search
    from pgsearch.search.run import RunOptions

    source = None
    if fork is not None:
        source = find_search(search.name, results)
        search = load_spec(spec, [*(overrides or []), *extended, f"name={fork}"])
    options = RunOptions(address=address, grace_seconds=grace, fork_of=source)
    _run(search, results, options, quiet=quiet)


def retry(
    search: Search,
    trials: Annotated[
        list[int] | None,
        typer.Argument(metavar="TRIAL", help="Failed trials; default all.", show_default=False),
    ] = None,
    results: Results = DEFAULT_RESULTS,
    address: Address = None,
    grace: Grace = DEFAULT_GRACE,
    quiet: Quiet = False,
) -> None:
    """Run failed trials again, as new trials that name the old.

    With the same values and seeds. The failed ones stay as they are. Where a retry fails too it
    may be retried in turn. Paths in the spec are relative to the current folder, as for the first
    run.
    """
    from pgsearch.errors import UsageError
    from pgsearch.results import find_search
    from pgsearch.search.run import RunOptions

    ledger = find_search(search, results)
    spec = ledger.spec()
    if spec.name != ledger.name:
        raise UsageError(
            f"{ledger.url}: its folder was renamed from {spec.name}; name it so again to go on"
        )
    options = RunOptions(address=address, grace_seconds=grace, retry=trials or [])
    _run(spec, ledger.url.rpartition("/")[0] or "/", options, quiet=quiet)


def _run(search: "SearchSpec", results: str, options: "RunOptions", *, quiet: bool) -> None:
    from pgsearch.results import Ledger

    outcome = run_and_show(search, results, options, quiet=quiet)
    if search.save_scores and not outcome.interrupted:
        _say_whose_scores_are_missing(Ledger(outcome.url))
    raise typer.Exit(outcome.exit_code)


def run_and_show(
    search: "SearchSpec", results: str, options: "RunOptions", *, quiet: bool
) -> "Outcome":
    """Run a search, or go on with it, and show how it goes and how it ended."""
    from pgsearch.analysis.stages import lines
    from pgsearch.cli.progress import SearchProgress, data_progress
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
            options=options,
            data_progress=decoded,
            feature_progress=computed,
        )
    progress.summary(outcome, results)
    if search.stages is not None and not outcome.interrupted:
        for line in lines(Ledger(outcome.url)):
            progress.message(line)
    return outcome


def _say_whose_scores_are_missing(ledger: "Ledger") -> None:
    """Scores are written when a trial ends: those that had ended before have none."""
    kept = ledger.kept_checkpoints()
    for number in kept:
        if not ledger.scores_file(number).exists():
            typer.echo(
                f"no scores: trial {number} had ended before they were asked for; pgsearch "
                f"evaluate {ledger.checkpoint_file(number)} --save-scores FILE.parquet",
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
        str | None,
        typer.Option(help="Folder or URL for rows and checkpoint; resumes if it has them."),
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
    from pgsearch.search.inputs import prepare_data
    from pgsearch.training.fit import fit

    with (
        data_progress() as decoded,
        data_progress(what="computing features") as computed,
    ):
        prepare_data(search, decoded, computed, bases=[(variant, None)])
    if save is None:
        fit(trial, report=lambda record: print_epoch(record, trial.training.epochs))
        return
    _fit_into(Ledger(save), search, trial, with_scores=save_scores)


def _fit_into(
    ledger: "Ledger", search: "SearchSpec", trial: "TrialSpec", *, with_scores: bool
) -> None:
    """Train into a folder, from its checkpoint if it has one."""
    import threading

    from pgsearch.cli.progress import print_epoch
    from pgsearch.results import DriverLease, EpochRecord, EpochWriter
    from pgsearch.results.scores import write_scores
    from pgsearch.search.signals import StopSignals
    from pgsearch.training.best_epoch import best_epoch_of
    from pgsearch.training.checkpoint import Checkpoints
    from pgsearch.training.fit import fit

    stop = threading.Event()
    with StopSignals() as signals, DriverLease(ledger.storage) as lease:
        ledger.drive_as(lease.number)
        ledger.begin(search)
        writer = EpochWriter(ledger, trial, ledger.claim_attempt(trial.number))
        signals.stop_with(stop.set)

        def report(record: EpochRecord) -> None:
            is_new = writer.recorded(record.epoch) is None
            writer.append(record)
            if is_new:
                print_epoch(record, trial.training.epochs)

        fit(
            trial,
            report=report,
            checkpoints=Checkpoints(ledger.checkpoint_file(trial.number)),
            best_epoch=best_epoch_of(trial, ledger, search.best_by),
            save_scores=functools.partial(write_scores, ledger.scores_file(trial.number))
            if with_scores
            else None,
            should_stop=lambda: stop.is_set() or lease.lost is not None,
        )
    if with_scores:
        _say_whose_scores_are_missing(ledger)
