"""What the pages know of a search: read once, and again only when its files have changed."""

import contextlib
import hashlib
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pandas as pd

from pgsearch.analysis.ranking import complete_trials, ranked_configurations
from pgsearch.analysis.stages import lines
from pgsearch.analysis.tables import leaderboard
from pgsearch.config import SearchSpec
from pgsearch.config.search import AUTO
from pgsearch.config.trial import Stage
from pgsearch.results import Ledger, read_epochs, read_trials
from pgsearch.results.lease import newest_driver
from pgsearch.results.read import DamagedFileWarning, searches
from pgsearch.results.storage import open_storage

MAX_SEARCHES: Final = 8
"""Searches that are kept in memory."""
SHARE_OF_TIME: Final = 0.2
"""Of one processor, that looking and reading may take while pages ask again and again."""

TRIAL_COLUMNS: Final = (
    *("trial", "number", "state", "retry_of", "variant", "seed", "configuration_id", "params"),
    *("attempts", "epochs", "error", "wall_seconds", "started_utc", "ended_utc"),
)
EPOCH_COLUMNS: Final = (
    "number",
    "epoch",
    "recorded_utc",
    "train_seconds",
    "evaluation_seconds",
    "gpus",
)
ORIGIN_COLUMNS: Final = ("data_fingerprint", "weights_fingerprint", "provenance")
SUMMED: Final = ["train_seconds", "evaluation_seconds", "gpu_seconds"]
CLASS_COLUMNS: Final = ("classes", "class.count", "class.group")


class NotThere(Exception):
    """There is no such search or trial; the message says what there is."""


@dataclass(frozen=True)
class Reading:
    """One search as it was at one moment."""

    ledger: Ledger
    spec: SearchSpec
    version: str
    """Another one where anything that a page shows may have changed."""
    board: pd.DataFrame
    """What `leaderboard` gives."""
    trials: pd.DataFrame
    """One row per trial: TRIAL_COLUMNS."""
    ranked: pd.DataFrame
    """The configurations of complete trials, the best first: see `ranked_configurations`."""
    stages: tuple[str, ...]
    """What `analysis.stages` says of a search with stages."""
    newest: pd.DataFrame
    """The newest epoch of each trial that has one: origin, classes, and SUMMED over its epochs."""
    driver: str | None
    damaged: tuple[str, ...]
    """A line for each file that was left out."""

    @property
    def name(self) -> str:
        """Name of the search."""
        return self.ledger.name

    @property
    def planned_epochs(self) -> dict[Stage | None, int]:
        """Epochs of a whole trial, by stage."""
        return {stage: self.spec.epochs_of(stage) for stage in self.spec.stage_names}


def read_search(ledger: Ledger) -> Reading:
    """Read a search. Raises StorageError where it cannot be."""
    version, driver = _version_and_driver(ledger)
    with noting_damage() as damaged:
        spec = ledger.spec()
        board = leaderboard(ledger)
        trials: pd.DataFrame = read_trials(ledger, TRIAL_COLUMNS).to_pandas()
        ranked = ranked_configurations(complete_trials(ledger), spec)
        stages = tuple(lines(ledger))
        newest = _newest_epochs(ledger, spec)
    return Reading(
        ledger=ledger,
        spec=spec,
        version=version,
        board=board,
        trials=trials,
        ranked=ranked,
        stages=stages,
        newest=newest,
        driver=driver,
        damaged=tuple(dict.fromkeys(damaged)),
    )


@contextlib.contextmanager
def noting_damage() -> Iterator[list[str]]:
    """Give the list into which damaged files that are left out go, instead of being warned of.

    In one thread at a time: what catches warnings is the whole process's.
    """
    damaged: list[str] = []
    with _CATCHING:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield damaged
        for warning in caught:
            if issubclass(warning.category, DamagedFileWarning):
                damaged.append(str(warning.message).removeprefix("left out: "))
            else:
                warnings.warn_explicit(
                    warning.message, warning.category, warning.filename, warning.lineno
                )


_CATCHING = threading.RLock()


def _newest_epochs(ledger: Ledger, spec: SearchSpec) -> pd.DataFrame:
    columns = [*EPOCH_COLUMNS, *ORIGIN_COLUMNS, *CLASS_COLUMNS]
    epochs: pd.DataFrame = read_epochs(ledger, columns).to_pandas()
    asked = spec.resources.gpus  # an older version did not record what was occupied
    gpus_N = epochs.pop("gpus").fillna(0.0 if asked == AUTO else asked)
    epochs["gpu_seconds"] = gpus_N * (epochs["train_seconds"] + epochs["evaluation_seconds"])
    by_trial = epochs.groupby("number", as_index=False)
    seconds = by_trial[SUMMED].sum()
    newest = by_trial.tail(1).drop(columns=SUMMED)
    return newest.merge(seconds, on="number").reset_index(drop=True)


def _version_and_driver(ledger: Ledger) -> tuple[str, str | None]:
    """Return what tells a changed search, without reading its files, and who drives it."""
    driver = newest_driver(ledger.storage)
    files = {**ledger.versions("trials"), **ledger.versions("epochs")}
    parts = [str(ledger.storage.tag("search.json")), str(driver)]
    parts += [f"{tag} {key}" for key, tag in sorted(files.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16], driver


@dataclass
class _Kept:
    reading: Reading
    look_again: float


class Readings:
    """The searches of one results folder. The newest few that were asked for stay in memory.

    Args:
        results: folder or URL that holds the searches.
    """

    def __init__(self, results: str) -> None:
        self.results = open_storage(results)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._names: tuple[float, list[str]] = (0.0, [])

    def names(self) -> list[str]:
        """Return the names of the searches that are there."""
        until, names = self._names
        if time.monotonic() >= until:
            begun = time.monotonic()
            names = searches(self.results.url)
            self._names = (self._next_look(begun), names)
        return names

    def ledger(self, name: str) -> Ledger:
        """Return the ledger of a search by its name alone, which is no path. Raises NotThere."""
        is_name = name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)
        if is_name and (ledger := Ledger(self.results.at(name))).exists:
            return ledger
        raise NotThere(f"There is no search {name!r} in {self.results.url}.")

    def get(self, name: str) -> Reading:
        """Return a search as it is, or was within the last moments. Raises NotThere."""
        with noting_damage():
            kept = self._kept.get(name)
            if kept is not None and time.monotonic() < kept.look_again:
                self._kept.move_to_end(name)
                return kept.reading
            begun = time.monotonic()
            ledger = self.ledger(name)
            reading = kept.reading if kept is not None else None
            if reading is None or _version_and_driver(ledger)[0] != reading.version:
                reading = read_search(ledger)
            self._kept[name] = _Kept(reading, self._next_look(begun))
            self._kept.move_to_end(name)
            while len(self._kept) > MAX_SEARCHES:
                self._kept.popitem(last=False)
            return reading

    def _next_look(self, begun: float) -> float:
        """A large or distant search is looked at less often: pages may ask as they like."""
        now = time.monotonic()
        return now + max(self.results.seconds_between_polls, (now - begun) / SHARE_OF_TIME)
