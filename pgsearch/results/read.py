"""Reading results: a search by name or path, its tables as Arrow."""

import difflib
from pathlib import Path

import pyarrow as pa

from pgsearch.errors import UsageError
from pgsearch.results.ledger import Ledger, read_table
from pgsearch.results.schema import epoch_schema, trial_schema


def find_search(name: str, results: Path) -> Ledger:
    """Return the ledger of a search, by its name in the `results` folder or by its own folder.

    Raises UsageError naming the searches that are there.
    """
    for folder in (results / name, Path(name)):
        if (ledger := Ledger(folder)).exists:
            return ledger
    known = sorted(p.parent.name for p in results.glob("*/search.json"))
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known) or 'none'}"
    raise UsageError(f"no search {name!r} in {results}/; {hint}")


def read_epochs(ledger: Ledger) -> pa.Table:
    """Return all recorded epochs, by trial and epoch. Raises StorageError naming a damaged file."""
    return _read(
        ledger.files("epochs"), epoch_schema(), [("number", "ascending"), ("epoch", "ascending")]
    )


def read_trials(ledger: Ledger) -> pa.Table:
    """Return one row per trial, by number. Raises StorageError naming a damaged file."""
    return _read(ledger.files("trials"), trial_schema(), [("number", "ascending")])


def _read(files: list[Path], schema: pa.Schema, order: list[tuple[str, str]]) -> pa.Table:
    tables = [schema.empty_table(), *(read_table(path) for path in files)]
    # An older file lacks the columns that came later: they read as null.
    return pa.concat_tables(tables, promote_options="default").sort_by(order)
