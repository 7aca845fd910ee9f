"""Tables on a terminal."""

import itertools
import sys
from collections.abc import Mapping, Sequence
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
    """Print a table, its title above and its notes below it.

    On a terminal that is too narrow for its numbers it comes in parts, each with its leading texts.
    """
    console = Console(highlight=False)
    # A pipe or a file has no width to fit; and a number that is cut is worse than a long line.
    width = console.width if console.is_terminal else WIDTH_OF_A_FILE
    every = range(len(content.columns))
    parts = _parts(content, width) if console.is_terminal else [[*every]]
    for part in parts:
        shown = _shown(content, part, with_title=part is parts[0])
        Console(width=max(width, _least_width(shown)), highlight=False).print(shown)
    for note in content.notes:
        console.print(f"  {_text(note)}", soft_wrap=not console.is_terminal)


def _parts(content: Table, width: int) -> list[list[int]]:
    """Return the columns of each part: as many as fit, after the texts that lead."""
    every = range(len(content.columns))
    leading = [*itertools.takewhile(lambda i: content.columns[i] in content.text_columns, every)]
    parts = [[*leading]]
    for place in every[len(leading) :]:
        wider = [*parts[-1], place]
        is_first = len(parts[-1]) == len(leading)
        if is_first or _least_width(_shown(content, wider)) <= width:
            parts[-1] = wider
        else:
            parts.append([*leading, place])
    return parts


def _shown(content: Table, columns: Sequence[int], *, with_title: bool = False) -> rich.table.Table:
    title = _text(content.title) if with_title else None
    shown = rich.table.Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for place in columns:
        name = content.columns[place]
        longest = max(len(text) for text in [name, *(row[place].text for row in content.rows)])
        if name in content.text_columns:
            shown.add_column(_text(name), overflow="fold", min_width=min(20, longest))
        else:
            shown.add_column(_text(name), justify="right", no_wrap=True, min_width=longest)
    for row in content.rows:
        cells = [row[place] for place in columns]
        shown.add_row(*(f"[bold]{_text(c.text)}[/]" if c.bold else _text(c.text) for c in cells))
    return shown


def _least_width(shown: rich.table.Table) -> int:
    console = Console()
    return console.measure(shown, options=console.options.update(max_width=1000)).minimum


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
