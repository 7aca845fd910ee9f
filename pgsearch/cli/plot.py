"""`pgsearch plot`: the figures of searches as files for a paper, with the numbers behind each."""

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgsearch.cli.options import DEFAULT_RESULTS, Json, Results, Searches
from pgsearch.cli.write import Split
from pgsearch.untrusted import visible

if TYPE_CHECKING:
    from pgsearch.analysis.figures import Figure


class FigureFormat(StrEnum):
    """Files that a figure can be."""

    png = "png"
    svg = "svg"
    pdf = "pdf"


def plot(
    searches: Searches,
    results: Results = DEFAULT_RESULTS,
    figure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Draw only this; may be repeated.", show_default="all that apply"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Where to.", show_default="plots/SEARCH"
        ),
    ] = None,
    formats: Annotated[
        list[FigureFormat] | None,
        typer.Option(
            "--format", help="png, svg or pdf; may be repeated.", show_default=FigureFormat.png
        ),
    ] = None,
    split: Annotated[
        Split | None,
        typer.Option(help="Of mAP and AP.", show_default="what the search optimises"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw the figures of a search at paper size, each with its numbers as CSV.

    Figures: probability_curves, gradient_curves, adaptive_factors and ap_by_count, which lay
    several searches beside each other; class_map, learning_curves, history, parallel_coordinates,
    slices and pareto, of each search. Those that do not apply are listed with the reason. The same
    results give the same files.
    """
    from pgsearch.analysis.figures import NotDrawn, figures_of
    from pgsearch.cli.progress import data_progress
    from pgsearch.results import find_search

    ledgers = [find_search(name, results) for name in searches]
    folder = Path("plots") / "+".join(ledger.name for ledger in ledgers)
    folder = folder if output is None else output
    found = figures_of(ledgers, names=figure, split=None if split is None else split.value)
    drawn = [one for one in found if not isinstance(one, NotDrawn)]
    not_drawn = [one for one in found if isinstance(one, NotDrawn)]
    kinds = formats or [FigureFormat.png]
    files = {}
    with data_progress(what="drawing figures") as progress:
        for place, one in enumerate(drawn):
            progress(place, len(drawn))
            files[one.name] = _save(one, folder, kinds)
    if as_json:
        facts = {
            "figures": [
                {
                    "name": one.name,
                    "title": one.title,
                    "caption": one.caption,
                    "files": files[one.name],
                }
                for one in drawn
            ],
            "not_drawn": [{"name": one.name, "reason": one.reason} for one in not_drawn],
        }
        typer.echo(json.dumps(facts))
        return
    for one in drawn:
        _print(one, files[one.name])
    if not_drawn:
        typer.echo("not drawn:")
    for other in not_drawn:
        typer.echo(f"  {other.name}: {visible(other.reason)}")


def _save(figure: "Figure", folder: Path, kinds: Sequence[str]) -> list[str]:
    """Write a figure and its numbers; return the files."""
    from pgsearch.analysis.figures import save, save_numbers

    drawings = [folder / f"{figure.name}.{kind}" for kind in kinds]
    for path in drawings:
        save(figure, path)
    numbers = folder / f"{figure.name}.csv"
    save_numbers(figure, numbers)
    return [str(path) for path in (*drawings, numbers)]


def _print(figure: "Figure", files: Sequence[str]) -> None:
    typer.echo(", ".join(files))
    typer.echo(f"  {visible(figure.caption)}")
