"""The ledger of one search: its Parquet files, the only source of truth.

    results/NAME/
        search.json           the spec, and what began it
        LOCK                  held by the driver that works on it
        trials/00003.parquet  one row: the driver's
        epochs/00003.parquet  one row per epoch: the trial's own
        attempts/00003-2.json a claim: the second execution of trial 3
        checkpoints/00003.pt  the newest state of trial 3
        scores/00003.parquet  scores of its last epoch, one row per image (`save_scores`)

One file per trial, replaced as a whole: an epoch is in it once however often it was computed, and
`pandas.read_parquet("results/NAME/epochs")` needs no help of ours to be right.
"""

import fcntl
import json
import math
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pgsearch.class_groups import GROUPS
from pgsearch.config import SearchSpec, TrialSpec, flatten, parse_spec
from pgsearch.errors import AttemptReplaced, IncompatibleResume, StorageError
from pgsearch.provenance import provenance, utc_now
from pgsearch.results.schema import (
    SCHEMA_VERSION,
    EpochRecord,
    TrialRecord,
    TrialState,
    epoch_schema,
    trial_schema,
)
from pgsearch.results.storage import replace_file, replace_json, sync_folder


class Ledger:
    """Results of one search in a folder. Opening it reads nothing and creates nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # ------------------------------------------------------------ the search

    @property
    def exists(self) -> bool:
        """Whether the folder holds a search."""
        return self._search_file.exists()

    def begin(self, spec: SearchSpec) -> None:
        """Create the search, or make sure that the one here is this one.

        Raises:
            IncompatibleResume: the folder holds another spec, or files that are not a search's.
            StorageError: the folder cannot be written or read.
        """
        if not self.exists:
            if self.folder.exists() and any(p.name != "LOCK" for p in self.folder.iterdir()):
                raise IncompatibleResume(
                    f"{self.folder}: holds files but no search.json, so it is not a search of "
                    "pgsearch; choose another name or another --results folder"
                )
            self._write_spec(spec)
            return
        known = self.spec()
        old, new = known.identity(), spec.identity()
        missing = object()
        changes = [
            f"  {key}: was {old.get(key, 'absent')!r}, is {new.get(key, 'absent')!r}"
            for key in sorted({*old, *new})
            if old.get(key, missing) != new.get(key, missing)
        ]
        if changes:
            raise IncompatibleResume(
                f"{self.folder} holds another search of this name; it differs in\n"
                + "\n".join(changes)
                + "\nrestore these values to continue it, or start another search with name=…"
            )
        if known != spec:
            self._write_spec(spec)

    def spec(self) -> SearchSpec:
        """Return the spec of the search. Raises StorageError where there is none."""
        return parse_spec(self._header()["spec"], str(self._search_file))

    def created_utc(self) -> str:
        """Return when the search began, in ISO format."""
        return str(self._header()["created_utc"])

    def _header(self) -> dict[str, Any]:
        try:
            header = json.loads(self._search_file.read_bytes())
            version = header["schema_version"]
        except FileNotFoundError:
            raise StorageError(
                f"{self.folder}: holds no search (there is no search.json)"
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(f"{self._search_file}: cannot be read: {error}") from None
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{self._search_file}: written by pgsearch {header.get('pgsearch')} with schema "
                f"{version}; this version knows {SCHEMA_VERSION}: update pgsearch"
            )
        return dict(header)

    def _write_spec(self, spec: SearchSpec) -> None:
        created = self.created_utc() if self.exists else utc_now().isoformat()
        replace_json(
            self._search_file,
            {
                "schema_version": SCHEMA_VERSION,
                "created_utc": created,
                "pgsearch": provenance().get("pgsearch"),
                "spec": spec.model_dump(mode="json"),
            },
        )

    @property
    def _search_file(self) -> Path:
        return self.folder / "search.json"

    # ------------------------------------------------------------ trials

    def write_trial(self, record: TrialRecord) -> None:
        """Replace the row of a trial. Raises StorageError."""
        row = {
            "search": self.folder.name,
            "trial": record.uid,
            "number": record.number,
            "state": record.state.value,
            "variant": record.variant,
            "seed": record.seed,
            "configuration_id": record.configuration_id,
            "params": json.dumps(record.params, sort_keys=True),
            "values": record.values,
            "attempts": record.attempts,
            "epochs": record.epochs,
            "error": record.error,
            "wall_seconds": record.wall_seconds,
            "started_utc": record.started_utc,
            "ended_utc": record.ended_utc,
            "optuna_state": json.dumps(record.optuna_state, sort_keys=True),
            **record.configuration,
        }
        _write_rows(self.file("trials", record.number), [row], trial_schema())

    def trials(self) -> list[TrialRecord]:
        """Return all trials by number. Raises StorageError naming a file that is damaged."""
        rows = [row for path in self.files("trials") for row in _read_rows(path)]
        return [_trial_record(row) for row in sorted(rows, key=lambda row: int(row["number"]))]

    # ------------------------------------------------------------ epochs

    def epochs(self, number: int) -> list[dict[str, Any]]:
        """Return the recorded epochs of a trial, as rows in order. Raises StorageError."""
        path = self.file("epochs", number)
        return _read_rows(path) if path.exists() else []

    def claim_attempt(self, number: int) -> int:
        """Begin an execution of a trial and return its number, from 1.

        The newest claim is the only one that may write: see `EpochWriter`.
        """
        folder = self.folder / "attempts"
        claim = {"host": socket.gethostname(), "pid": os.getpid(), "utc": utc_now().isoformat()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            attempt = self.num_attempts(number) + 1
            while True:
                try:
                    with self._claim(number, attempt).open("x") as file:
                        json.dump(claim, file)
                        file.flush()
                        os.fsync(file.fileno())
                    sync_folder(folder)
                except FileExistsError:
                    attempt += 1
                else:
                    return attempt
        except OSError as error:
            raise StorageError(f"{folder}: an attempt cannot be claimed: {error}") from error

    def num_attempts(self, number: int) -> int:
        """Return how many executions of a trial were begun."""
        return len(list((self.folder / "attempts").glob(f"{number:05d}-*.json")))

    def is_newest_attempt(self, number: int, attempt: int) -> bool:
        """Whether no later execution of the trial was begun."""
        return not self._claim(number, attempt + 1).exists()

    # ------------------------------------------------------------ places

    def checkpoint_file(self, number: int) -> Path:
        """Return where the newest state of a trial lies."""
        return self.folder / "checkpoints" / f"{number:05d}.pt"

    def scores_file(self, number: int) -> Path:
        """Return where the scores of a trial's last epoch lie."""
        return self.folder / "scores" / f"{number:05d}.parquet"

    def files(self, table: str) -> list[Path]:
        """Return the Parquet files of `trials` or `epochs`."""
        return sorted((self.folder / table).glob("[0-9]*.parquet"))

    def file(self, table: str, number: int) -> Path:
        """Return the file of a trial in `trials` or `epochs`."""
        return self.folder / table / f"{number:05d}.parquet"

    def _claim(self, number: int, attempt: int) -> Path:
        return self.folder / "attempts" / f"{number:05d}-{attempt}.json"


class EpochWriter:
    """Records the epochs of one execution of a trial: each epoch once, whoever computed it."""

    def __init__(self, ledger: Ledger, trial: TrialSpec, attempt: int) -> None:
        self._ledger, self._trial, self._attempt = ledger, trial, attempt
        self._rows = ledger.epochs(trial.number)
        for row in self._rows:
            if (row["configuration_id"], row["seed"]) != (trial.configuration_id, trial.seed):
                raise StorageError(
                    f"{ledger.file('epochs', trial.number)}: holds epochs of another configuration "
                    "or seed; begin in another folder, or move the file away"
                )

    def append(self, record: EpochRecord) -> dict[str, Any]:
        """Record an epoch and return its row; one that is recorded already stays as it is.

        Raises:
            StorageError: it cannot be written.
            AttemptReplaced: a newer execution of this trial has begun.
        """
        for row in self._rows:
            if row["epoch"] == record.epoch:
                return row
        if not self._ledger.is_newest_attempt(self._trial.number, self._attempt):
            raise AttemptReplaced(
                f"{self._trial.uid}: attempt {self._attempt} was replaced by a newer one and "
                "records nothing more"
            )
        row = _epoch_row(record, self._trial, self._attempt)
        rows = [*self._rows, row]
        _write_rows(self._ledger.file("epochs", self._trial.number), rows, epoch_schema())
        self._rows = rows
        return row


class DriverLock:
    """Exclusive right to drive the search in a folder; the system frees it if the driver dies."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "LOCK"

    def __enter__(self) -> "DriverLock":
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a+")
        except OSError as error:
            raise StorageError(f"{self._path}: cannot be written: {error}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise StorageError(
                f"{self._path.parent}: another driver works on this search ({holder}); "
                "wait for it or stop it"
            ) from None
        self._file.truncate(0)
        since = utc_now().isoformat(timespec="seconds")
        self._file.write(f"host {socket.gethostname()}, pid {os.getpid()}, since {since}\n")
        self._file.flush()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()


# ---------------------------------------------------------------- rows and files


def read_table(path: Path) -> pa.Table:
    """Return one file of the ledger. Raises StorageError naming a damaged file."""
    try:
        return pq.read_table(path, page_checksum_verification=True, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(
            f"{path}: damaged or not a Parquet file ({str(error).splitlines()[0]}); restore it "
            "from a copy, or begin the search again under another name"
        ) from None


def _read_rows(path: Path) -> list[dict[str, Any]]:
    return list(read_table(path).to_pylist())


def _write_rows(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise KeyError(f"no column for {sorted(unknown)}")
    table = pa.Table.from_pylist(rows, schema=schema)
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    replace_file(path, lambda file: file.write(buffer.getvalue()))


def _epoch_row(record: EpochRecord, trial: TrialSpec, attempt: int) -> dict[str, Any]:
    row: dict[str, Any] = {
        "search": trial.search,
        "trial": trial.uid,
        "number": trial.number,
        "attempt": attempt,
        "variant": trial.variant,
        "seed": trial.seed,
        "configuration_id": trial.configuration_id,
        "epoch": record.epoch,
        "iterations": record.iterations,
        "recorded_utc": utc_now(),
        "loss.train": record.train_loss,
        "learning_rate": record.learning_rate,
        "gradient_norm": record.gradient_norm,
        "num_train_images": record.num_train_images,
        "train_seconds": record.train_seconds,
        "evaluation_seconds": record.evaluation_seconds,
        "images_per_second": record.num_train_images / max(record.train_seconds, 1e-9),
        "peak_memory_bytes": record.peak_memory_bytes,
        "classes": record.class_names,
        "class.count": record.class_counts,
        "class.group": [GROUPS[group] for group in record.class_groups],
        "class.p_pos": _defined(record.p_pos),
        "class.p_neg": _defined(record.p_neg),
        "data_fingerprint": record.data_fingerprint,
        "weights_fingerprint": record.weights_fingerprint,
        "provenance": json.dumps(provenance(), sort_keys=True),
        **flatten(trial.configuration),
    }
    row |= {f"loss.{split}": _defined(value) for split, value in record.loss.items()}
    for split, parts in record.map.items():
        row |= {f"map.{split}.{part}": _defined(value) for part, value in parts.items()}
    for split, means in record.f1.items():
        row |= {f"f1.{split}.{mean}": _defined(value) for mean, value in means.items()}
    row |= {f"class.ap.{split}": _defined(values) for split, values in record.ap.items()}
    row |= {f"p_pos.{group}": _defined(record.group_p_pos[group]) for group in GROUPS}
    row |= {f"p_neg.{group}": _defined(record.group_p_neg[group]) for group in GROUPS}
    row |= {f"class.{name}": _defined(values) for name, values in record.factors.items()}
    return row


def _defined(value: Any) -> Any:
    """Return NaN as null: an undefined number is missing, for every reader of the file."""
    if isinstance(value, list):
        return [_defined(item) for item in value]
    return None if math.isnan(value) else value


def _trial_record(row: Mapping[str, Any]) -> TrialRecord:
    return TrialRecord(
        number=row["number"],
        uid=row["trial"],
        state=TrialState(row["state"]),
        seed=row["seed"],
        variant=row["variant"],
        configuration_id=row["configuration_id"],
        params=json.loads(row["params"]),
        values=row["values"],
        attempts=row["attempts"],
        epochs=row["epochs"],
        error=row["error"],
        wall_seconds=row["wall_seconds"],
        started_utc=row["started_utc"],
        ended_utc=row["ended_utc"],
        optuna_state=json.loads(row["optuna_state"]),
        configuration={
            name: value
            for name, value in row.items()
            if name.startswith(("data.", "model.", "loss.", "training.")) and value is not None
        },
    )
