"""Commands that show results in a browser: `report` and `serve`. Neither torch nor Ray."""

from pathlib import Path
from typing import Annotated

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Results, Searches

DEFAULT_PORT = 8700


def report(
    searches: Searches,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="HTML file to write.", dir_okay=False)
    ] = Path("report.html"),
    results: Results = DEFAULT_RESULTS,
) -> None:
    """Write a report of searches: one HTML file that needs no network.

    What was searched, the best configurations with specs that train them again, tables,
    comparisons, what mattered, figures, failures, cost and provenance. It is made from the results
    alone, so it may be written while a search runs.
    """
    from pgsearch.cli.progress import data_progress
    from pgsearch.results import find_search
    from pgsearch.results.local_storage import replace_file
    from pgsearch.web.report import report as report_of

    ledgers = [find_search(name, results) for name in searches]
    with data_progress(what="drawing figures") as progress:
        data = report_of(ledgers, progress=progress).encode("utf-8", "backslashreplace")
    replace_file(output, lambda file: file.write(data), len(data))
    typer.echo(f"{output}: {len(data) / 1e6:.1f} MB")


def serve(
    results: Annotated[
        str,
        typer.Argument(envvar="PGSEARCH_RESULTS", help="Folder of all searches, or URL (s3://…)."),
    ] = DEFAULT_RESULTS,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any that is free.")] = (
        DEFAULT_PORT
    ),
    token: Annotated[
        str | None,
        typer.Option(
            envvar="PGSEARCH_TOKEN",
            help="Secret that readers must bring. On another address than this machine's own one "
            "is made up if none is given.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Serve pages of the searches, which follow them while they run; read-only.

    Without --host only this machine can read them. On another address each reader needs the token,
    which is in the URL that is printed; there is no encryption, so in a network that others can
    listen to, forward the port instead: ssh -L 8700:127.0.0.1:8700 HOST. Every page has a twin in
    JSON, described in /openapi.json. Ctrl-C ends it.
    """
    from pgsearch.web.serve import serve as serve_pages

    serve_pages(results, host=host, port=port, token=token, announce=typer.echo)
