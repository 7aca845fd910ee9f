"""What nothing needs any more: found by looking, freed on request."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from pgsearch.config import SearchSpec
from pgsearch.provenance import utc_now
from pgsearch.results.ledger import Ledger, owner
from pgsearch.results.schema import TrialRecord
from pgsearch.results.storage import StoredFile

LEFTOVER_AGE = timedelta(minutes=10)
"""A younger temporary file may be one that a worker is writing."""


@dataclass(frozen=True)
class Garbage:
    """A file that can go, and why."""

    file: StoredFile
    num_bytes: int
    reason: str


def worth_keeping(spec: SearchSpec, records: Iterable[TrialRecord]) -> set[int]:
    """Return the complete trials whose checkpoints stay: the best by the first objective.

    Those of a screen do not compare with what they are for, and keep none.
    """
    complete = [
        r for r in records if r.state.name == "COMPLETE" and r.values and r.stage != "screen"
    ]
    sign = -1 if spec.objective[0].direction == "maximize" else 1
    best_first = sorted(complete, key=lambda r: (sign * (r.values or [0.0])[0], r.number))
    return {record.number for record in best_first[: spec.keep_checkpoints]}


def find_garbage(ledger: Ledger, *, with_damaged: bool = False) -> Iterator[Garbage]:
    """Yield what a search does not need: to be read, or to be gone on with.

    Args:
        ledger: the search.
        with_damaged: also what `pgsearch verify --repair` set aside.

    Raises:
        StorageError: a trial's row is damaged, so that it is not known what it needs.
    """
    records = {record.number: record for record in ledger.trials()}
    kept = worth_keeping(ledger.spec(), records.values())
    unfinished = {number for number, r in records.items() if not r.state.is_finished}
    for entry in ledger.storage.entries():
        file = StoredFile(ledger.storage, entry.key)
        if (number := owner(entry.key)) is not None:
            if number not in records:
                yield Garbage(file, entry.num_bytes, "of a trial that is not there")
            elif number not in kept | unfinished:
                reason = f"trial {number} has ended ({records[number].state}) and is not kept"
                yield Garbage(file, entry.num_bytes, reason)
        elif entry.key.startswith("damaged/") and with_damaged:
            yield Garbage(file, entry.num_bytes, "set aside by verify")
    for entry in ledger.storage.leftovers():
        if utc_now() - entry.modified_utc > LEFTOVER_AGE:
            file = StoredFile(ledger.storage, entry.key)
            yield Garbage(file, entry.num_bytes, "left by a kill in the middle of a write")
