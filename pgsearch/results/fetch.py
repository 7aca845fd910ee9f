"""Reading many small files in order, fetched side by side: of an object store each is a round trip.

What is done with them is no work for threads, which would get into each other's way.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from pgsearch.results.storage import Stored, StoredFile

AT_ONCE: Final = 16
IN_A_ROW: Final = 8
"""Files that a thread fetches before it hands them over, which costs as much as a local read."""


def fetch(files: Sequence[StoredFile]) -> Iterator[tuple[StoredFile, Stored | None]]:
    """Yield files with their content, None where there is none. Raises StorageError."""
    length = max(1, min(IN_A_ROW, len(files) // AT_ONCE))
    pool = ThreadPoolExecutor(AT_ONCE)
    coming: deque[Future[list[tuple[StoredFile, Stored | None]]]] = deque()
    try:
        for start in range(0, len(files), length):
            coming.append(pool.submit(_read, files[start : start + length]))
            if len(coming) > AT_ONCE:
                yield from coming.popleft().result()
        while coming:
            yield from coming.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read(files: Sequence[StoredFile]) -> list[tuple[StoredFile, Stored | None]]:
    return [(file, file.read()) for file in files]
