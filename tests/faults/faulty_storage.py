"""A storage whose user may end, or be overtaken, at any of its operations."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from pgsearch.errors import StorageError
from pgsearch.results.storage import Entry, Storage, Stored, Tag

T = TypeVar("T")


class Crash(BaseException):
    """The process ends here."""


@dataclass
class Plan:
    """What happens at one of the coming operations of a process."""

    at: int
    """Before it, how many others are left in peace."""
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None


def crash() -> None:
    raise Crash


class Process:
    """What the storages of one process share."""

    def __init__(self) -> None:
        self.plan: Plan | None = None
        self.ended = False

    def do(self, operation: Callable[[], T]) -> T:
        if self.ended:
            raise StorageError("this process has ended")
        plan = self.plan
        if plan is None or plan.at > 0:
            if plan is not None:
                plan.at -= 1
            return operation()
        self.plan = None
        if plan.before:
            plan.before()
        result = operation()
        if plan.after:
            plan.after()
        return result


class FaultyStorage:
    """A `Storage` that does what another does, as far as its process gets."""

    def __init__(self, storage: Storage, process: Process) -> None:
        self._storage, self._process = storage, process

    @property
    def url(self) -> str:
        return self._storage.url

    @property
    def seconds_between_polls(self) -> float:
        return self._storage.seconds_between_polls

    def at(self, name: str) -> "FaultyStorage":
        return FaultyStorage(self._storage.at(name), self._process)

    def read(self, key: str) -> Stored | None:
        return self._process.do(lambda: self._storage.read(key))

    def tag(self, key: str) -> Tag | None:
        return self._process.do(lambda: self._storage.tag(key))

    def write(self, key: str, data: bytes) -> Tag:
        return self._process.do(lambda: self._storage.write(key, data))

    def swap(self, key: str, data: bytes, expected: Tag | None) -> Tag:
        return self._process.do(lambda: self._storage.swap(key, data, expected))

    def delete(self, key: str) -> None:
        self._process.do(lambda: self._storage.delete(key))

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        return iter(self._process.do(lambda: list(self._storage.entries(prefix))))

    def leftovers(self) -> Iterator[Entry]:
        return self._storage.leftovers()
