"""The ledger of one search: its Parquet files, the only source of truth.

    results/NAME/
        search.json           the spec, and what began it
        drivers/4.json        a claim: the fourth driver of the search
        trials/00003.parquet  one row: the driver's
        epochs/00003.parquet  one row per epoch: the trial's own
        attempts/00003-2.json a claim: the second execution of trial 3
        checkpoints/00003.pt  the newest state of trial 3
        checkpoints/00003.best.pt  its classifier after its best epoch (`keep_best_epoch`)
        scores/00003.parquet  scores of its last epoch, one row per image (`save_scores`)
        known/                trials and epochs of the search that this one was forked from
        damaged/              what `pgsearch verify --repair` set aside

One file per trial, replaced as a whole: an epoch is in it once however often it was computed, and
`pandas.read_parquet("results/NAME/epochs")` needs no help of ours to be right.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pgsearch import __version__
from pgsearch.config import SearchSpec, parse_spec
from pgsearch.errors import IncompatibleResume, InvalidSpec, StorageError
from pgsearch.provenance import utc_now
from pgsearch.results.claims import Claims, this_process
from pgsearch.results.fetch import fetch
from pgsearch.results.rows import (
    DamagedFile,
    as_parquet,
    as_table,
    parse_table,
    read_table,
    require_known_version,
    trial_record,
    trial_row,
)
from pgsearch.results.schema import (
    SCHEMA_VERSION,
    TrialRecord,
    is_configuration,
    trial_schema,
)
from pgsearch.results.storage import (
    Conflict,
    Storage,
    Stored,
    StoredFile,
    Tag,
    as_json,
    open_storage,
)

BEFORE_THE_SEARCH = ("drivers/", "known/", "LOCK")
"""What may be there before `search.json` is: it is written last."""

_WEIGHTS_OR_SCORES = re.compile(r"(?:checkpoints/([0-9]+)(?:\.best)?\.pt|scores/([0-9]+)\.parquet)")


class Ledger:
    """Results of one search. Opening it reads nothing and creates nothing.

    Args:
        location: folder or URL of the search.
    """

    def __init__(self, location: str | Path | Storage) -> None:
        self.storage = open_storage(location)
        self._trial_tags: dict[int, Tag] = {}
        self._driver: int | None = None

    def drive_as(self, driver: int) -> None:
        """Write the search and its trials only while this driver is the newest, from now on."""
        self._driver = driver

    @property
    def url(self) -> str:
        """Folder or URL of the search."""
        return self.storage.url

    @property
    def name(self) -> str:
        """Name of the search: the last part of where it is."""
        return self.url.rstrip("/").rpartition("/")[2]

    # ------------------------------------------------------------ the search

    @property
    def exists(self) -> bool:
        """Whether there is a search."""
        return self._search_file.exists()

    def begin(self, spec: SearchSpec, *, forked_from: "Ledger | None" = None) -> None:
        """Create the search, or make sure that the one here is this one.

        Args:
            spec: the search.
            forked_from: a search whose finished trials a new one knows from the start.

        Raises:
            IncompatibleResume: there is another spec, or what is there is not a search.
            StorageError: the storage cannot be written or read.
        """
        if not self.exists:
            self.require_own_place()
            for left in self.storage.entries("known/"):  # by a fork that was killed
                self.storage.delete(left.key)
            facts: dict[str, Any] = {}
            if forked_from is not None:
                facts["forked_from"] = self._learn_from(forked_from)
            self._write_header(spec, facts)
            return
        known = self.spec()
        source = self.header().get("forked_from", {}).get("search")
        if forked_from is not None and source != forked_from.name:
            raise IncompatibleResume(
                f"{self.url} is there and was not forked from {forked_from.name}; name another "
                "--fork, or go on with it without --fork"
            )
        changes = changed_keys(known, spec)
        if changes:
            raise IncompatibleResume(
                f"{self.url} holds another search of this name; it differs in\n"
                + "\n".join(f"  {change}" for change in changes)
                + "\nrestore these values to continue it; or begin another search with name=…, or "
                "with --fork NEW, which knows the finished trials of this one"
            )
        if known != spec:
            self._write_header(spec, {})

    def require_own_place(self) -> None:
        """Refuse a folder of other things. Raises IncompatibleResume."""
        if self.exists:
            return
        for entry in self.storage.entries():
            if not entry.key.startswith(BEFORE_THE_SEARCH):
                raise IncompatibleResume(
                    f"{self.url}: holds files ({entry.key}) but no search.json, so it is not a "
                    "search of pgsearch; choose another name or another --results folder"
                )

    def spec(self) -> SearchSpec:
        """Return the spec of the search. Raises StorageError where there is none."""
        header = self.header()
        try:
            spec = parse_spec(header["spec"], str(self._search_file))
        except (KeyError, InvalidSpec) as error:
            raise DamagedFile(self._search_file, str(error).splitlines()[0]) from None
        return spec

    def header(self) -> dict[str, Any]:
        """Return what `search.json` holds.

        Raises:
            StorageError: there is none, it is damaged, or a newer pgsearch wrote it.
        """
        stored = self._search_file.read()
        if stored is None:
            raise StorageError(f"{self.url}: holds no search (there is no search.json)")
        try:
            header = dict(json.loads(stored.data))
            version = int(header["schema_version"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DamagedFile(self._search_file, str(error)) from None
        require_known_version(self._search_file, version, header.get("pgsearch"))
        checksum = header.pop("sha256", None)  # since schema 2
        if checksum != _checksum(header) and version > 1:
            raise DamagedFile(
                self._search_file, "its checksum is wrong, so it was changed by hand or by the disk"
            )
        return header

    def known(self) -> "Ledger":
        """Return the trials that the search was given when it was forked; often none."""
        return Ledger(self.storage.at("known"))

    def _write_header(self, spec: SearchSpec, facts: dict[str, Any]) -> None:
        tag = self.storage.tag(self._search_file.key)
        before = {"created_utc": utc_now().isoformat()} if tag is None else self.header()
        kept = {key: before[key] for key in ("created_utc", "forked_from") if key in before}
        header = {
            **kept,
            **facts,
            "schema_version": SCHEMA_VERSION,
            "pgsearch": __version__,
            "spec": spec.model_dump(mode="json"),
        }
        self._require_newest_driver()
        try:
            self._search_file.swap(as_json({**header, "sha256": _checksum(header)}), tag)
        except Conflict:
            raise self._driven_by_another(self._search_file) from None

    def _learn_from(self, source: "Ledger") -> dict[str, Any]:
        """Copy the finished trials of another search, whole files, and say where they are from."""
        num_trials = 0
        for record in source.trials():
            if not record.state.is_finished:
                continue
            for table in ("epochs", "trials"):
                file = source.file(table, record.number)
                stored = file.read()
                if stored is not None:
                    self.known().file(table, record.number).write(stored.data)
            num_trials += 1
        return {"search": source.name, "url": source.url, "num_trials": num_trials}

    @property
    def _search_file(self) -> StoredFile:
        return StoredFile(self.storage, "search.json")

    # ------------------------------------------------------------ trials

    def write_trial(self, record: TrialRecord) -> None:
        """Replace the row of a trial, which is still as this ledger last read or wrote it.

        Raises:
            StorageError: it cannot be written, or another driver changed it.
        """
        file = self.file("trials", record.number)
        data = as_parquet(as_table([trial_row(record, self.name)], trial_schema()))
        self._require_newest_driver()
        try:
            tag = file.swap(data, self._trial_tags.get(record.number))
        except Conflict:
            raise self._driven_by_another(file) from None
        self._trial_tags[record.number] = tag

    def _require_newest_driver(self) -> None:
        if self._driver is not None and not self.drivers().is_newest(self._driver):
            raise self._driven_by_another(self.url, "has taken it over")

    def _driven_by_another(self, what: object, why: str = "has changed it") -> StorageError:
        return StorageError(
            f"{what}: another driver {why}, so this one must not go on; see who drives the search "
            f"with pgsearch status {self.name}"
        )

    def trials(self, *, to_go_on: bool = False) -> list[TrialRecord]:
        """Return all trials by number. Raises StorageError naming a file that is damaged.

        Args:
            to_go_on: leave out the configurations of trials that have ended, which a driver does
                not need: they are most of the columns, and of the time and memory.
        """
        of_ended = [c for c in trial_schema().names if not is_configuration(c)]
        records = []
        self._trial_tags = {}
        for file, stored in fetch(self.files("trials")):
            if stored is None:
                continue  # removed since it was listed
            record = _as_record(file, stored, of_ended if to_go_on else None)
            if to_go_on and not record.state.is_finished:
                record = _as_record(file, stored)
            self._trial_tags[record.number] = stored.tag
            records.append(record)
        return sorted(records, key=lambda record: record.number)

    # ------------------------------------------------------------ epochs

    def epochs(self, number: int, *, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Return the recorded epochs of a trial, as rows in order. Raises StorageError.

        Args:
            number: of the trial.
            columns: those to read, an eighth of the time where they are few; None is all.
        """
        found = read_table(self.file("epochs", number), columns)
        return [] if found is None else list(found[0].to_pylist())

    def epochs_of(
        self, numbers: Iterable[int], *, columns: Sequence[str] | None = None
    ) -> Iterator[list[dict[str, Any]]]:
        """Yield the recorded epochs of several trials, as `epochs` returns those of one."""
        for file, stored in fetch([self.file("epochs", number) for number in numbers]):
            rows = [] if stored is None else parse_table(file, stored.data, columns).to_pylist()
            yield list(rows)

    def drivers(self) -> Claims:
        """Return the claims of the search's drivers."""
        return Claims(self.storage, "drivers/")

    def attempts(self, number: int) -> Claims:
        """Return the claims of a trial's executions."""
        return Claims(self.storage, f"attempts/{number:05d}-")

    def claim_attempt(self, number: int) -> int:
        """Begin an execution of a trial and return its number, from 1.

        The newest claim is the only one that may write: see `EpochWriter`.
        """
        claims = self.attempts(number)
        while True:
            if attempt := claims.claim(this_process(), after=claims.newest()):
                return attempt

    # ------------------------------------------------------------ places

    def checkpoint_file(self, number: int) -> StoredFile:
        """Return where the newest state of a trial lies."""
        return StoredFile(self.storage, f"checkpoints/{number:05d}.pt")

    def best_file(self, number: int) -> StoredFile:
        """Return where the classifier of a trial's best epoch lies."""
        return StoredFile(self.storage, f"checkpoints/{number:05d}.best.pt")

    def scores_file(self, number: int) -> StoredFile:
        """Return where the scores of a trial's last epoch lie."""
        return StoredFile(self.storage, f"scores/{number:05d}.parquet")

    def kept_checkpoints(self) -> list[int]:
        """Return the numbers of the trials that have a checkpoint."""
        keys = {entry.key for entry in self.storage.entries("checkpoints/")}
        numbers = {number for key in keys if (number := owner(key)) is not None}
        return sorted(n for n in numbers if self.checkpoint_file(n).key in keys)

    def with_weights_or_scores(self) -> set[int]:
        """Return the numbers of the trials that have a checkpoint, a best epoch or scores."""
        folders = ("checkpoints/", "scores/")
        keys = (entry.key for folder in folders for entry in self.storage.entries(folder))
        return {number for key in keys if (number := owner(key)) is not None}

    def remove_weights_and_scores(self, number: int) -> None:
        """Remove what only trials that are worth it keep."""
        for file_of in (self.checkpoint_file, self.best_file, self.scores_file):
            file_of(number).delete()

    def files(self, table: str) -> list[StoredFile]:
        """Return the Parquet files of `trials` or `epochs`."""
        return [StoredFile(self.storage, key) for key in self.versions(table)]

    def versions(self, table: str) -> dict[str, Tag]:
        """Return the versions of the Parquet files of `trials` or `epochs`, by key."""
        return {
            entry.key: entry.tag
            for entry in self.storage.entries(f"{table}/")
            if entry.key.endswith(".parquet")
        }

    def file(self, table: str, number: int) -> StoredFile:
        """Return the file of a trial in `trials` or `epochs`."""
        return StoredFile(self.storage, f"{table}/{number:05d}.parquet")


def owner(key: str) -> int | None:
    """Return the number of the trial whose checkpoint, best epoch or scores lie there, or None."""
    found = _WEIGHTS_OR_SCORES.fullmatch(key)
    return None if found is None else int(found[1] or found[2])


def _as_record(
    file: StoredFile, stored: Stored, columns: Sequence[str] | None = None
) -> TrialRecord:
    rows = parse_table(file, stored.data, columns).to_pylist()
    try:
        return trial_record(rows[0])
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise DamagedFile(file, f"not a row of a trial: {error!r}") from None


def _checksum(header: dict[str, Any]) -> str:
    return hashlib.sha256(as_json(header)).hexdigest()


def changed_keys(old: SearchSpec, new: SearchSpec) -> list[str]:
    """Return a line for each key in which two specs are not the same search."""
    before, after = old.identity(), new.identity()
    missing = object()
    return [
        f"{key}: was {before.get(key, 'absent')!r}, is {after.get(key, 'absent')!r}"
        for key in sorted({*before, *after})
        if before.get(key, missing) != after.get(key, missing)
    ]
