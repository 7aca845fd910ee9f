"""A search as an experiment in an SQLite database of MLflow: a run per trial.

MLflow 3 refuses to write its former folders of files (`mlruns/`); databases are what it writes and
what `mlflow ui` opens.
"""

import logging
import os
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pgsearch.config import SearchSpec
from pgsearch.config.trial import Stage
from pgsearch.errors import StorageError, UsageError
from pgsearch.export.place import sqlite_url
from pgsearch.export.trials import Trial, metric_columns, metrics, read
from pgsearch.results import Ledger, TrialState

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

STATUS: Final = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAIL: "FAILED",
}
"""MLflow's words; a trial that has not ended is RUNNING there too."""
MAX_TEXT: Final = 6000
"""Characters of a value in MLflow."""
FILES: Final = None


def write(
    ledger: Ledger, file: Path, progress: Callable[[int, int], None], stage: Stage = "full"
) -> int:
    """Write one run per trial and return how many there are.

    Raises:
        UsageError: MLflow is not installed.
        StorageError: the disk is full.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
    except ModuleNotFoundError as error:
        raise UsageError(
            f"an export to MLflow needs its client ({error}): pip install 'pgsearch[mlflow]'"
        ) from None
    for name in ("mlflow", "alembic"):  # they tell of each table that they make
        logging.getLogger(name).setLevel(logging.WARNING)
    spec, trials = ledger.spec(), read(ledger, metric_columns(), stage)
    try:
        with sqlite_url(file) as url:
            client = MlflowClient(tracking_uri=url)
            experiment = client.create_experiment(
                spec.name,
                # The server's own place, whichever serves it; else it would be a folder of here.
                artifact_location="mlflow-artifacts:/",
                tags={"purpose": spec.purpose, "method": spec.method},
            )
            for done, trial in enumerate(trials, start=1):
                _write_run(client, experiment, spec, trial)
                progress(done, len(trials))
    except MlflowException as error:
        raise StorageError(f"{file.name}: cannot be written ({error})") from error
    return len(trials)


def _write_run(client: "MlflowClient", experiment: str, spec: SearchSpec, trial: Trial) -> None:
    from mlflow.entities import Metric, Param

    record = trial.record
    run = client.create_run(
        experiment, start_time=_milliseconds(record.started_utc), run_name=trial.name,
        tags=_tags(trial),
    )  # fmt: skip
    values = [
        Metric(tag, value, _milliseconds(row["recorded_utc"]) or 0, row["epoch"])
        for row in trial.epochs
        for tag, value in metrics(row).items()
    ]
    settings = [Param(name, value) for name, value in _settings(spec, trial).items()]
    client.log_batch(run.info.run_id, metrics=values, params=settings)
    if record.state in STATUS:
        ended = _milliseconds(record.ended_utc)
        client.set_terminated(run.info.run_id, STATUS[record.state], ended)


def _settings(spec: SearchSpec, trial: Trial) -> dict[str, str]:
    """Return the seed and the whole configuration; MLflow can show only what differs."""
    record = trial.record
    configuration: Mapping[str, Any] = record.configuration or {  # its values do not go together
        target: record.params[dimension.name]
        for dimension in spec.dimensions(record.variant)
        if dimension.name in record.params
        for target in dimension.targets
    }
    settings = {"seed": record.seed, "variant": record.variant, **configuration}
    return {name: _text(value) for name, value in settings.items() if value is not None}


def _tags(trial: Trial) -> dict[str, str]:
    record = trial.record
    tags = {
        "number": record.number,
        "uid": record.uid,
        "state": record.state.value,
        "configuration_id": record.configuration_id,
        "retry_of": record.retry_of,
        "attempts": record.attempts,
        "error": record.error,
    }
    return {name: _text(value) for name, value in tags.items() if value is not None}


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _milliseconds(utc: datetime | None) -> int | None:
    return None if utc is None else round(utc.timestamp() * 1000)
