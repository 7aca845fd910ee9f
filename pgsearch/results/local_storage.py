"""Results in a folder of this machine, or of a file system that all machines share."""

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from pgsearch.errors import StorageError
from pgsearch.results.storage import Conflict, Entry, Stored, Tag
from pgsearch.untrusted import open_file

LOCK_FILE = ".lock"
SECONDS_FOR_LOCK = 60.0

# What a file system answers that has no locks. Without them `swap` still replaces whole files, but
# two writers within the same millisecond are not told apart.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class LocalStorage:
    """A `Storage` in a folder: temporary file, fsync, rename, fsync of the folder."""

    folder: Path

    @property
    def url(self) -> str:
        """The folder."""
        return str(self.folder)

    @property
    def seconds_between_polls(self) -> float:
        """Often: a look costs some microseconds."""
        return 0.5

    def at(self, name: str) -> "LocalStorage":
        """Return a folder in it."""
        return LocalStorage(self.folder / name)

    def read(self, key: str) -> Stored | None:
        """Return a file and its version, both of the same moment."""
        path = self.folder / key
        try:
            with open_file(path) as file:
                return Stored(file.read(), _tag(os.fstat(file.fileno())))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror})") from error

    def tag(self, key: str) -> Tag | None:
        """Return inode, time and size, which a replaced file does not share."""
        path = self.folder / key
        try:
            return _tag(path.stat())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror})") from error

    def write(self, key: str, data: bytes) -> Tag:
        """Replace a file."""
        return replace_file(self.folder / key, lambda file: file.write(data), len(data))

    def swap(self, key: str, data: bytes, expected: Tag | None) -> Tag:
        """Replace a file if it is the version that is expected, under the folder's lock."""
        path = self.folder / key
        with _explained(path, len(data)), _temporary(path) as temporary:
            tag = _fill(temporary, lambda file: file.write(data))
            if expected is None:
                try:
                    os.link(temporary, path)  # fails where there is a file
                except FileExistsError:
                    # Over NFS a link that was made may be asked for twice.
                    if temporary.stat().st_nlink < 2:
                        raise Conflict(str(path)) from None
            else:
                with _locked(path.parent):
                    if self.tag(key) != expected:
                        raise Conflict(str(path))
                    temporary.replace(path)
            sync_folder(path.parent)
            return tag

    def delete(self, key: str) -> None:
        """Remove a file."""
        path = self.folder / key
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{path}: cannot be removed ({error.strerror})") from error

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """List files; hidden ones are not results."""
        return self._walk(prefix, hidden=False)

    def leftovers(self) -> Iterator[Entry]:
        """List temporary files."""
        return self._walk("", hidden=True)

    def _walk(self, prefix: str, *, hidden: bool) -> Iterator[Entry]:
        folder = self.folder / prefix.rpartition("/")[0]
        try:
            for path in sorted(_files_below(folder)):
                key = path.relative_to(self.folder).as_posix()
                is_leftover = path.name.startswith(".") and path.name.endswith(".tmp")
                if path.name.startswith(".") and not (hidden and is_leftover):
                    continue
                if not key.startswith(prefix) or is_leftover != hidden:
                    continue
                with contextlib.suppress(FileNotFoundError):  # removed since it was listed
                    status = path.stat()
                    modified = datetime.fromtimestamp(status.st_mtime, UTC)
                    if stat.S_ISREG(status.st_mode):
                        yield Entry(key, status.st_size, modified, _tag(status))
        except OSError as error:
            raise StorageError(
                f"{error.filename or folder}: cannot be read ({error.strerror})"
            ) from error


def replace_file(
    path: Path, write: Callable[[BinaryIO], object], num_bytes: int | None = None
) -> Tag:
    """Write a file so that a reader, or a kill at any moment, sees the old one or the new one.

    Args:
        path: the file; its folder is made if need be.
        write: writes the content into an open file.
        num_bytes: how many it will write, to say so where they do not fit.

    Raises:
        StorageError: the file cannot be written; names the path, and the space if that is why.
    """
    with _explained(path, num_bytes), _temporary(path) as temporary:
        tag = _fill(temporary, write)
        temporary.replace(path)
        sync_folder(path.parent)
        return tag


def sync_folder(folder: Path) -> None:
    """Make renames and new files in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield the path of a hidden file beside `path`, in a folder that exists, and clean it up."""
    _make_folder(path.parent)
    # Not with_name, which refuses a path that is a folder before the error can be explained.
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _fill(path: Path, write: Callable[[BinaryIO], object]) -> Tag:
    """Write a file to the disk and return its version."""
    with path.open("wb") as file:
        write(file)
        file.flush()
        # The kernel's own time stamps are milliseconds apart, and inodes are used again.
        now = time.time_ns()
        os.utime(file.fileno(), ns=(now, now))
        os.fsync(file.fileno())
        return _tag(os.fstat(file.fileno()))


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder. What cannot be listed is an error, and not empty."""

    def refuse(error: OSError) -> None:
        # Removed since it was listed, or never made.
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            raise error

    for where, _, names in os.walk(folder, onerror=refuse):
        yield from (Path(where, name) for name in names)


def _make_folder(folder: Path) -> None:
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_folder(made.parent)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder for as long as it takes to compare and rename.

    Others hold it for microseconds, but for one that was stopped while it did.
    """
    with (folder / LOCK_FILE).open("ab") as lock:
        deadline = time.monotonic() + SECONDS_FOR_LOCK
        while not _try_lock(lock):
            if time.monotonic() > deadline:
                raise StorageError(
                    f"{folder / LOCK_FILE}: another process has held this lock for "
                    f"{SECONDS_FOR_LOCK:.0f} s; it may be stopped: find it (fuser, or lslocks), "
                    "let it go on or end it, then repeat the command, it continues where it stood"
                )
            time.sleep(0.002)
        yield


def _try_lock(lock: BinaryIO) -> bool:
    """Return whether the lock is ours, or there are none on this file system."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _tag(status: os.stat_result) -> Tag:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


@contextlib.contextmanager
def _explained(path: Path, num_bytes: int | None) -> Iterator[None]:
    """Turn an error of the system into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(_full(path, num_bytes)) from error
        raise StorageError(
            f"{path}: cannot be written ({error.strerror or error}); see that the folder is "
            "writable and its disk is sound, then repeat the command, it continues where it stood"
        ) from error


def _full(path: Path, num_bytes: int | None) -> str:
    needed = "" if num_bytes is None else f": {num_bytes:,} bytes are needed"
    with contextlib.suppress(OSError):
        free = shutil.disk_usage(next(f for f in path.parents if f.exists())).free
        needed += f"{',' if needed else ':'} {free:,} are free"
    return (
        f"{path}: the disk is full{needed}; free some space (where there is enough, a quota or the "
        "number of files is used up: see df -i) and repeat the command, it continues where it stood"
    )
