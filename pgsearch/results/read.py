"""Reading results: a search by name or place, its tables as Arrow, without what is damaged."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa

from pgsearch.errors import UsageError
from pgsearch.progress import reading
from pgsearch.results.fetch import fetch
from pgsearch.results.ledger import Ledger
from pgsearch.results.rows import DamagedFile, as_parquet, parse_table
from pgsearch.results.schema import USUAL_COLUMNS, epoch_schema, trial_schema
from pgsearch.results.snapshot import SOURCE, WORTHWHILE, Snapshot, source
from pgsearch.results.storage import StoredFile, Tag, open_storage

TOGETHER = 16
"""Files whose rows are put together while the others are read."""


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
            rows = [schema.empty_table(), *_rows(ledger, name, versions, None)]
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
    rows = _rows(ledger, name, ledger.versions(name), wanted)
    # An older file lacks the columns that came later: they read as null.
    tables = [schema.empty_table(), *(table.drop_columns([SOURCE]) for table in rows)]
    if wanted is not None:
        tables = [t.select([c for c in wanted if c in t.schema.names]) for t in tables]
    table = pa.concat_tables(tables, promote_options="default")
    table = table.sort_by([(column, "ascending") for column in order])
    return table if columns is None else table.select(list(columns))


def _rows(
    ledger: Ledger, name: str, versions: Mapping[str, Tag], columns: Sequence[str] | None
) -> list[pa.Table]:
    """Return the rows of a table, with SOURCE; they may have more columns than are asked for.

    The usual columns are read and kept by themselves, in half the time: whoever asks for others
    reads the files again, once, with all their columns.
    """
    kept = Snapshot(ledger.storage, name)
    read: Sequence[str] | None = None
    tables, known = kept.find(versions, columns)
    if columns is not None and set(columns) <= set(USUAL_COLUMNS[name]):
        read, kept = USUAL_COLUMNS[name], Snapshot(ledger.storage, name, USUAL_COLUMNS[name])
        missing = {key: tag for key, tag in versions.items() if key not in known}
        more, known_too = kept.find(missing, columns)
        tables, known = [*tables, *more], known | known_too
    new = [StoredFile(ledger.storage, key) for key in versions if key not in known]
    found = _read_files(new, read)
    if len(new) >= WORTHWHILE and found:
        kept.keep(versions, pa.concat_tables(found, promote_options="default"))
    return [*tables, *found]


def _read_files(files: Sequence[StoredFile], columns: Sequence[str] | None) -> list[pa.Table]:
    """Return the rows of files that are sound, with SOURCE."""
    tables: list[pa.Table] = []
    rows: list[pa.Table] = []
    progress = reading.get() if len(files) >= WORTHWHILE else None
    with progress() if progress else nullcontext() as told:
        for done, (file, stored) in enumerate(fetch(files)):
            if done % TOGETHER == 0:
                tables, rows = [*tables, *_together(rows)], []
                if told is not None:
                    told(done, len(files))
            if stored is None:
                continue
            try:
                table = parse_table(file, stored.data, columns)
            except DamagedFile as error:
                warnings.warn(f"left out: {error}", DamagedFileWarning, stacklevel=5)
            else:
                origin = pa.repeat(source(file.key, stored.tag), table.num_rows)
                rows.append(table.append_column(SOURCE, origin))
    return [*tables, *_together(rows)]


def _together(tables: Sequence[pa.Table]) -> list[pa.Table]:
    """Return tables as one, or none: many of a row or two would take ten times their memory."""
    if not tables:
        return []
    return [pa.concat_tables(tables, promote_options="default").combine_chunks()]
