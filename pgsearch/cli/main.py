"""The command line: a file per group of commands; what one needs is imported when it runs."""

import sys
import warnings
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from pgsearch.cli import data, predict, read, run, spec, storage
from pgsearch.errors import EXIT_INTERNAL, EXIT_INTERRUPTED, PgsearchError
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
app.command("run")(run.run)
app.command("retry")(run.retry)
app.command("train")(run.train)
app.command("check")(spec.check)
app.command("plan")(spec.plan)
app.command("schema")(spec.schema)
app.command("evaluate")(predict.evaluate)
app.command("predict")(predict.predict)
app.command("status")(read.status)
app.command("table")(read.table)
app.command("best")(read.best)
app.command("verify")(storage.verify)
app.command("gc")(storage.gc)
app.command("doctor")(storage.doctor)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run the command line; an error of the user's is a message and an exit code."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        warnings.filterwarnings("always", message="left out: ")  # each damaged file is named
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


def _visible(message: Warning | BaseException | str) -> str:
    """Return a message's lines as a terminal shows them: names in it may be anybody's."""
    return "\n".join(map(visible, str(message).split("\n")))


def _show_warning(message: Warning | str, *_: Any) -> None:
    """Show what a user should know as one line, without the place in our code."""
    if not isinstance(message, DeprecationWarning | FutureWarning):
        Console(stderr=True, soft_wrap=True).print(
            f"[bold yellow]warning:[/] {escape(_visible(message))}", highlight=False
        )
