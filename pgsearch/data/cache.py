"""One cache per node for arrays that are expensive to make and cheap to map into memory.

An entry is a folder `cache_dir/KEY` with one `.npy` file per array and `arrays.json`. It is
written under another name beside its place, flushed to disk and then renamed, so that an entry
either is there whole or is not there, wherever the builder was killed. Locks only save work: two
builders that do not see each other's lock both build, and the second to finish drops its copy.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pgsearch.cache_dir import LEDGERS
from pgsearch.errors import StorageError
from pgsearch.untrusted import open_file, read_file

Array = npt.NDArray[Any]

CONTENTS_FILE = "arrays.json"
MAX_CONTENTS_BYTES = 1_000_000
SECONDS_FOR_A_BLOCK = 3600
"""In which a living builder writes something."""


@dataclass(frozen=True)
class ArrayPlan:
    """Shape and type of an array that is going to be built."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def cached_arrays(
    cache_dir: Path,
    key: str,
    *,
    plan: Mapping[str, ArrayPlan],
    build: Callable[[], Iterable[Mapping[str, Array]]],
) -> dict[str, Array]:
    """Return the planned arrays memory-mapped and read-only, building them if need be.

    Args:
        cache_dir: folder of all entries; created if missing.
        key: file name of the entry; it must name everything that the contents depend on.
        plan: shape and dtype by array name.
        build: yields blocks of rows by array name. The blocks of an array are appended in turn
            and must add up to its plan. Only one block needs to fit into memory.

    Raises:
        StorageError: the folder cannot be written, or the disk is full.
    """
    entry = cache_dir / key
    arrays = _open_entry(entry, plan)
    if arrays is not None:
        return arrays
    with _storage_errors(cache_dir, plan):
        cache_dir.mkdir(parents=True, exist_ok=True)
        lock = (cache_dir / f".{key}.lock").open("ab")
    with lock:
        is_locked = _wait_for_lock(lock.fileno())
        arrays = _open_entry(entry, plan)  # another builder may have finished meanwhile
        if arrays is None:
            if is_locked:
                _remove_leftovers(cache_dir, key)
            _build_entry(entry, plan, build)
            arrays = _open_entry(entry, plan)
    if arrays is None:
        raise StorageError(
            f"{entry}: cannot be read back right after it was written; a cache needs a reliable "
            f"disk; check the disk or set PGSEARCH_CACHE to a folder on another one"
        )
    return arrays


def require_space(
    cache_dir: Path, entries: Mapping[str, Mapping[str, ArrayPlan]], *, remedy: str
) -> None:
    """Raise StorageError where the entries that are still to be built do not fit the disk together.

    Args:
        cache_dir: folder of all entries; it need not exist.
        entries: plans by key.
        remedy: what takes less space, for the message.
    """
    missing = sum(
        _num_bytes(plan)
        for key, plan in entries.items()
        if _open_entry(cache_dir / key, plan) is None
    )
    if not missing:
        return
    folder = next(f for f in (cache_dir, *cache_dir.absolute().parents) if f.exists())
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise StorageError(
            f"{cache_dir}: the cache needs {missing / 1e9:.2f} GB more and the disk has "
            f"{free / 1e9:.2f} GB free: {remedy}"
        )


def unused_entries(cache_dir: Path, *, days: float) -> list[tuple[Path, int]]:
    """Return the entries that nothing opened for a while, with their bytes on disk.

    An entry that is not whole counts from when its files were last written, and for an hour at
    least: it may be one that is being built.
    """
    unused = []
    entries = [*cache_dir.glob("*"), *(cache_dir / LEDGERS).glob("*")]
    for entry in sorted(entries):
        if not entry.is_dir() or entry == cache_dir / LEDGERS:
            continue
        files = []
        for file in entry.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
                files += [file.stat()] if file.is_file() else []
        contents = entry / CONTENTS_FILE
        is_whole = contents.exists() and not entry.name.startswith(".")
        if is_whole:
            last_use, seconds = contents.stat().st_mtime, days * 86400
        else:
            last_use = max((file.st_mtime for file in files), default=entry.stat().st_mtime)
            seconds = max(days * 86400, SECONDS_FOR_A_BLOCK)
        if time.time() - last_use > seconds:
            unused.append((entry, sum(file.st_size for file in files)))
    return unused


def remove_entry(entry: Path) -> None:
    """Delete an entry. Who has it mapped keeps it; who needs it again builds it again."""
    gone = entry.parent / f".{entry.name}.{uuid.uuid4().hex}.partial"
    with contextlib.suppress(FileNotFoundError):
        entry.rename(gone)  # at once, so that no half entry is ever seen
        shutil.rmtree(gone, ignore_errors=True)


def _open_entry(entry: Path, plan: Mapping[str, ArrayPlan]) -> dict[str, Array] | None:
    """The arrays of an entry, or None if it is missing, damaged or not what was planned."""
    try:
        contents = read_file(entry / CONTENTS_FILE, max_bytes=MAX_CONTENTS_BYTES)
        if json.loads(contents) != _contents(entry, plan):
            return None
        arrays: dict[str, Array] = {
            name: np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in plan
        }
    except (OSError, ValueError, EOFError, RecursionError):
        return None
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):
        return None  # an archive of arrays, by its first bytes
    found = {name: ArrayPlan(array.shape, array.dtype.name) for name, array in arrays.items()}
    if found != dict(plan):
        return None
    with contextlib.suppress(OSError):  # of a cache that others own
        os.utime(entry / CONTENTS_FILE)  # when it was last used: see `unused_entries`
    return arrays


def _contents(entry: Path, plan: Mapping[str, ArrayPlan]) -> dict[str, Any]:
    """What the contents file says when the entry is whole."""
    arrays = {
        name: {
            "shape": list(array.shape),
            "dtype": array.dtype,
            "file_bytes": _size_of_file(entry / f"{name}.npy"),
        }
        for name, array in sorted(plan.items())
    }
    return {"arrays": arrays, "sha256": hashlib.sha256(json.dumps(arrays).encode()).hexdigest()}


def _size_of_file(path: Path) -> int:
    """Raises OSError for a pipe, too, which could keep a reader waiting."""
    with open_file(path) as file:
        return os.fstat(file.fileno()).st_size


def _wait_for_lock(file_number: int) -> bool:
    try:
        fcntl.flock(file_number, fcntl.LOCK_EX)
    except OSError:
        return False  # some network file systems have no locks
    return True


def _remove_leftovers(cache_dir: Path, key: str) -> None:
    """Delete what killed builders left. Call it with the lock held: then no builder is alive."""
    for leftover in cache_dir.glob(f".{key}.*.partial"):
        shutil.rmtree(leftover, ignore_errors=True)


def _build_entry(
    entry: Path,
    plan: Mapping[str, ArrayPlan],
    build: Callable[[], Iterable[Mapping[str, Array]]],
) -> None:
    partial = entry.parent / f".{entry.name}.{uuid.uuid4().hex}.partial"
    writers: dict[str, _RowWriter] = {}
    try:
        with _storage_errors(entry.parent, plan):
            _require_free_space(entry.parent, plan)
            partial.mkdir()
            for name, array in plan.items():
                writers[name] = _RowWriter(partial / f"{name}.npy", array)
        for block in build():
            with _storage_errors(entry.parent, plan):
                for name, rows in block.items():
                    writers[name].append(rows)
        with _storage_errors(entry.parent, plan):
            for writer in writers.values():
                writer.finish()
            _write_durably(partial / CONTENTS_FILE, json.dumps(_contents(partial, plan)).encode())
            _flush_folder(partial)
            _move_into_place(partial, entry, plan)
            _flush_folder(entry.parent)
    finally:
        for writer in writers.values():
            writer.close()
        shutil.rmtree(partial, ignore_errors=True)


class _RowWriter:
    """Appends rows to a `.npy` file whose final shape is known.

    Written as a stream, not through a memory map: on a full disk a write raises an error, where
    touching a mapped page kills the process.
    """

    def __init__(self, path: Path, plan: ArrayPlan) -> None:
        self._path = path
        self._plan = plan
        self._num_rows = 0
        self._file = path.open("xb")
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(np.dtype(self._plan.dtype)),
                "fortran_order": False,
                "shape": self._plan.shape,
            },
        )

    def append(self, rows: Array) -> None:
        if rows.dtype.name != self._plan.dtype or rows.shape[1:] != self._plan.shape[1:]:
            raise ValueError(
                f"{self._path.name} is planned as {self._plan}, "
                f"got rows of shape {rows.shape[1:]} and dtype {rows.dtype}"
            )
        self._file.write(np.ascontiguousarray(rows).data)
        self._num_rows += len(rows)

    def finish(self) -> None:
        if self._num_rows != self._plan.shape[0]:
            raise ValueError(
                f"{self._path.name} is planned as {self._plan}, got {self._num_rows} rows"
            )
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        # A buffered rest that a full disk refuses: the entry is given up already.
        with contextlib.suppress(OSError):
            self._file.close()


def _move_into_place(partial: Path, entry: Path, plan: Mapping[str, ArrayPlan]) -> None:
    try:
        partial.rename(entry)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        return
    if _open_entry(entry, plan) is not None:
        return  # another builder was first: its copy stays
    aside = partial.with_name(partial.name.replace(".partial", ".damaged.partial"))
    entry.rename(aside)
    partial.rename(entry)
    shutil.rmtree(aside, ignore_errors=True)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # Without this a power cut may lose the new name although the files are on disk.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _require_free_space(cache_dir: Path, plan: Mapping[str, ArrayPlan]) -> None:
    """Fail before the work, not after it. Others may fill the disk later: writes still can fail."""
    if shutil.disk_usage(cache_dir).free < _num_bytes(plan):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(cache_dir))


def _num_bytes(plan: Mapping[str, ArrayPlan]) -> int:
    return sum(array.num_bytes for array in plan.values())


@contextlib.contextmanager
def _storage_errors(cache_dir: Path, plan: Mapping[str, ArrayPlan]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"{cache_dir}: cannot write {_num_bytes(plan):,} bytes to the cache: "
            f"{reason}; the cache needs a writable folder with that much free space; "
            f"free some or set PGSEARCH_CACHE to another folder"
        ) from error
