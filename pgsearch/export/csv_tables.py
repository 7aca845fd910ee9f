"""A search as two CSV files, for spreadsheets and programs without Parquet."""

import csv
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pgsearch.analysis.formats import BEGINS_A_FORMULA
from pgsearch.config.trial import Stage
from pgsearch.results import Ledger, read_epochs, read_trials
from pgsearch.untrusted import has_unseen, visible

FILES: Final = ("trials.csv", "epochs.csv")


def write(
    ledger: Ledger, folder: Path, progress: Callable[[int, int], None], stage: Stage = "full"
) -> int:
    """Write both tables with all their columns, of one stage, and return the number of trials.

    Numbers are unrounded, lists are JSON, times ISO 8601 in UTC; what is missing is empty. A text
    that a spreadsheet would run as a formula has an apostrophe before it.
    """
    tables = [read_trials(ledger), read_epochs(ledger)]
    folder.mkdir()
    num_rows = dict.fromkeys(FILES, 0)
    total, done = sum(table.num_rows for table in tables), 0
    for name, table in zip(FILES, tables, strict=True):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table.column_names)
            for batch in table.to_batches(max_chunksize=1000):
                for row in batch.to_pylist():
                    if row["stage"] in (None, stage):
                        num_rows[name] += 1
                        writer.writerow(map(as_cell, row.values()))
                done += batch.num_rows
                progress(done, total)
    return num_rows["trials.csv"]


def as_cell(value: Any) -> Any:
    """Return a value of the ledger as the `csv` module is to write it."""
    match value:
        case str():
            text = visible(value)
            return f"'{text}" if value.startswith(BEGINS_A_FORMULA) else text
        case bool():
            return str(value).lower()
        case list():
            text = json.dumps(value, ensure_ascii=False)
            return json.dumps(value) if has_unseen(text) else text
        case datetime():
            return value.isoformat()
        case _:
            return value
