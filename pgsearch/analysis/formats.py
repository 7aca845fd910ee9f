"""A table as people and programs take it: Markdown, LaTeX, HTML, CSV, JSON.

Texts in a table may be anybody's (names of classes, variants, searches). In every format they show
as they are, and none of them is markup, a formula of a spreadsheet or a control of a terminal.
"""

import csv
import html
import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pgsearch.analysis.latex import latex_text
from pgsearch.untrusted import visible

MISSING: Final = "–"
"""What a cell without a number shows."""
BEGINS_A_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")
MAX_COLUMNS_OF_A_PAGE: Final = 8
"""In LaTeX's normal size; more are set small, under headers of several lines."""
MARKDOWN_SIGNS: Final = "\\`*_{}[]<>|~$&#"

Value = float | str | None


@dataclass(frozen=True)
class Cell:
    """One cell: what people read, and the value behind it for programs and for sorting."""

    text: str
    bold: bool = False
    value: Value = None
    """In the unit of the text, unrounded. None: the text itself; nothing, where it is `MISSING`."""
    details: Mapping[str, Value] = field(default_factory=dict)
    """What CSV and JSON give beside the value, by name, such as std and n."""


@dataclass(frozen=True)
class Table:
    """A table with its title and notes. Raises ValueError where rows or columns do not fit."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    text_columns: frozenset[str] = frozenset()
    """Columns that are aligned to the left."""

    def __post_init__(self) -> None:
        if len(set(self.columns)) < len(self.columns):
            raise ValueError(f"a column appears twice: {self.columns}")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row has {len(row)} cells for {len(self.columns)} columns")


def missing() -> Cell:
    """Return the cell of a number that is not there."""
    return Cell(MISSING)


def number(value: float | None, decimals: int = 2, *, std: float | None = None) -> Cell:
    """Return the cell of a number, or of a mean with its standard deviation where there is one.

    Args:
        value: None and NaN are missing.
        decimals: of the text.
        std: sample standard deviation; None or NaN: there is none, for n = 1.
    """
    if value is None or math.isnan(value):
        return missing()
    if std is None or math.isnan(std):
        return Cell(f"{value:.{decimals}f}", value=value)
    text = f"{value:.{decimals}f} ± {std:.{decimals}f}"
    return Cell(text, value=value, details={"std": std})


def percent(value: float | None, *, std: float | None = None) -> Cell:
    """Return the cell of a fraction in [0, 1], in % with two decimals."""
    # Rounded where the multiplication alone would show: 100 * 0.57 is 56.99999999999999.
    in_percent = None if value is None else round(100 * value, 12)
    return number(in_percent, std=None if std is None else round(100 * std, 12))


def as_markdown(table: Table) -> str:
    """Return a table of GitHub's Markdown, between its title and its notes."""
    header = [_markdown_text(column) for column in table.columns]
    rule = ["---" if column in table.text_columns else "---:" for column in table.columns]
    rows = [[_marked(cell, _markdown_text, "**{}**") for cell in row] for row in table.rows]
    lines = [_markdown_text(table.title), ""]
    lines += [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]
    if table.notes:
        lines += ["", *(f"- {_markdown_text(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _markdown_text(text: str) -> str:
    return "".join(f"\\{c}" if c in MARKDOWN_SIGNS else c for c in visible(text))


def as_latex(table: Table) -> str:
    r"""Return a `table` environment that compiles with plain pdflatex and `\usepackage{booktabs}`.

    A letter that pdflatex has no glyph for without further packages shows as its code, [U+732B].
    """
    sides = ["l" if column in table.text_columns else "r" for column in table.columns]
    header = [latex_text(column) for column in table.columns]
    is_wide = len(header) > MAX_COLUMNS_OF_A_PAGE
    if is_wide:
        header = [_of_several_lines(text, side) for text, side in zip(header, sides, strict=True)]
    rows = [[_marked(cell, latex_text, r"\textbf{{{}}}") for cell in row] for row in table.rows]
    lines = [
        r"\begin{table}",
        r"  \centering",
        *([r"  \scriptsize\setlength{\tabcolsep}{1.4pt}"] if is_wide else []),
        rf"  \caption{{{latex_text(table.title)}}}",
        rf"  \begin{{tabular}}{{@{{}}{''.join(sides)}@{{}}}}",
        r"    \toprule",
        rf"    {' & '.join(header)} \\",
        r"    \midrule",
        *(rf"    {' & '.join(row)} \\" for row in rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(rf"  \par\footnotesize {latex_text(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _of_several_lines(text: str, side: str) -> str:
    lines = text.replace(" ", r" \\ ")
    return text if lines == text else rf"\shortstack[{side}]{{{lines}}}"


def as_html(table: Table) -> str:
    """Return a `<table>`: title as its caption, notes as its foot, `data-value` for sorting."""
    kinds = ["text" if column in table.text_columns else "number" for column in table.columns]
    head = "".join(
        f'<th scope="col" class="{kind}">{_html_text(column)}</th>'
        for kind, column in zip(kinds, table.columns, strict=True)
    )
    lines = [f"<table>\n<caption>{_html_text(table.title)}</caption>"]
    lines += [f"<thead><tr>{head}</tr></thead>\n<tbody>"]
    for row in table.rows:
        cells = map(_html_cell, row, kinds)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append("</tbody>")
    if table.notes:
        notes = "<br>\n".join(map(_html_text, table.notes))
        lines.append(f'<tfoot><tr><td colspan="{len(table.columns)}">{notes}</td></tr></tfoot>')
    return "\n".join([*lines, "</table>"]) + "\n"


def _html_cell(cell: Cell, kind: str) -> str:
    value = _plain(cell.value)
    sort_by = "" if value is None else f' data-value="{_html_text(str(value))}"'
    return f'<td class="{kind}"{sort_by}>{_marked(cell, _html_text, "<strong>{}</strong>")}</td>'


def _html_text(text: str) -> str:
    return html.escape(visible(text))


def _marked(cell: Cell, escaped: Callable[[str], str], bold: str) -> str:
    return bold.format(escaped(cell.text)) if cell.bold else escaped(cell.text)


def as_csv(table: Table) -> str:
    """Return a header and the values, unrounded; each detail in a column of its own.

    Texts are quoted; one that a spreadsheet would run as a formula gets an apostrophe before it.
    Title and notes are left out: a reader of CSV takes every line for a row.
    """
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    writer.writerow([_csv_value(name) for _, _, name in _fields(table)])
    for record in _records(table):
        writer.writerow([_csv_value(value) for value in record.values()])
    return text.getvalue()


def _csv_value(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.startswith(BEGINS_A_FORMULA) else visible(value)


def as_json(table: Table) -> str:
    """Return an object with title, notes and rows: the values by column, null where missing."""
    content = {"title": table.title, "notes": list(table.notes), "rows": _records(table)}
    return json.dumps(content, allow_nan=False) + "\n"


def _records(table: Table) -> list[dict[str, Value]]:
    fields = _fields(table)
    return [
        {name: _value(row[place], detail) for place, detail, name in fields} for row in table.rows
    ]


def _fields(table: Table) -> list[tuple[int, str | None, str]]:
    """Return the columns, each followed by the details that any of its cells has.

    Each as its place, the detail (None is the value itself) and a name that no other has.
    """
    taken = set(table.columns)
    fields: list[tuple[int, str | None, str]] = []
    for place, column in enumerate(table.columns):
        fields.append((place, None, column))
        for detail in dict.fromkeys(name for row in table.rows for name in row[place].details):
            name = f"{column} {detail}"
            while name in taken:
                name += "'"
            taken.add(name)
            fields.append((place, detail, name))
    return fields


def _value(cell: Cell, detail: str | None) -> Value:
    if detail is not None:
        return _plain(cell.details.get(detail))
    return cell.text if cell.value is None and cell.text != MISSING else _plain(cell.value)


def _plain(value: Value) -> Value:
    """Return a value as JSON has it: no infinity, no NaN, no type of NumPy."""
    if value is None or isinstance(value, str | int):
        return value
    plain = value.item() if hasattr(value, "item") else value
    return plain if math.isfinite(plain) else None
