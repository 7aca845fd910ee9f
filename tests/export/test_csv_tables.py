import csv
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgsearch.export import Target
from pgsearch.export.csv_tables import as_cell
from pgsearch.export.export import export
from pgsearch.results import Ledger
from pgsearch.results.read import DamagedFileWarning
from tests.export.reference import HOSTILE, raw

TABLES = ("trials", "epochs")


@pytest.mark.parametrize("table", TABLES)
def test_every_value_is_as_the_parquet_has_it(
    all_states: Ledger, tmp_path: Path, table: str
) -> None:
    export(all_states, Target.csv, tmp_path / "csv")
    with (tmp_path / f"csv/{table}.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    rows = raw(Path(all_states.url) / table)
    assert len(records) == len(rows) > 5
    for record, row in zip(records, rows, strict=True):
        assert list(record) == list(row)
        for name, value in row.items():
            if name != "error":
                assert parsed(record[name], value) == value, name


def parsed(text: str, like: Any) -> Any:
    if like is None:
        return None if text == "" else text
    if isinstance(like, bool):
        return {"true": True, "false": False}[text]
    if isinstance(like, list):
        return json.loads(text)
    return datetime.fromisoformat(text) if isinstance(like, datetime) else type(like)(text)


def test_pandas_reads_it(all_states: Ledger, tmp_path: Path) -> None:
    export(all_states, Target.csv, tmp_path / "csv")
    frame = pd.read_csv(tmp_path / "csv/epochs.csv")
    assert frame["number"].dtype == "int64"
    assert frame["map.validation.total"].dtype == "float64"
    assert pd.isna(frame["p_neg.tail"]).all()


def test_hostile_texts_are_neither_formulas_nor_controls(
    all_states: Ledger, ablation: Ledger, tmp_path: Path
) -> None:
    export(all_states, Target.csv, tmp_path / "a")
    errors = pd.read_csv(tmp_path / "a/trials.csv")["error"].dropna().tolist()
    assert errors == [r"'=1+1 <b>\nno \x1b[31mmemory"]
    export(ablation, Target.csv, tmp_path / "b")
    variants = pd.read_csv(tmp_path / "b/trials.csv")["variant"].unique().tolist()
    assert variants == [f"'{name}" if name.startswith("=") else name for name in HOSTILE]


@given(st.text())
def test_no_text_begins_a_formula_or_moves_the_cursor(text: str) -> None:
    cell = as_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
    assert all(character >= " " and character != "\x7f" for character in cell)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_lists_stay_json(texts: list[str]) -> None:
    cell = as_cell(texts)
    assert json.loads(cell) == texts
    assert not {"\n", "\x1b", "\x9b", "\u202e"} & set(cell)


def test_damaged_files_are_left_out(damaged: Ledger, tmp_path: Path) -> None:
    with pytest.warns(DamagedFileWarning):
        export(damaged, Target.csv, tmp_path / "csv")
    assert pd.read_csv(tmp_path / "csv/trials.csv")["number"].tolist() == [0, 3, 4, 5]
    assert set(pd.read_csv(tmp_path / "csv/epochs.csv")["number"]) == {0, 1, 2, 3, 5}
