"""Between records and the rows of Parquet files: one file per trial, whole, checksummed."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pgsearch.class_groups import GROUPS
from pgsearch.config import TrialSpec, flatten
from pgsearch.errors import StorageError
from pgsearch.provenance import provenance, utc_now
from pgsearch.results.checksum import KEY, NO_CHECKSUM, parquet_is_whole, seal_parquet
from pgsearch.results.schema import (
    SCHEMA_VERSION,
    EpochRecord,
    TrialRecord,
    TrialState,
    is_configuration,
)
from pgsearch.results.storage import StoredFile, Tag

FIRST_WITH_CHECKSUM = 2
"""Schema version."""


def read_table(
    file: StoredFile, columns: Sequence[str] | None = None
) -> tuple[pa.Table, Tag] | None:
    """Return a Parquet file of the ledger and its version; None where there is none.

    Args:
        file: which.
        columns: those to read, of which an older file may lack some; None is all.

    Raises:
        DamagedFile: a bit of it is not as it was written, or it is not a file of pgsearch.
        StorageError: a newer pgsearch wrote it.
    """
    stored = file.read()
    return None if stored is None else (parse_table(file, stored.data, columns), stored.tag)


def parse_table(file: StoredFile, data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return what was read of a Parquet file of the ledger as a table; raises as `read_table`."""
    is_whole = parquet_is_whole(data)
    if is_whole is False:
        raise DamagedFile(file, "its checksum is wrong")
    try:
        # Small files: threads would cost more than they gain, and outlive a short command.
        table = pq.ParquetFile(
            pa.BufferReader(data),
            page_checksum_verification=is_whole is None,
            pre_buffer=False,
        ).read(columns if is_whole else None, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise DamagedFile(file, str(error).splitlines()[0] if str(error) else "empty") from None
    metadata = table.schema.metadata or {}
    version = metadata.get(b"pgsearch.schema_version", b"")
    if not version.isdigit():
        raise DamagedFile(file, "another program wrote it")
    require_known_version(file, int(version), metadata.get(b"pgsearch.version", b"").decode())
    if int(version) >= FIRST_WITH_CHECKSUM and is_whole is None:
        raise DamagedFile(file, "its checksum is gone")
    if columns is not None and not is_whole:  # only what is read of it is compared with a checksum
        table = table.select([name for name in columns if name in table.schema.names])
    return table


def require_known_version(file: object, version: int, writer: str | None) -> None:
    """Refuse what a newer pgsearch wrote. Raises StorageError."""
    if version > SCHEMA_VERSION:
        raise StorageError(
            f"{file}: written by pgsearch {writer or '(unknown)'} with schema {version}; this "
            f"version knows {SCHEMA_VERSION}: update pgsearch"
        )


class DamagedFile(StorageError):
    """A file of the results cannot be read: set it aside with `pgsearch verify --repair`."""

    def __init__(self, file: object, reason: str) -> None:
        self.reason = reason
        super().__init__(
            f"{file}: damaged or not a file of pgsearch ({reason}); restore it from a copy, or "
            "set it aside with pgsearch verify SEARCH --repair"
        )


def as_parquet(table: pa.Table, *, few_rows: bool = True) -> bytes:
    """Return a table as the bytes of a Parquet file that carries a checksum of all its bytes."""
    buffer = pa.BufferOutputStream()
    with pq.ParquetWriter(
        buffer,
        table.schema,
        # The Arrow schema says nothing that Parquet's own does not but the description of each
        # column, which is half of a file of few rows; results/README.md has them.
        store_schema=False,
        # Of few rows in 160 columns, statistics and dictionaries would double the size and, with a
        # slower compression, treble the time to write and to read.
        compression="snappy" if few_rows else "zstd",
        use_dictionary=not few_rows,
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({**(table.schema.metadata or {}), KEY: NO_CHECKSUM})
    return seal_parquet(buffer.getvalue().to_pybytes())


def as_table(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table. Raises KeyError for a value without a column."""
    unknown = {key for row in rows for key in row} - set(schema.names)
    if unknown:
        raise KeyError(f"no column for {sorted(unknown)}")
    return pa.Table.from_pylist(rows, schema=schema)


def epoch_row(record: EpochRecord, trial: TrialSpec, attempt: int) -> dict[str, Any]:
    """Return the row of an epoch; numbers that are not defined are None."""
    row: dict[str, Any] = {
        "search": trial.search,
        "trial": trial.uid,
        "number": trial.number,
        "attempt": attempt,
        "variant": trial.variant,
        "stage": trial.stage,
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
        "precision": record.precision,
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


def trial_row(record: TrialRecord, search: str) -> dict[str, Any]:
    """Return the row of a trial."""
    return {
        "search": search,
        "trial": record.uid,
        "number": record.number,
        "state": record.state.value,
        "retry_of": record.retry_of,
        "variant": record.variant,
        "stage": record.stage,
        "promoted_from": record.promoted_from,
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


def trial_record(row: Mapping[str, Any]) -> TrialRecord:
    """Return the record that a row was made of, also a row of an older schema."""
    return TrialRecord(
        number=row["number"],
        uid=row["trial"],
        state=TrialState(row["state"]),
        retry_of=row.get("retry_of"),  # since schema 2
        stage=row.get("stage"),  # since schema 3
        promoted_from=row.get("promoted_from"),
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
        configuration=configuration_of(row),
    )


def configuration_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat configuration in a row of a trial or an epoch."""
    return {
        name: value for name, value in row.items() if value is not None and is_configuration(name)
    }
