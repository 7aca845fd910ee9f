"""What was read of a ledger, in few files, so that only what is new is read again.

A search of 2,000 trials has 4,000 Parquet files, and opening one takes about a millisecond, on an
object store a round trip. So rows that were read and found sound are kept, each with the key and
the version of the file that it came from: in the cache of a machine, and, when a search has ended,
beside the results for every other machine. A row counts only while the ledger still has that
version. Nothing depends on it: where it is missing or damaged, everything is read from the ledger.
"""

import contextlib
import hashlib
import os
import uuid
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pgsearch.cache_dir import LEDGERS, default_cache_dir
from pgsearch.results.checksum import parquet_is_whole
from pgsearch.results.rows import as_parquet
from pgsearch.results.schema import SCHEMA_VERSION
from pgsearch.results.storage import Storage, StoredFile, Tag

WORTHWHILE: Final = 64
"""Files that are new; fewer are quicker read again than written."""
MAX_SEGMENTS: Final = 8
FOLDER: Final = "snapshot"
"""Of a ledger, in which each table has a file of the rows that were there when the search ended."""

SOURCE: Final = "pgsearch.source"
"""Column with key and version of the file that a row came from."""


def source(key: str, tag: Tag) -> str:
    """Return what a row that came from a file in a version has in the column SOURCE."""
    return f"{tag} {key}"


class Snapshot:
    """The kept rows of one table of one search.

    Args:
        storage: of the ledger.
        table: `trials` or `epochs`.
        columns: those that the rows are kept with; None is all.
    """

    def __init__(self, storage: Storage, table: str, columns: Sequence[str] | None = None) -> None:
        self._is_whole = columns is None
        self.beside = StoredFile(storage, f"{FOLDER}/{table}.parquet")
        url = f"{storage.url}/{table}"
        place = url if "://" in url else str(Path(url).resolve())
        # Another pgsearch judges for itself whether it knows the schema of a file.
        key = f"{SCHEMA_VERSION} {place}"
        if columns is not None:
            key += f" {sorted(columns)}"
        self._folder = default_cache_dir() / LEDGERS / _digest(key)

    def find(
        self, versions: Mapping[str, Tag], columns: Sequence[str] | None
    ) -> tuple[list[pa.Table], set[str]]:
        """Return the rows that are kept of files in these versions.

        Args:
            versions: of the files, by key.
            columns: those to return; None is all.

        Returns:
            Tables, which have SOURCE and may lack columns that an older file has not, and the keys
            of the files whose rows they are.
        """
        tables, found = self._find(versions, columns)
        if self._is_whole and len(versions) - len(found) >= WORTHWHILE and self._fetch():
            return self._find(versions, columns)
        return tables, found

    def keep(self, versions: Mapping[str, Tag], table: pa.Table) -> None:
        """Keep rows in the cache; one that cannot be written is no error.

        Args:
            versions: of all files of the table, by key; rows of other versions are dropped now
                and then.
            table: rows that were read, with SOURCE.
        """
        segments = self._segments()
        tables = [table]
        with contextlib.suppress(OSError, pa.ArrowException):
            if len(segments) >= MAX_SEGMENTS:
                new = set(pc.unique(table[SOURCE]).to_pylist())
                wanted = {source(key, tag) for key, tag in versions.items()} - new
                for segment in segments:
                    kept = _with_source(_read(segment, None), wanted)
                    wanted -= set(pc.unique(kept[SOURCE]).to_pylist())
                    tables.append(kept)
            table = pa.concat_tables(tables, promote_options="default")
            self._write(f"{uuid.uuid4().hex}.parquet", as_parquet(table, few_rows=False))
            if len(segments) >= MAX_SEGMENTS:
                for segment in segments:
                    segment.unlink(missing_ok=True)

    def _find(
        self, versions: Mapping[str, Tag], columns: Sequence[str] | None
    ) -> tuple[list[pa.Table], set[str]]:
        wanted = {source(key, tag): key for key, tag in versions.items()}
        tables: list[pa.Table] = []
        found: set[str] = set()
        for segment in self._segments():
            with contextlib.suppress(OSError, pa.ArrowException):  # damaged, or merged meanwhile
                table = _with_source(_read(segment, columns), wanted.keys())
                found |= {wanted.pop(one) for one in pc.unique(table[SOURCE]).to_pylist()}
                tables.append(table)
                os.utime(segment)  # in use, says `pgsearch gc --cache`
        return tables, found

    def _fetch(self) -> bool:
        """Take what lies beside the results into the cache; whether that was new and sound."""
        if (tag := self.beside.storage.tag(self.beside.key)) is None:
            return False
        name = f"{_digest(tag)[:32]}.parquet"
        with contextlib.suppress(OSError, pa.ArrowException):
            if (self._folder / name).exists() or (stored := self.beside.read()) is None:
                return False
            if parquet_is_whole(stored.data):
                metadata = pq.read_schema(pa.BufferReader(stored.data)).metadata or {}
                if int(metadata.get(b"pgsearch.schema_version", 0)) == SCHEMA_VERSION:
                    self._write(name, stored.data)
                    return True
        return False

    def _write(self, name: str, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f".{uuid.uuid4().hex}.partial"
        try:
            temporary.write_bytes(data)
            temporary.rename(self._folder / name)
        finally:
            temporary.unlink(missing_ok=True)

    def _segments(self) -> list[Path]:
        with contextlib.suppress(OSError):
            return sorted(self._folder.glob("[!.]*.parquet"))
        return []


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _with_source(table: pa.Table, wanted: Collection[str]) -> pa.Table:
    here = set(pc.unique(table[SOURCE]).to_pylist()) & set(wanted)
    return table.filter(pc.is_in(table[SOURCE], pa.array(sorted(here), pa.string())))


def _read(segment: Path, columns: Sequence[str] | None) -> pa.Table:
    file = pq.ParquetFile(segment, page_checksum_verification=True, pre_buffer=False)
    if columns is None:
        return file.read(use_threads=False)
    there = set(file.schema_arrow.names)
    return file.read([SOURCE, *(c for c in columns if c in there)], use_threads=False)
