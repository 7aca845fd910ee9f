"""Where an export goes: nothing is overwritten unasked, and what is there is whole.

It is written into a hidden folder beside its place, `.NAME.….part`, and renamed. A kill leaves at
most that folder, which nothing reads.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from pgsearch.errors import StorageError, UsageError

SQLITE_SIDECARS = ("-journal", "-wal")


@contextlib.contextmanager
def whole(place: Path, *, force: bool, files: Collection[str] | None) -> Iterator[Path]:
    """Yield where to write; it comes to `place` when the block ends, unless it ends in an error.

    Args:
        place: where the export will be.
        force: replace what is there, if it is an export of this kind.
        files: names of the files that a folder of this kind holds, at any depth; None: the export
            is one SQLite file.

    Raises:
        UsageError: `place` is taken, in a search or not local.
        StorageError: it cannot be written.
    """
    _require_free(place, force=force, files=files)
    place = place.resolve()  # `.` and `..` have no name to go by
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{place.name}.", suffix=".part", dir=place.parent))
        try:
            new = scratch / place.name
            yield new
            _require_free(place, force=force, files=files)  # it took a while
            if place.is_dir():  # a folder that is not empty cannot be replaced at once
                place.rename(scratch / f"{place.name}.old")
            new.replace(place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise StorageError(
            f"{place}: cannot be written ({error.strerror or error}); free space there, or choose "
            "another --output"
        ) from error


def _require_free(place: Path, *, force: bool, files: Collection[str] | None) -> None:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)):
        raise UsageError(f"{place}: an export goes to this machine's disk; give a path, not a URL")
    for folder in place.absolute().parents:
        if (folder / "search.json").is_file():
            raise UsageError(
                f"{place} is inside the search {folder}, which holds its results alone; choose "
                "another --output"
            )
    if not os.path.lexists(place):
        return
    if files is None and place.is_dir():
        raise UsageError(f"{place} is a folder; name a file, such as {place / 'search.db'}")
    if files is not None and not place.is_dir():
        raise UsageError(f"{place} is a file; name the folder that the export is to make")
    if not force:
        raise UsageError(
            f"{place} is there already; choose another --output, or replace it: --force"
        )
    if files is None:
        _require_closed(place)
        return
    for entry in place.rglob("*"):
        if entry.name not in files and not entry.is_dir():
            raise UsageError(
                f"{place} holds {entry.relative_to(place)}, which no such export wrote, so --force "
                "does not replace it; choose another --output"
            )


def _require_closed(database: Path) -> None:
    for suffix in SQLITE_SIDECARS:  # SQLite would apply it to the new file
        sidecar = database.with_name(database.name + suffix)
        if sidecar.exists():
            raise UsageError(
                f"{database} is in use, or its user was killed: {sidecar.name} is there; close "
                "what has it open, or choose another --output"
            )


@contextlib.contextmanager
def sqlite_url(file: Path) -> Iterator[str]:
    """Yield the URL of a database that is copied to `file` when the block ends.

    It is made in the temporary folder of the machine: SQLite needs locks, which not every shared
    file system has, and a URL cannot say every path.
    """
    with tempfile.TemporaryDirectory(prefix="pgsearch-export-") as folder:
        database = Path(folder) / "export.db"
        yield f"sqlite:///{database}"
        shutil.copyfile(database, file)
