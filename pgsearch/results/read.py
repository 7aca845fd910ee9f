"""Reading results: a search by name or place, its tables as Arrow, without what is damaged."""

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from pgsearch.errors import UsageError
from pgsearch.results.ledger import Ledger
from pgsearch.results.rows import DamagedFile, read_table
from pgsearch.results.schema import epoch_schema, trial_schema
from pgsearch.results.storage import StoredFile, open_storage


class DamagedFileWarning(UserWarning):
    """A file of the results is damaged and was left out."""


def find_search(name: str, results: str | Path) -> Ledger:
    """Return the ledger of a search, by its name in `results` or by its own place.

    Raises UsageError naming the searches that are there.
    """
    storage = open_storage(results)
    for place in (storage.at(name), name):
        if (ledger := Ledger(place)).exists:
            return ledger
    known = searches(results)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known) or 'none'}"
    raise UsageError(f"no search {name!r} in {storage.url}/; {hint}")


def searches(results: str | Path) -> list[str]:
    """Return the names of all searches in `results`."""
    keys = (entry.key.split("/") for entry in open_storage(results).entries())
    return sorted(parts[0] for parts in keys if parts[1:] == ["search.json"])


def read_epochs(ledger: Ledger) -> pa.Table:
    """Return all recorded epochs, by trial and epoch; a damaged file is left out with a warning."""
    return _read(
        ledger.files("epochs"), epoch_schema(), [("number", "ascending"), ("epoch", "ascending")]
    )


def read_trials(ledger: Ledger) -> pa.Table:
    """Return one row per trial, by number; a damaged file is left out with a warning."""
    return _read(ledger.files("trials"), trial_schema(), [("number", "ascending")])


def _read(files: Sequence[StoredFile], schema: pa.Schema, order: list[tuple[str, str]]) -> pa.Table:
    tables = [schema.empty_table()]
    for file in files:
        try:
            found = read_table(file)
        except DamagedFile as error:
            warnings.warn(f"left out: {error}", DamagedFileWarning, stacklevel=3)
        else:
            tables += [found[0]] if found else []
    # An older file lacks the columns that came later: they read as null.
    return pa.concat_tables(tables, promote_options="default").sort_by(order)
