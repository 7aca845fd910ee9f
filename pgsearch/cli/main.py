"""The command line: a file per group of commands; what one needs is imported when it runs."""

import sys
import warnings
from contextlib import AbstractContextManager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from pgsearch.cli import (
    cluster,
    compare,
    confirm,
    data,
    doctor,
    export,
    importance,
    jobs,
    plot,
    predict,
    read,
    run,
    spec,
    storage,
    table,
    web,
)
from pgsearch.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, PgsearchError
from pgsearch.progress import Progress, reading
from pgsearch.untrusted import visible

TYPER_INTERRUPTED = 130

app = typer.Typer(
    name="pgsearch",
    help="Search the factors of probability-guided losses for long-tailed multi-label images.",
    epilog="Exit codes: 0 done, 2 usage, 3 invalid spec, 4 data, 5 storage, 6 some trials failed, "
    "7 nothing completed, 75 interrupted (repeat the command to go on).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# In the order in which they are needed; each explains itself at length in its own help.
app.command("run", short_help="Run a search, or go on with it after any interruption.")(run.run)
app.command("retry", short_help="Run failed trials again, as new trials that name the old.")(
    run.retry
)
app.command("confirm", short_help="Train the best of a search again, with fresh seeds.")(
    confirm.confirm
)
app.command("train", short_help="Train one configuration in this process, without Ray.")(run.train)
app.command("check", short_help="Say all that is wrong with specs, before anything runs.")(
    spec.check
)
app.command("plan", short_help="Show what a search would do, and at what cost.")(spec.plan)
app.command("schema", short_help="Describe specs, for editors, or the columns of results.")(
    spec.schema
)
app.command("status", short_help="Show how a search stands.")(read.status)
app.command("table", short_help="Print mean ± std over seeds, beside the paper's numbers.")(
    table.table
)
app.command("best", short_help="Show the best configuration, or a spec that trains it again.")(
    read.best
)
app.command("compare", short_help="Compare configurations or methods, paired by seed.")(
    compare.compare
)
app.command("importance", short_help="Show which parameters mattered, and what each did.")(
    importance.importance
)
app.command("plot", short_help="Draw figures at paper size, with their numbers as CSV.")(plot.plot)
app.command("report", short_help="Write a report as one HTML file that needs no network.")(
    web.report
)
app.command("serve", short_help="Serve pages that follow the searches while they run.")(web.serve)
app.command("export", short_help="Write a search for Optuna, MLflow, TensorBoard or as CSV.")(
    export.export
)
app.command("evaluate", short_help="Score a trained classifier on a data set.")(predict.evaluate)
app.command("predict", short_help="Print the probability of every class for images.")(
    predict.predict
)
app.command("verify", short_help="Read every file with its checksum; repair.")(storage.verify)
app.command("gc", short_help="Show what nothing needs any more, and free it.")(storage.gc)
app.command("doctor", short_help="Try whether a storage, and a cluster, do what is needed.")(
    doctor.doctor
)
app.command("submit", short_help="Run a search on a Ray cluster, as a job.")(jobs.submit)
app.command("jobs", short_help="List the jobs of searches on a Ray cluster.")(jobs.jobs)
app.command("logs", short_help="Print what a job has printed; follow it.")(jobs.logs)
app.command("stop", short_help="Let a job's trials checkpoint, and end it.")(jobs.stop)
app.command("resume", short_help="Go on with a search as a new job.")(jobs.resume)
app.add_typer(data.app, name="data")
app.add_typer(cluster.app, name="cluster")


def main() -> None:
    """Run the command line; an error of the user's is a message and an exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        warnings.filterwarnings("always", message="left out: ")  # each damaged file is named
        reading.set(_reading_progress)
        _run()


def _run() -> None:
    try:
        app()
    except PgsearchError as error:
        console = Console(stderr=True, soft_wrap=True)
        console.print(f"[bold red]error:[/] {escape(_visible(error))}", highlight=False)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code != TYPER_INTERRUPTED:
            raise
        Console(stderr=True).print("interrupted; repeat the command to go on")
        sys.exit(EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted before anything was begun; repeat the command")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        sys.exit(EXIT_INTERNAL)


def _reading_progress() -> AbstractContextManager[Progress]:
    from pgsearch.cli.progress import data_progress  # where it is needed, pandas is there already

    return data_progress(what="reading results")


def _visible(message: Warning | BaseException | str) -> str:
    """Return a message's lines as a terminal shows them: names in it may be anybody's."""
    return "\n".join(map(visible, str(message).split("\n")))


def _show_warning(message: Warning | str, *_: Any) -> None:
    """Show what a user should know as one line, without the place in our code."""
    if not isinstance(message, DeprecationWarning | FutureWarning):
        Console(stderr=True, soft_wrap=True).print(
            f"[bold yellow]warning:[/] {escape(_visible(message))}", highlight=False
        )
