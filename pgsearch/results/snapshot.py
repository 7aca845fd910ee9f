"""What was read of a ledger, kept on this machine, so that only what is new is read again.

A search of 2,000 trials has 4,000 Parquet files, and opening one takes about a millisecond. So rows
that were read and found sound are kept in the cache, in a few files, each row with the key and the
version of the file that it came from. A row counts only while the ledger still has that version.
Nothing depends on it: without a cache, or with a damaged one, everything is read from the ledger.
"""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pgsearch.cache_dir import LEDGERS, default_cache_dir
from pgsearch.results.schema import SCHEMA_VERSION
from pgsearch.results.storage import Tag

WORTHWHILE = 64
"""Files that are new; fewer are quicker read again than written."""
MAX_SEGMENTS = 8

_SOURCE = "pgsearch.source"


class Snapshot:
    """The kept rows of one table of one search.

    Args:
        url: of the table's folder, with which others share nothing.
    """

    def __init__(self, url: str) -> None:
        place = url if "://" in url else str(Path(url).resolve())
        # Another pgsearch judges for itself whether it knows the schema of a file.
        key = f"{SCHEMA_VERSION} {place}".encode("utf-8", "surrogateescape")
        self._folder = default_cache_dir() / LEDGERS / hashlib.sha256(key).hexdigest()

    def find(
        self, versions: Mapping[str, Tag], columns: Sequence[str] | None
    ) -> tuple[list[pa.Table], set[str]]:
        """Return the rows that are kept of files in these versions.

        Args:
            versions: of the files, by key.
            columns: those to return; None is all.

        Returns:
            Tables, which may lack columns that an older file has not, and the keys of the files
            whose rows they are.
        """
        wanted = {_source(key, tag): key for key, tag in versions.items()}
        tables: list[pa.Table] = []
        found: set[str] = set()
        for segment in self._segments():
            with contextlib.suppress(OSError, pa.ArrowException):  # damaged, or merged meanwhile
                table = _read(segment, columns)
                here = set(pc.unique(table[_SOURCE]).to_pylist()) & wanted.keys()
                kept = pa.array(sorted(here), pa.string())
                tables.append(table.filter(pc.is_in(table[_SOURCE], kept)).drop_columns([_SOURCE]))
                found |= {wanted.pop(source) for source in here}
                os.utime(segment)  # in use, says `pgsearch gc --cache`
        return tables, found

    def keep(self, versions: Mapping[str, Tag], tables: Mapping[str, pa.Table]) -> None:
        """Keep the rows of files that were read; a cache that cannot be written is no error.

        Args:
            versions: of all files of the table, by key; rows of other versions are dropped now
                and then.
            tables: what was read, by key.
        """
        segments = self._segments()
        rows = [
            table.append_column(_SOURCE, pa.repeat(_source(key, versions[key]), table.num_rows))
            for key, table in tables.items()
        ]
        with contextlib.suppress(OSError, pa.ArrowException):
            if len(segments) >= MAX_SEGMENTS:
                others = {key: tag for key, tag in versions.items() if key not in tables}
                rows += self._rows_of(others, segments)
            self._folder.mkdir(parents=True, exist_ok=True)
            _write(self._folder, pa.concat_tables(rows, promote_options="default"))
            if len(segments) >= MAX_SEGMENTS:
                for segment in segments:
                    segment.unlink(missing_ok=True)

    def _rows_of(self, versions: Mapping[str, Tag], segments: Sequence[Path]) -> list[pa.Table]:
        wanted = {_source(key, tag) for key, tag in versions.items()}
        tables = []
        for segment in segments:
            table = _read(segment, None)
            here = set(pc.unique(table[_SOURCE]).to_pylist()) & wanted
            wanted -= here
            tables.append(
                table.filter(pc.is_in(table[_SOURCE], pa.array(sorted(here), pa.string())))
            )
        return tables

    def _segments(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return sorted(self._folder.glob("[!.]*.parquet"))
        return []


def _source(key: str, tag: Tag) -> str:
    return f"{tag} {key}"


def _read(segment: Path, columns: Sequence[str] | None) -> pa.Table:
    file = pq.ParquetFile(segment, page_checksum_verification=True, pre_buffer=False)
    if columns is None:
        return file.read(use_threads=False)
    there = set(file.schema_arrow.names)
    return file.read([_SOURCE, *(c for c in columns if c in there)], use_threads=False)


def _write(folder: Path, table: pa.Table) -> None:
    name = f"{uuid.uuid4().hex}.parquet"
    temporary = folder / f".{name}.partial"
    try:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
        temporary.rename(folder / name)
    finally:
        temporary.unlink(missing_ok=True)
