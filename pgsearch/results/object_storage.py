"""Results in an object store: S3 and what speaks its protocol, Google Cloud Storage, Azure."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pgsearch.errors import StorageError
from pgsearch.results.storage import Conflict, Entry, Stored, Tag

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

WRITE_MARK = "pgsearch-write"

DEFAULT_RETRY_SECONDS = 120.0
"""Overridden by PGSEARCH_STORAGE_RETRY_SECONDS."""

_LARGEST_BACKOFF_SECONDS = 10.0


class ObjectStorage:
    """A `Storage` under a URL. A commit is a single conditional PUT.

    What a hiccup broke (5xx, a reset, a time-out) is repeated with growing pauses. A PUT whose
    answer was lost may have been done, and its repetition then meets a conflict with itself: each
    PUT carries a token in the object's metadata, by which it is known again.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def __repr__(self) -> str:
        return f"ObjectStorage({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ObjectStorage) and other.url == self._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __reduce__(self) -> tuple[type["ObjectStorage"], tuple[str]]:
        return ObjectStorage, (self._url,)

    @property
    def url(self) -> str:
        """The URL."""
        return self._url

    @property
    def seconds_between_polls(self) -> float:
        """Seldom: each look is a request that costs time and money."""
        return 5.0

    def at(self, name: str) -> "ObjectStorage":
        """Return a folder in it."""
        return ObjectStorage(f"{self._url}/{name}")

    @cached_property
    def _store(self) -> "ObjectStore":
        from obstore.store import from_url

        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        try:
            return from_url(
                self._url,
                client_options={
                    "allow_http": endpoint.startswith("http://"),
                    "timeout": timedelta(seconds=60),
                    "connect_timeout": timedelta(seconds=10),
                },
                # One budget for all repetitions, ours, since the client's own ends a repetition
                # of a PUT that was reset.
                retry_config={"max_retries": 0},
            )
        except Exception as error:
            raise self._failed("", error) from error

    def read(self, key: str) -> Stored | None:
        """Return an object and its version."""
        import obstore

        def get() -> Stored | None:
            try:
                result = obstore.get(self._store, key)
                return Stored(bytes(result.bytes()), _etag(result.meta))
            except FileNotFoundError:
                return None

        return self._persist(key, get)

    def tag(self, key: str) -> Tag | None:
        """Return the ETag of an object."""
        import obstore

        def head() -> Tag | None:
            try:
                return _etag(obstore.head(self._store, key))
            except FileNotFoundError:
                return None

        return self._persist(key, head)

    def write(self, key: str, data: bytes) -> Tag:
        """Replace an object."""
        token = secrets.token_hex(8)
        return self._persist(key, lambda: self._put(key, data, "overwrite", token))

    def swap(self, key: str, data: bytes, expected: Tag | None) -> Tag:
        """Replace an object if its ETag is the one expected (`If-Match`, `If-None-Match`)."""
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if expected is None else {"e_tag": expected}
        token = secrets.token_hex(8)
        try:
            return self._persist(key, lambda: self._put(key, data, mode, token))
        except (AlreadyExistsError, PreconditionError):
            own = self._persist(key, lambda: self._written_with(key, token))
            if own is None:
                raise Conflict(f"{self._url}/{key}") from None
            return own

    def _put(self, key: str, data: bytes, mode: Any, token: str) -> Tag:
        import obstore

        attributes: Any = {WRITE_MARK: token}
        return _etag(
            obstore.put(
                self._store, key, data, mode=mode, attributes=attributes, use_multipart=False
            )
        )

    def _written_with(self, key: str, token: str) -> Tag | None:
        """Return the version of an object if it was written with this token."""
        import obstore

        try:
            result = obstore.get(self._store, key)
        except FileNotFoundError:
            return None
        attributes: Any = result.attributes
        return _etag(result.meta) if attributes.get(WRITE_MARK) == token else None

    def delete(self, key: str) -> None:
        """Remove an object."""
        import obstore

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, key)

        self._persist(key, remove)

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """List objects."""
        import obstore

        # The client's prefix is a whole folder: `a/00003-` must be found among those of `a`.
        folder = prefix.rpartition("/")[0]

        def everything() -> list[Entry]:
            return [
                Entry(item["path"], item["size"], item["last_modified"], _etag(item))
                for page in obstore.list(self._store, folder or None)
                for item in page
                if item["path"].startswith(prefix)
            ]

        return iter(sorted(self._persist(prefix, everything)))

    def leftovers(self) -> Iterator[Entry]:
        """Nothing: a PUT is whole or absent."""
        return iter(())

    def _persist(self, key: str, request: Callable[[], T]) -> T:
        """Do a request, again and again while it fails as a hiccup does, up to a time limit."""
        from obstore.exceptions import AlreadyExistsError, GenericError, PreconditionError

        limit = float(os.environ.get("PGSEARCH_STORAGE_RETRY_SECONDS", DEFAULT_RETRY_SECONDS))
        start, pause = time.monotonic(), 0.2
        while True:
            try:
                return request()
            except (AlreadyExistsError, PreconditionError, StorageError):
                raise
            except GenericError as error:
                if time.monotonic() + pause - start > limit or not _is_hiccup(error):
                    raise self._failed(key, error) from error
            except Exception as error:
                raise self._failed(key, error) from error
            time.sleep(pause)
            pause = min(2 * pause, _LARGEST_BACKOFF_SECONDS)

    def _failed(self, key: str, error: Exception) -> StorageError:
        place = f"{self._url}/{key}" if key else self._url
        reason = " ".join(str(error).partition("Debug source")[0].split())[:300]
        return StorageError(
            f"{place}: the object store refuses or does not answer ({reason}); check address, "
            "bucket, credentials (AWS_ENDPOINT_URL, AWS_REGION, …) and network, then repeat the "
            "command, it continues where it stood"
        )


def _is_hiccup(error: Exception) -> bool:
    """Whether a repetition may help: not where the store answered and said no."""
    text = str(error)
    return not any(f"code: {status}" in text for status in ("400", "401", "403", "404", "405"))


def _etag(meta: Any) -> Tag:
    tag = meta["e_tag"]
    if tag is None:
        raise StorageError("the object store gives no ETag, which conditional writes need")
    return str(tag)
