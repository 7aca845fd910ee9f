"""Tables on terminals of any width: every number whole, every row named."""

import re

import pytest

from pgsearch.analysis.formats import Cell, Table
from pgsearch.cli import render

COLUMNS = ("method", "n", *(f"column {i}" for i in range(9)))
ROWS = tuple(
    (Cell(method), *(Cell(f"{place}{place}.{row}5") for place in range(10)))
    for row, method in enumerate(("ERM", "RS", "PG"))
)
CONTENT = Table(
    "A title", COLUMNS, ROWS, ("a note of " + "many words " * 20,), frozenset({"method"})
)


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    render.table(CONTENT)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()


@pytest.mark.parametrize("width", [30, 40, 57, 80, 120, 300])
def test_a_terminal_shows_all_numbers_in_parts_that_fit(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", str(width))
    lines = printed(capsys)
    assert max(map(len, lines)) <= width
    for row in ROWS:
        mine = " ".join(line for line in lines if line.split()[:1] == [row[0].text]).split()
        assert mine.count(row[0].text) == sum("─" in line for line in lines)  # in each part
        assert [word for word in mine if word != row[0].text] == [cell.text for cell in row[1:]]
    assert sum("A title" in line for line in lines) == 1
    assert (width < 120) == (sum("─" in line for line in lines) > 1)


def test_a_file_gets_one_table_however_wide(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    lines = printed(capsys)
    assert sum("─" in line for line in lines) == 1
    assert any(line.endswith("many words ") and len(line) > 200 for line in lines)


def test_a_number_that_alone_is_too_wide_is_not_cut(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "10")
    assert any(line.split() == ["PG", "99.25"] for line in printed(capsys))
