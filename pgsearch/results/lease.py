"""The lease: one driver at a time works on a search, and everybody can see which."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from pgsearch.errors import StorageError
from pgsearch.results.claims import Claims, is_known_dead, this_process
from pgsearch.results.storage import Storage, as_json

SECONDS_BETWEEN_BEATS = 5.0
SECONDS_UNTIL_DEAD = 30.0
"""A driver of another machine whose beat stands still for so long is gone."""
LONGEST_SECONDS_BETWEEN_LOOKS = 5.0
"""Of a trial at its driver's claim, however slow the storage."""


class DriverLease:
    """Exclusive right to drive a search; a context manager.

    Each driver claims the next number in `drivers/` and renews its claim with a beat. One that
    died is replaced: at once where its process can be looked up, that is on this machine; else
    after its beat stood still for `SECONDS_UNTIL_DEAD`, on our own clock, so that clocks need not
    agree. One that was only thought dead finds the newer claim, and cannot write: see `swap`.

    Args:
        storage: of the search.
        on_waiting: is told, once, for whom we wait.
    """

    def __init__(
        self, storage: Storage, *, on_waiting: Callable[[str], None] | None = None
    ) -> None:
        self._claims = Claims(storage, "drivers/")
        self._where = storage.url
        self._on_waiting = on_waiting
        self._wake = threading.Event()
        self._state = "running"
        self._facts: dict[str, Any] = {}
        self.number = 0
        """Which driver of the search this is, from 1."""
        self.lost: str | None = None
        """Why the lease was lost, once it is."""

    def __enter__(self) -> "DriverLease":
        """Take the lease. Raises StorageError naming the driver that holds it."""
        self._facts = this_process()
        while not self.number:
            newest = self._claims.newest()
            if newest:
                self._wait_until_free(newest)
            self.number = self._claims.claim(self._content(0), after=newest) or 0
        self._thread = threading.Thread(target=self._beat_until_ended, daemon=True)
        self._thread.start()
        return self

    def announce_stop(self) -> None:
        """Tell the trials, wherever they run, to checkpoint and end; safe in a signal handler."""
        self._state = "stopping"
        self._wake.set()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state = "released"
        self._wake.set()
        self._thread.join(timeout=SECONDS_UNTIL_DEAD)

    def _content(self, beat: int) -> dict[str, Any]:
        return {**self._facts, "state": self._state, "beat": beat}

    def _beat_until_ended(self) -> None:
        beat, last_success = 0, time.monotonic()
        while self.lost is None:
            self._wake.wait(SECONDS_BETWEEN_BEATS)
            self._wake.clear()
            state, beat = self._state, beat + 1
            try:
                if not self._claims.is_newest(self.number):
                    self.lost = f"{self._where}: another driver has taken this search over"
                    return
                self._claims.file(self.number).write(as_json(self._content(beat)))
                last_success = time.monotonic()
            except StorageError as error:
                if time.monotonic() - last_success > SECONDS_UNTIL_DEAD:
                    self.lost = f"{error}; the right to drive the search could not be renewed"
            if state == "released":
                return

    def _wait_until_free(self, number: int) -> None:
        """Return once a claim's driver is known to be gone. Raises StorageError if it lives."""
        holder = self._holder(number)
        first_beat, deadline = holder.get("beat"), time.monotonic() + SECONDS_UNTIL_DEAD
        told = False
        while holder.get("state") != "released":
            dead = is_known_dead(holder)
            if dead:
                return
            if dead is False or holder.get("beat") != first_beat:
                raise StorageError(
                    f"{self._where}: another driver works on this search ({describe(holder)}); "
                    "wait for it or stop it"
                )
            if time.monotonic() > deadline:
                return
            if self._on_waiting is not None and not told:
                self._on_waiting(
                    f"waiting up to {SECONDS_UNTIL_DEAD:.0f} s to see whether another driver "
                    f"still works on this search ({describe(holder)})"
                )
                told = True
            time.sleep(1.0)
            holder = self._holder(number)

    def _holder(self, number: int) -> dict[str, Any]:
        stored = self._claims.file(number).read()
        try:
            holder = json.loads(stored.data if stored else b"{}")
        except ValueError:
            holder = None
        # A claim that cannot be read has no beat that could move: it is dead in a while.
        return holder if isinstance(holder, dict) else {}


class DriverWatch:
    """What a trial looks at to see whether its driver wants it to end, or was replaced."""

    def __init__(self, storage: Storage, driver: int) -> None:
        self._claims, self._driver = Claims(storage, "drivers/"), driver
        self._pause = storage.seconds_between_polls
        self._due = time.monotonic() + self._pause
        self._stop = False

    def should_stop(self) -> bool:
        """Whether to checkpoint and end. Cheap: the storage is asked now and then."""
        if not self._stop and time.monotonic() >= self._due:
            start = time.monotonic()
            self._stop = self._look()
            # About one hundredth of the time is spent looking, and well within a stop's grace.
            took = time.monotonic() - start
            pause = min(max(self._pause, 100 * took), LONGEST_SECONDS_BETWEEN_LOOKS)
            self._due = time.monotonic() + pause
        return self._stop

    def _look(self) -> bool:
        try:
            if not self._claims.is_newest(self._driver):
                return True
            stored = self._claims.file(self._driver).read()
            return stored is not None and json.loads(stored.data)["state"] != "running"
        except (StorageError, ValueError, KeyError, TypeError):
            return False  # the next write of the trial meets the same storage and says so


def newest_driver(storage: Storage) -> str | None:
    """Return in words who drives a search, or drove it last; None before the first."""
    claims = Claims(storage, "drivers/")
    number = claims.newest()
    stored = claims.file(number).read() if number else None
    if stored is None:
        return None
    try:
        holder = dict(json.loads(stored.data))
    except (ValueError, TypeError):
        return None
    state = str(holder.get("state", "unknown"))
    if state != "released" and is_known_dead(holder):
        state = "killed"
    return f"{state} ({describe(holder)})"


def describe(holder: Mapping[str, Any]) -> str:
    """Return who holds a claim, in words."""
    return (
        f"host {holder.get('host', 'unknown')}, pid {holder.get('pid', 'unknown')}, "
        f"since {holder.get('since_utc', 'unknown')}"
    )
