"""Tables on a terminal."""

import sys
from collections.abc import Mapping
from typing import Any, Final

import rich.table
from rich import box
from rich.console import Console
from rich.markup import escape

from pgsearch.analysis.formats import Cell, Table, percent
from pgsearch.class_groups import GROUPS
from pgsearch.untrusted import visible

WIDTH_OF_A_FILE: Final = 200
"""Columns where the output is no terminal and so has no width to fit."""


def table(content: Table) -> None:
    """Print a table, its title above and its notes below it."""
    shown = rich.table.Table(title=_text(content.title), title_justify="left", box=box.SIMPLE_HEAD)
    for place, name in enumerate(content.columns):
        longest = max(len(text) for text in [name, *(row[place].text for row in content.rows)])
        if name in content.text_columns:
            shown.add_column(_text(name), overflow="fold", min_width=min(20, longest))
        else:
            shown.add_column(_text(name), justify="right", no_wrap=True, min_width=longest)
    for row in content.rows:
        shown.add_row(*(f"[bold]{_text(c.text)}[/]" if c.bold else _text(c.text) for c in row))
    console = Console()
    needed = console.measure(shown, options=console.options.update(max_width=1000)).minimum
    # A pipe or a file has no width to fit; and a number that is cut is worse than a long line.
    width = max(console.width if console.is_terminal else WIDTH_OF_A_FILE, needed)
    console = Console(width=width, highlight=False)
    console.print(shown)
    for note in content.notes:
        console.print(f"  {_text(note)}")


def evaluation(facts: Mapping[str, Any]) -> None:
    """Print what a classifier is worth on one split, class by class."""
    rows = [
        (
            Cell(row["class"]),
            Cell(row["group"]),
            Cell(str(row["positives"])),
            percent(row["ap"]),
        )
        for row in facts["classes"]
    ]
    title = f"AP in % on {facts['images']} images of {facts['split']}"
    columns = ("class", "group", "positives", "AP")
    table(Table(title, columns, tuple(rows), text_columns=frozenset({"class", "group"})))
    parts = ("total", *GROUPS)
    maps = "  ".join(f"{part} {percent(facts['map'][part]).text}" for part in parts)
    sys.stdout.write(f"mAP {maps}\n")
    f1 = "  ".join(f"{mean} {percent(value).text}" for mean, value in facts["f1"].items())
    sys.stdout.write(f"F1  {f1}  (labels of a probability above 1/2)\n")


def _text(text: str) -> str:
    """Return a text that may be anybody's as markup that shows it as it is."""
    return escape(visible(text))
