"""Files that are whole or absent: the few operations that the ledger and checkpoints stand on."""

import errno
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from pgsearch.errors import StorageError


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old one or the new one.

    Temporary file beside it, fsync, rename, fsync of the folder.

    Raises:
        StorageError: the file cannot be written; names the path, and the space left if that is why.
    """
    # Not with_name, which refuses a path that is a folder before the error can be explained.
    temporary = path.parent / f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(_explain(path, error)) from error


def replace_json(path: Path, data: Any) -> None:
    """Write plain data as JSON, whole or not at all. Raises StorageError."""
    text = json.dumps(data, indent=1, sort_keys=True).encode() + b"\n"
    replace_file(path, lambda file: file.write(text))


def sync_folder(folder: Path) -> None:
    """Make renames and new files in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"{path}: the disk is full; free some space and repeat the command, it continues "
            "where it stood"
        )
    return f"{path}: cannot be written ({error.strerror or error}); see that the folder is writable"
