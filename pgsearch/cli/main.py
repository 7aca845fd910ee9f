"""The command line: a file per group of commands; what one needs is imported when it runs."""

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

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
_COMMANDS: Final[Mapping[str, Sequence[tuple[Callable[..., None], str]]]] = {
    "Search": (
        (run.run, "Run a search, or go on with it after any interruption."),
        (run.retry, "Run failed trials again, as new trials that name the old."),
        (confirm.confirm, "Train the best of a search again, with fresh seeds."),
        (run.train, "Train one configuration in this process, without Ray."),
        (spec.check, "Say all that is wrong with specs, before anything runs."),
        (spec.plan, "Show what a search would do, and at what cost."),
        (spec.schema, "Describe specs, for editors, or the columns of results."),
    ),
    "Search on a Ray cluster": (
        (jobs.submit, "Run a search as a job that outlives this terminal."),
        (jobs.jobs, "List the jobs of searches."),
        (jobs.logs, "Print what a job has printed; follow it."),
        (jobs.stop, "Let a job's trials checkpoint, and end it."),
        (jobs.resume, "Go on with a search as a new job."),
    ),
    "Read results": (
        (read.status, "Show how a search stands."),
        (table.table, "Print mean ± std over seeds, beside the paper's numbers."),
        (read.best, "Show the best configuration, or a spec that trains it again."),
        (compare.compare, "Compare configurations or methods, paired by seed."),
        (importance.importance, "Show which parameters mattered, and what each did."),
        (plot.plot, "Draw figures at paper size, with their numbers as CSV."),
        (web.report, "Write a report as one HTML file that needs no network."),
        (web.serve, "Serve pages that follow the searches while they run."),
        (export.export, "Write a search for Optuna, MLflow, TensorBoard or as CSV."),
        (predict.evaluate, "Score a trained classifier on a data set."),
        (predict.predict, "Print the probability of every class for images."),
    ),
    "Look after it": (
        (doctor.doctor, "Try whether a storage, and a cluster, do what is needed."),
        (storage.verify, "Read every file with its checksum; repair."),
        (storage.gc, "Show what nothing needs any more, and free it."),
    ),
}
for _panel, _commands in _COMMANDS.items():
    for _command, _short_help in _commands:
        app.command(short_help=_short_help, rich_help_panel=_panel)(_command)
app.add_typer(cluster.app, name="cluster", rich_help_panel="Search on a Ray cluster")
app.add_typer(data.app, name="data", rich_help_panel="Look after it")


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
