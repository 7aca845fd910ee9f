"""Where a table goes: to the terminal, or as text of a format to the standard output or a file."""

import math
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

import typer

from pgsearch.errors import UsageError
from pgsearch.untrusted import visible

if TYPE_CHECKING:
    from pgsearch.analysis.formats import Table


class Split(StrEnum):
    """Splits that have a mAP."""

    test = "test"
    validation = "validation"


class Format(StrEnum):
    """How a table is written."""

    terminal = "terminal"
    markdown = "markdown"
    latex = "latex"
    csv = "csv"
    html = "html"
    json = "json"


Style: TypeAlias = Annotated[
    Format | None,
    typer.Option("--format", metavar="NAME", help=f"{', '.join(Format)}."),
]
Output: TypeAlias = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help=".md, .tex, .csv, .html or .json."),
]
_FORMAT_OF_SUFFIX: Final = {
    ".md": Format.markdown,
    ".tex": Format.latex,
    ".csv": Format.csv,
    ".html": Format.html,
    ".json": Format.json,
}


def chosen_format(style: Format | None, output: Path | None, *, as_json: bool) -> Format:
    """Return how to write a table.

    Args:
        style: what the user says.
        output: a file, whose suffix says it otherwise; None is the terminal.
        as_json: whether the rows alone are wanted, as JSON.

    Raises:
        UsageError: neither says how to write the file, or the options exclude each other.
    """
    if as_json and (style or output):
        raise UsageError("--json prints the rows alone; without it: --format json, --output FILE")
    if output is None or style not in (None, Format.terminal):
        return style or Format.terminal
    if style is None and output.suffix in _FORMAT_OF_SUFFIX:
        return _FORMAT_OF_SUFFIX[output.suffix]
    raise UsageError(
        f"--output {output}: how to write it? end it in {', '.join(_FORMAT_OF_SUFFIX)}, or say "
        "--format markdown, latex, csv, html or json"
    )


def write(table: "Table", style: Format, output: Path | None) -> None:
    """Write a table; title and notes, which CSV cannot hold, go to the standard error.

    Raises UsageError where the file cannot be written.
    """
    write_all([table], style, output)


def write_all(tables: Sequence["Table"], style: Format, output: Path | None) -> None:
    """Write several tables as `write` does one, with an empty line between them; JSON by lines."""
    if style is Format.terminal:
        from pgsearch.cli import render

        for table in tables:
            render.table(table)
        return
    between = "" if style is Format.json else "\n"
    text = between.join(_as_text(table, style) for table in tables)
    if output is None:
        sys.stdout.write(text)
    else:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--output {output}: cannot be written: {error.strerror}") from None
    if style is Format.csv:
        for table in tables:
            for line in (table.title, *table.notes):
                typer.echo(visible(line), err=True)


def _as_text(table: "Table", style: Format) -> str:
    from pgsearch.analysis import formats

    match style:
        case Format.markdown:
            return formats.as_markdown(table)
        case Format.latex:
            return formats.as_latex(table)
        case Format.csv:
            return formats.as_csv(table)
        case Format.html:  # right in a page of any encoding
            return formats.as_html(table).encode("ascii", "xmlcharrefreplace").decode()
        case _:
            return formats.as_json(table)


def plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Return a row of a frame for JSON: null for what is missing."""
    return {
        str(key): None if isinstance(value, float) and math.isnan(value) else value
        for key, value in row.items()
    }
