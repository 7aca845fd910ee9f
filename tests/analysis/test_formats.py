"""Tables in every format: read back by another reader, with texts that mean harm."""

import csv
import html.parser
import io
import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pgsearch.analysis.formats import (
    MISSING,
    Cell,
    Table,
    as_csv,
    as_html,
    as_json,
    as_latex,
    as_markdown,
    missing,
    number,
    percent,
)
from pgsearch.analysis.latex import latex_text
from pgsearch.untrusted import visible

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3",
    "@SUM(A1)",
    "\t=1+1",
    "＝1+1",
    "a;=1+1",
    "a_b&c%d#e$f{g}h^i~j\\k",
    r"\input{/etc/passwd}",
    r"\end{table}\immediate\write18{ls}",
    "[3pt]",
    "*",
    "| a | b |",
    "**bold** [link](javascript:alert(1)) `code`",
    "\x1b[31mred\x07",
    "line\nbreak\r\n",
    "right\u202eto left",
    "``quoted'' -- --- ?` !` ,, << >>",
    "猫 кот ą é Ł ß λ1- λ1A- λ₂⁺ γ=2 ± × → … – – '",
    "$$x$$ $",
    "",
)
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=12))
values = st.one_of(st.none(), st.floats(), st.integers(-(10**6), 10**6), texts)
cells = st.one_of(
    st.builds(Cell, text=texts, bold=st.booleans()),
    st.builds(number, st.floats(-1e6, 1e6), std=st.one_of(st.none(), st.floats(0, 1e6))),
    st.just(missing()),
    st.builds(Cell, text=texts, value=values, details=st.dictionaries(texts, values, max_size=2)),
)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    columns = draw(st.lists(texts, min_size=1, max_size=4, unique=True))
    rows = draw(st.lists(st.tuples(*(cells for _ in columns)), max_size=4))
    notes = draw(st.lists(texts, max_size=2))
    left = frozenset(draw(st.sets(st.sampled_from(columns))))
    return Table(draw(texts), tuple(columns), tuple(rows), tuple(notes), left)


RESULT = Table(
    title="mAP in % on test",
    columns=("configuration", "n", "mAP total"),
    rows=(
        (Cell("BCE"), Cell("3", value=3), percent(0.5012, std=0.0228)),
        (Cell("PR(λ1A-,λ2+)"), Cell("1 of 3", value=1), percent(0.75125)),
        (Cell("PG | x"), Cell("0 of 3", value=0), percent(math.nan, std=math.nan)),
    ),
    notes=("left out: 1 FAIL",),
    text_columns=frozenset({"configuration"}),
)


def test_markdown() -> None:
    assert as_markdown(RESULT).splitlines() == [
        "mAP in % on test",
        "",
        "| configuration | n | mAP total |",
        "| --- | ---: | ---: |",
        "| BCE | 3 | 50.12 ± 2.28 |",
        "| PR(λ1A-,λ2+) | 1 of 3 | 75.12 |",
        "| PG \\| x | 0 of 3 | – |",
        "",
        "- left out: 1 FAIL",
    ]


def test_csv_has_numbers_in_columns_of_their_own_as_pandas_wants_them() -> None:
    frame = pd.read_csv(io.StringIO(as_csv(RESULT)))
    assert frame.columns.tolist() == ["configuration", "n", "mAP total", "mAP total std"]
    assert frame["n"].tolist() == [3, 1, 0]
    assert frame["mAP total"].tolist() == pytest.approx([50.12, 75.125, math.nan], nan_ok=True)
    assert frame["mAP total std"].tolist() == pytest.approx([2.28, math.nan, math.nan], nan_ok=True)


def test_json_says_null_where_a_number_is_missing() -> None:
    content = json.loads(as_json(RESULT))
    assert content["title"] == "mAP in % on test"
    assert content["notes"] == ["left out: 1 FAIL"]
    assert content["rows"][0]["mAP total"] == pytest.approx(50.12)
    assert content["rows"][2] == {
        "configuration": "PG | x", "n": 0, "mAP total": None, "mAP total std": None,
    }  # fmt: skip


def test_latex_writes_the_papers_factors_as_maths() -> None:
    assert latex_text("PR(λ1A-,λ2+)") == r"PR($\lambda_{1A}^{-}$,$\lambda_{2}^{+}$)"
    assert latex_text("λ1-.tail=2.4 λ0=2 γ=1") == (
        r"$\lambda_{1}^{-}$.tail=2.4 $\lambda_{0}$=2 $\gamma$=1"
    )
    assert latex_text("λ₁⁻") == r"$\lambda_{1}^{-}$"
    assert latex_text("12.3 ± 0.4 – a_b") == r"12.3 $\pm$ 0.4 \textendash{} a\_b"
    assert latex_text("café, cafe\u0301") == r"caf\'{e}, caf\'{e}"
    assert latex_text("-17.10") == "$-$17.10"
    assert latex_text("<a|b>") == "$<$a$|$b$>$"  # in OT1 they would print as ¡a—b¿
    assert latex_text("кот") == "{[}U+043A{]}{[}U+043E{]}{[}U+0442{]}"


def test_a_wide_table_of_latex_has_headers_of_several_lines() -> None:
    columns = ("method", *(f"tail {n}" for n in range(9)))
    table = Table("wide", columns, (tuple(Cell("1") for _ in columns),))
    assert r"\shortstack[r]{tail \\ 8} \\" in as_latex(table)
    assert r"method & \shortstack" in as_latex(table)


def test_percent_shows_two_decimals_and_keeps_the_rest() -> None:
    assert percent(0.57) == Cell("57.00", value=57.0)
    assert percent(0.123456, std=0.01).details == {"std": 1.0}
    assert percent(None) == percent(math.nan) == Cell(MISSING)
    assert number(2.0, 0).text == "2"


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="a column appears twice"):
        Table("t", ("a", "a"), ())
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table("t", ("a", "b"), ((Cell("1"),),))


@settings(max_examples=30)
@given(tables())
@example(Table("t", ("PG", "PG std"), ((number(1.0, std=0.1), number(2.0, std=0.2)),)))
def test_csv_read_back_runs_nothing(table: Table) -> None:
    rows = list(csv.reader(io.StringIO(as_csv(table)), strict=True))
    assert len(rows) == 1 + len(table.rows)
    width = len(rows[0])
    assert len(set(rows[0])) == width or any(t.startswith("'") for t in rows[0])
    for row in rows:
        assert len(row) == width
        for text in row:
            assert text == visible(text)
            is_number = re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", text) is not None
            assert is_number or not text.startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))


@settings(max_examples=30)
@given(tables())
def test_json_read_back(table: Table) -> None:
    text = as_json(table)
    assert text.isascii()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert len(content["rows"]) == len(table.rows)
    for record, row in zip(content["rows"], table.rows, strict=True):
        assert next(iter(record)) == table.columns[0]
        for column, cell in zip(table.columns, row, strict=True):
            if cell.value is None:
                assert record[column] == (None if cell.text == MISSING else cell.text)
            elif isinstance(cell.value, float) and not math.isfinite(cell.value):
                assert record[column] is None
            else:
                assert record[column] == cell.value


class Reader(html.parser.HTMLParser):
    """Which elements a browser would see, and what their text is."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: set[str] = set()
        self.attributes: set[str] = set()
        self.cells: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag in ("td", "th", "caption"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        if self.cells:
            self.cells[-1] += data


@settings(max_examples=30)
@given(tables())
def test_html_has_no_element_of_anybody_else(table: Table) -> None:
    reader = Reader(as_html(table))
    assert reader.elements <= {
        "table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "strong", "br",
    }  # fmt: skip
    assert reader.attributes <= {"scope", "class", "data-value", "colspan"}
    wanted = [table.title, *table.columns, *(cell.text for row in table.rows for cell in row)]
    assert [text.rstrip("\n") for text in reader.cells[: len(wanted)]] == [
        visible(text) for text in wanted
    ]


@settings(max_examples=30)
@given(tables())
def test_markdown_has_one_line_and_all_cells_per_row(table: Table) -> None:
    lines = as_markdown(table).split("\n")
    for line in lines[2 : 4 + len(table.rows)]:
        unescaped = re.sub(r"\\.", "", line)
        assert unescaped.count("|") == len(table.columns) + 1
        assert "<" not in unescaped
        assert "`" not in unescaped
        assert "[" not in unescaped


@settings(max_examples=30)
@given(tables())
def test_latex_holds_no_command_of_anybody_else(table: Table) -> None:
    text = as_latex(table)
    assert text.isascii()
    known = (
        r"begin|end|centering|caption|toprule|midrule|bottomrule|par|footnotesize|textbf|text\w+|"
        r"scriptsize|setlength|tabcolsep|shortstack|ldots|lambda|pm|times|cdot|leq|geq|neq|approx|"
        r"infty|to|leftarrow|uparrow|downarrow|circ|alpha|beta|gamma|delta|varepsilon|zeta|eta|"
        r"theta|iota|kappa|mu|nu|xi|pi|rho|varsigma|sigma|tau|upsilon|varphi|chi|psi|omega|Gamma|"
        r"Delta|Theta|Lambda|Sigma|Phi|Psi|Omega|S|dag|ddag|ss|ae|AE|oe|OE|o|O|l|L|i|[uvrHdcb]"
    )
    for command in re.findall(r"\\([A-Za-z]+)", text):
        assert re.fullmatch(known, command), command
    plain = re.sub(r"\\.", "", text)
    assert plain.count("{") == plain.count("}")
    assert "%" not in plain
    assert "#" not in plain
    assert plain.count("$") % 2 == 0


@pytest.mark.skipif(
    shutil.which("kpsewhich") is None
    or subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode != 0,
    reason="pdflatex with booktabs is not installed",
)
def test_latex_compiles_with_booktabs_alone(tmp_path: Path) -> None:
    every_letter = "".join(map(chr, [*range(0x20, 0x17F), *range(0x391, 0x3CA), 0x2020, 0x2070]))
    hostile = [*HOSTILE, *(every_letter[i : i + 40] for i in range(0, len(every_letter), 40))]
    rows = tuple((Cell(text, bold=i % 2 == 0), percent(0.5, std=0.1)) for i, text in
                 enumerate(hostile))  # fmt: skip
    table = Table(HOSTILE[9], ("[name]", "mAP total"), rows, HOSTILE, frozenset({"[name]"}))
    document = (
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\listoftables\n"
        + as_latex(RESULT)
        + as_latex(table)
        + "\\end{document}\n"
    )
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    command = [
        "pdflatex",
        "-interaction=nonstopmode",
        "-halt-on-error",
        "-no-shell-escape",
        "table",
    ]
    for _ in range(2):  # the list of tables is typeset the second time
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stdout[-2000:]
    log = (tmp_path / "table.log").read_text(encoding="utf-8", errors="replace")
    assert "Missing character" not in log
    assert "Output written on table.pdf" in log
