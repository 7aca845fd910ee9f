"""Frames as text: for a terminal, Markdown or CSV."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pgsearch.analysis.tables import PARTS, short_params
from pgsearch.config import SearchSpec

MISSING = "–"
TEXT_COLUMNS = ("search", "configuration", "parameters", "state", "class", "group")


def configurations(frame: pd.DataFrame, split: str, style: str) -> None:
    """Print configurations over their seeds, the best of each column in bold."""
    header = ["search", "configuration", "n", *(f"mAP {part}" for part in PARTS)]
    best = {part: frame[f"{part}.mean"].max() for part in PARTS}
    rows, bold = [], []
    for row in frame.to_dict("records"):
        on_test = "test" in str(row["selected_on"])
        rows.append(
            [
                str(row["search"]) + (" (selected on test)" if on_test else ""),
                str(row["label"]),
                str(row["n"]),
                *(_mean_and_std(row[f"{part}.mean"], row[f"{part}.std"]) for part in PARTS),
            ]
        )
        bold.append([False] * 3 + [row[f"{part}.mean"] == best[part] for part in PARTS])
    title = f"mAP in % on {split} after the last epoch, mean ± std over n seeds"
    _print(title, header, rows, bold, style)


def leaderboard(frame: pd.DataFrame, spec: SearchSpec, style: str) -> None:
    """Print the trials of a search, the best first."""
    header = ["trial", "state", "seed", "epoch"]
    header += (
        [f"val {part}" for part in PARTS] + [f"test {part}" for part in PARTS] + ["parameters"]
    )
    rows = []
    for row in frame.to_dict("records"):
        variant = f"{row['variant']} " if isinstance(row["variant"], str) else ""
        rows.append(
            [
                str(row["number"]),
                str(row["state"]),
                str(row["seed"]),
                MISSING if pd.isna(row["epoch"]) else f"{row['epoch']:.0f}",
                *(_percent(row[f"map.validation.{part}"]) for part in PARTS),
                *(_percent(row[f"map.test.{part}"]) for part in PARTS),
                variant + short_params(row["params"]),
            ]
        )
    objective = spec.objective[0]
    title = f"{spec.name}: mAP in %, best {objective.column} first"
    _print(title, header, rows, [[False] * len(header)] * len(rows), style)


def evaluation(facts: Mapping[str, Any]) -> None:
    """Print what a classifier is worth on one split, class by class."""
    header = ["class", "group", "positives", "AP"]
    rows = [
        [row["class"], row["group"], str(row["positives"]), _percent(row["ap"])]
        for row in facts["classes"]
    ]
    title = f"AP in % on {facts['images']} images of {facts['split']}"
    _print(title, header, rows, [[False] * len(header)] * len(rows), "terminal")
    parts = "  ".join(f"{part} {_percent(facts['map'][part])}" for part in PARTS)
    sys.stdout.write(f"mAP {parts}\n")
    f1 = "  ".join(f"{mean} {_percent(value)}" for mean, value in facts["f1"].items())
    sys.stdout.write(f"F1  {f1}  (labels of a probability above 1/2)\n")


def _print(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    bold: Sequence[Sequence[bool]],
    style: str,
) -> None:
    if style == "csv":
        pd.DataFrame(rows, columns=list(header)).to_csv(sys.stdout, index=False)
        return
    if style == "markdown":
        cells = [
            [f"**{c}**" if b else c.replace("|", "\\|") for c, b in zip(row, marks, strict=True)]
            for row, marks in zip(rows, bold, strict=True)
        ]
        lines = [f"{title}\n", " | ".join(header), " | ".join("---" for _ in header)]
        lines += [" | ".join(row) for row in cells]
        sys.stdout.write("\n".join(f"| {x} |" if i else x for i, x in enumerate(lines)) + "\n")
        return
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(header):
        longest = max(len(cells[i]) for cells in [header, *rows])
        if name in TEXT_COLUMNS:
            table.add_column(name, overflow="fold", min_width=min(20, longest))
        else:
            table.add_column(name, justify="right", no_wrap=True, min_width=longest)
    for row, marks in zip(rows, bold, strict=True):
        texts = [escape(cell) for cell in row]  # a name may hold brackets
        table.add_row(*(f"[bold]{t}[/]" if b else t for t, b in zip(texts, marks, strict=True)))
    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=1000)).minimum
    # A pipe or a file has no width to fit; and a number that is cut is worse than a long line.
    width = max(console.width if console.is_terminal else 200, needed)
    Console(width=width).print(table)


def _mean_and_std(mean: float, std: float) -> str:
    if pd.isna(mean):
        return MISSING
    return _percent(mean) if pd.isna(std) else f"{_percent(mean)} ± {100 * std:.2f}"


def _percent(value: float | None) -> str:
    return MISSING if value is None or pd.isna(value) else f"{100 * value:.2f}"
