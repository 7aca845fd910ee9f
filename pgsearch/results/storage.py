"""Where results lie: a folder, or an object store, behind one small set of operations.

Everything that the ledger promises stands on `swap`: an object is replaced as a whole, and only if
it still is the version that the writer knows. A reader, or a kill at any moment, sees the old one
or the new one; of two writers that know the same version one wins and the other is told.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from pgsearch.errors import UsageError

Tag: TypeAlias = str
"""Names one version of one object."""

OBJECT_STORES = ("s3", "s3a", "gs", "az", "abfs", "abfss")


class Stored(NamedTuple):
    """An object as it was read."""

    data: bytes
    tag: Tag


class Entry(NamedTuple):
    """An object as it is listed."""

    key: str
    num_bytes: int
    modified_utc: datetime
    tag: Tag


class Conflict(Exception):
    """Somebody else changed the object since the version that the writer knows."""


class Storage(Protocol):
    """A folder of objects. Keys are relative, with `/`; objects are bytes, read and written whole.

    Every operation raises StorageError, naming the object, where the storage fails.
    """

    @property
    def url(self) -> str:
        """Where it is: a path, or a URL."""

    @property
    def seconds_between_polls(self) -> float:
        """How often it may be asked whether something changed."""

    def at(self, name: str) -> "Storage":
        """Return the folder `name` in it."""

    def read(self, key: str) -> Stored | None:
        """Return an object, or None where there is none."""

    def tag(self, key: str) -> Tag | None:
        """Return the version of an object without reading it, or None where there is none."""

    def write(self, key: str, data: bytes) -> Tag:
        """Replace an object, whatever it was, and return its version."""

    def swap(self, key: str, data: bytes, expected: Tag | None) -> Tag:
        """Replace an object if its version is `expected` (None: if there is none).

        Returns the new version. Raises Conflict where it has another version.
        """

    def delete(self, key: str) -> None:
        """Remove an object; it may be gone already."""

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """List the objects whose key begins with `prefix`, in the order of their keys."""

    def leftovers(self) -> Iterator[Entry]:
        """List what a kill in the middle of a write left behind, which nothing reads."""


@dataclass(frozen=True)
class StoredFile:
    """One object of a storage: a file with the operations of `Storage`."""

    storage: Storage
    key: str

    def __str__(self) -> str:
        return f"{self.storage.url}/{self.key}"

    def exists(self) -> bool:
        """Whether it is there."""
        return self.storage.tag(self.key) is not None

    def read(self) -> Stored | None:
        """Return it, or None where it is not there."""
        return self.storage.read(self.key)

    def write(self, data: bytes) -> Tag:
        """Replace it."""
        return self.storage.write(self.key, data)

    def swap(self, data: bytes, expected: Tag | None) -> Tag:
        """Replace it if it is the version `expected`. Raises Conflict."""
        return self.storage.swap(self.key, data, expected)

    def delete(self) -> None:
        """Remove it."""
        self.storage.delete(self.key)


def open_storage(location: "str | Path | Storage") -> Storage:
    """Return the storage at a path or URL (`s3://bucket/folder`, `gs://…`, `az://…`).

    Opening reads and creates nothing. Credentials, region and endpoint of an object store come
    from the environment, such as AWS_ENDPOINT_URL.

    Raises UsageError for a URL of another kind.
    """
    if not isinstance(location, str | Path):
        return location
    text = str(location)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme == "file":
        from pgsearch.results.local_storage import LocalStorage

        return LocalStorage(Path(rest if separator else text))
    if scheme not in OBJECT_STORES:
        raise UsageError(
            f"{text}: results go to a folder, or to a URL of {', '.join(OBJECT_STORES)}"
        )
    from pgsearch.results.object_storage import ObjectStorage

    return ObjectStorage(text.rstrip("/"))


def absolute_storage(location: "str | Path | Storage") -> Storage:
    """Return the storage at a path or URL, a path made absolute: workers elsewhere need that."""
    storage = open_storage(location)
    return storage if "://" in storage.url else open_storage(Path(storage.url).resolve())


def stored_file(location: "str | Path | StoredFile") -> StoredFile:
    """Return the file at a path or URL."""
    if isinstance(location, StoredFile):
        return location
    folder, _, name = str(location).rpartition("/")
    if "://" not in str(location):
        folder = str(Path(location).parent)
    return StoredFile(open_storage(folder), name)


def as_json(data: Any) -> bytes:
    """Return plain data as the bytes of a JSON file."""
    return json.dumps(data, indent=1, sort_keys=True).encode() + b"\n"
