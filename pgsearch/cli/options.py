"""Arguments and options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer


class Split(StrEnum):
    """Splits of a data set."""

    train = "train"
    validation = "validation"
    test = "test"


class StageName(StrEnum):
    """Stages of a search that has them."""

    screen = "screen"
    full = "full"


Stages: TypeAlias = Annotated[
    StageName, typer.Option("--stage", help="Whose trials, in a search with stages.")
]
SpecFile: TypeAlias = Annotated[
    Path, typer.Argument(metavar="SPEC", help="YAML file of the search.", show_default=False)
]
Overrides: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Changes to it, such as training.epochs=2.", show_default=False
    ),
]
Results: TypeAlias = Annotated[
    str,
    typer.Option(envvar="PGSEARCH_RESULTS", help="Folder of all searches, or URL (s3://…)."),
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Searches: TypeAlias = Annotated[
    list[str], typer.Argument(metavar="SEARCH...", help="Names of searches.", show_default=False)
]
Search: TypeAlias = Annotated[
    str, typer.Argument(metavar="SEARCH", help="Name of a search.", show_default=False)
]
DEFAULT_RESULTS = "results"
