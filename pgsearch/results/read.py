"""Reading results: a search by name or place, its tables as Arrow, without what is damaged."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa

from pgsearch.errors import UsageError
from pgsearch.progress import reading
from pgsearch.results.ledger import Ledger
from pgsearch.results.rows import DamagedFile, as_parquet, parse_table
from pgsearch.results.schema import epoch_schema, trial_schema
from pgsearch.results.snapshot import SOURCE, WORTHWHILE, Snapshot, source
from pgsearch.results.storage import StoredFile, Tag, open_storage

AT_ONCE = 16
"""Files that are fetched side by side."""


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


def read_epochs(ledger: Ledger, columns: Sequence[str] | None = None) -> pa.Table:
    """Return all recorded epochs, by trial and epoch; a damaged file is left out with a warning.

    Args:
        ledger: of the search.
        columns: those to read, which is quicker for few; None is all.
    """
    return _read(ledger, "epochs", epoch_schema(), ("number", "epoch"), columns)


def read_trials(ledger: Ledger, columns: Sequence[str] | None = None) -> pa.Table:
    """Return one row per trial, by number; a damaged file is left out with a warning.

    Args:
        ledger: of the search.
        columns: those to read, which is quicker for few; None is all.
    """
    return _read(ledger, "trials", trial_schema(), ("number",), columns)


def keep_beside(ledger: Ledger) -> None:
    """Keep all rows in one file per table beside the results, if they are many.

    A machine that has not read them yet then opens two files instead of thousands. To be called
    where nothing writes any more; rows that do not come from the newest version of their file do
    not count, so a file that is changed after all is read from the ledger.

    Raises StorageError where it cannot be written.
    """
    for name, schema in (("trials", trial_schema()), ("epochs", epoch_schema())):
        versions = ledger.versions(name)
        snapshot = Snapshot(ledger.storage, name)
        if len(versions) >= WORTHWHILE:
            rows = [schema.empty_table(), *_rows(snapshot, ledger, versions, None)]
            table = pa.concat_tables(rows, promote_options="default")
            snapshot.beside.write(as_parquet(table, few_rows=False))


def _read(
    ledger: Ledger,
    name: str,
    schema: pa.Schema,
    order: Sequence[str],
    columns: Sequence[str] | None,
) -> pa.Table:
    wanted = None if columns is None else list(dict.fromkeys([*columns, *order]))
    snapshot = Snapshot(ledger.storage, name)
    rows = _rows(snapshot, ledger, ledger.versions(name), wanted)
    # An older file lacks the columns that came later: they read as null.
    tables = [schema.empty_table(), *(table.drop_columns([SOURCE]) for table in rows)]
    if wanted is not None:
        tables = [t.select([c for c in wanted if c in t.schema.names]) for t in tables]
    table = pa.concat_tables(tables, promote_options="default")
    table = table.sort_by([(column, "ascending") for column in order])
    return table if columns is None else table.select(list(columns))


def _rows(
    snapshot: Snapshot, ledger: Ledger, versions: Mapping[str, Tag], columns: Sequence[str] | None
) -> list[pa.Table]:
    """Return the rows of a table, with SOURCE; those that are read have all columns."""
    tables, known = snapshot.find(versions, columns)
    new = [StoredFile(ledger.storage, key) for key in versions if key not in known]
    read = _read_files(new)
    if len(new) >= WORTHWHILE and read:
        snapshot.keep(versions, pa.concat_tables(read, promote_options="default"))
    return [*tables, *read]


def _read_files(files: Sequence[StoredFile]) -> list[pa.Table]:
    """Return the rows of files that are sound, with SOURCE."""
    tables = []
    progress = reading.get() if len(files) >= WORTHWHILE else None
    with progress() if progress else nullcontext() as told, ThreadPoolExecutor(AT_ONCE) as pool:
        for start in range(0, len(files), AT_ONCE):
            some = files[start : start + AT_ONCE]
            if told is not None:
                told(start, len(files))
            rows = []
            # Of an object store each takes a round trip; reading what was fetched is no work for
            # threads, which would get into each other's way.
            for file, stored in zip(some, pool.map(StoredFile.read, some), strict=True):
                if stored is None:
                    continue
                try:
                    table = parse_table(file, stored.data)
                except DamagedFile as error:
                    warnings.warn(f"left out: {error}", DamagedFileWarning, stacklevel=5)
                else:
                    origin = pa.repeat(source(file.key, stored.tag), table.num_rows)
                    rows.append(table.append_column(SOURCE, origin))
            if rows:  # many tables of a row or two would take ten times their memory
                together = pa.concat_tables(rows, promote_options="default")
                tables.append(together.combine_chunks())
    return tables
