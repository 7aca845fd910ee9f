"""Whether a storage does what results need of it: tried out, in a place of its own."""

import contextlib
import secrets
import shutil
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pgsearch.errors import StorageError
from pgsearch.provenance import utc_now
from pgsearch.results.storage import Conflict, Storage

LARGEST_SKEW_SECONDS = 5.0
LITTLE_SPACE_BYTES = 2_000_000_000
NUM_ROUNDS = 20
ROW_BYTES = 60_000
"""About what the epochs of a trial take."""


class Finding(NamedTuple):
    """What was tried, whether it held, and what was seen."""

    name: str
    held: bool
    detail: str


def probe(storage: Storage) -> Iterator[Finding]:
    """Try each thing that results need of a storage; leaves nothing behind.

    Yields a finding per thing. One that cannot even be tried is a finding too, not an error.
    """
    place = storage.at(f".pgsearch-doctor-{secrets.token_hex(6)}")
    made = folder_to_make(place.url)
    try:
        for name, check in _CHECKS.items():
            try:
                held, detail = check(place)
            except StorageError as error:
                held, detail = False, str(error)
            yield Finding(name, held, detail)
            if name == "write and read" and not held:
                return  # nothing else can be tried
    finally:
        remove_place(place, made)


def folder_to_make(url: str) -> str | None:
    """Return the outermost folder that a first write there will make; None where it makes none."""
    if "://" in url:
        return None
    missing = [str(path) for path in (Path(url), *Path(url).parents) if not path.exists()]
    return missing[-1] if missing else None


def remove_place(place: Storage, made: str | None) -> None:
    """Remove a place of trials, with the folders from `made` on, if nobody else uses them."""
    with contextlib.suppress(StorageError):
        for entry in list(place.entries()):
            place.delete(entry.key)
    if "://" in place.url:
        return
    shutil.rmtree(place.url, ignore_errors=True)
    folder = Path(place.url).parent
    while made is not None and folder.is_relative_to(made):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def _write_and_read(place: Storage) -> tuple[bool, str]:
    data = secrets.token_bytes(ROW_BYTES)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        place.write("file", data)
        times.append(time.perf_counter() - start)
    stored = place.read("file")
    same = stored is not None and stored.data == data
    return same, f"a commit of {ROW_BYTES:,} bytes takes {1e3 * statistics.median(times):.1f} ms"


def _atomic_replace(place: Storage) -> tuple[bool, str]:
    versions = [bytes([65 + i]) * ROW_BYTES for i in range(NUM_ROUNDS)]
    place.write("atomic", versions[0])
    done = threading.Event()

    def read_on() -> tuple[int, int]:
        reads = torn = 0
        while not done.is_set():
            stored = place.read("atomic")
            reads += 1
            torn += stored is None or stored.data not in versions
        return reads, torn

    with ThreadPoolExecutor() as pool:
        reader = pool.submit(read_on)
        try:
            for data in versions[1:]:
                place.write("atomic", data)
        finally:
            done.set()
        reads, torn = reader.result()
    return torn == 0, f"{torn} of {reads} reads during {NUM_ROUNDS} replacements were not whole"


def _exclusive_create(place: Storage) -> tuple[bool, str]:
    def create(i: int, key: str) -> bool:
        try:
            place.swap(key, f"{i} {secrets.token_hex(8)}".encode(), None)
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        winners = [
            sum(pool.map(create, range(4), [f"claim-{turn}"] * 4))
            for turn in range(NUM_ROUNDS // 4)
        ]
    wrong = [count for count in winners if count != 1]
    return not wrong, f"of 4 that create one object at once 1 must win; won: {winners}"


def _conditional_replace(place: Storage) -> tuple[bool, str]:
    old = place.write("swap", b"one")
    place.swap("swap", b"two", old)
    try:
        place.swap("swap", b"three", old)
    except Conflict:
        stored = place.read("swap")
        return stored is not None and stored.data == b"two", "a stale version was refused"
    return False, "a stale version replaced a newer one: two drivers could overwrite each other"


def _concurrent_replace(place: Storage) -> tuple[bool, str]:
    place.write("counter", b"0")

    def count(_: int) -> None:
        while True:
            stored = place.read("counter")
            value = int(stored.data) if stored else 0
            try:
                place.swap("counter", str(value + 1).encode(), stored.tag if stored else None)
            except Conflict:
                continue
            return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(count, range(NUM_ROUNDS)))
    stored = place.read("counter")
    found = int(stored.data) if stored else 0
    return found == NUM_ROUNDS, f"{found} of {NUM_ROUNDS} updates by 4 at once were kept"


def _listing(place: Storage) -> tuple[bool, str]:
    wrong = 0
    for i in range(5):
        place.write(f"listed/{i}", b"x")
        wrong += f"listed/{i}" not in {e.key for e in place.entries("listed/")}
    for i in range(5):
        place.delete(f"listed/{i}")
        wrong += f"listed/{i}" in {e.key for e in place.entries("listed/")}
    return wrong == 0, f"{wrong} of 10 listings did not show what was just written or removed"


def _clock(place: Storage) -> tuple[bool, str]:
    place.write("clock", b"x")
    now = utc_now()
    (entry,) = place.entries("clock")
    skew = abs((entry.modified_utc - now).total_seconds())
    return skew <= LARGEST_SKEW_SECONDS, f"its clock and this machine's differ by {skew:.1f} s"


def _free_space(place: Storage) -> tuple[bool, str]:
    if "://" in place.url:
        return True, "not limited by a disk"
    free = shutil.disk_usage(place.url).free
    return free >= LITTLE_SPACE_BYTES, f"{free / 1e9:.1f} GB free"


_CHECKS: dict[str, Callable[[Storage], tuple[bool, str]]] = {
    "write and read": _write_and_read,
    "atomic replace": _atomic_replace,
    "exclusive create": _exclusive_create,
    "conditional replace": _conditional_replace,
    "concurrent replace": _concurrent_replace,
    "listing": _listing,
    "clock": _clock,
    "free space": _free_space,
}
