"""A search as a study in an SQLite database of Optuna, for optuna-dashboard and Optuna itself."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial, create_trial

from pgsearch.class_groups import GROUPS
from pgsearch.config import SearchSpec
from pgsearch.config.trial import Stage
from pgsearch.distributions import distribution
from pgsearch.errors import StorageError
from pgsearch.export.place import sqlite_url
from pgsearch.export.trials import Trial, read
from pgsearch.results import Ledger
from pgsearch.search.frozen import frozen_trial

VARIANT: Final = "variant"
"""Dimension that stands for the variants of an ablation."""
FILES: Final = None


def write(
    ledger: Ledger, file: Path, progress: Callable[[int, int], None], stage: Stage = "full"
) -> int:
    """Write the study and return how many trials of the ledger it has.

    Trial numbers are those of the search, or, of a search with stages, count those of the stage.

    Raises StorageError where the disk is full.
    """
    spec = ledger.spec()
    columns = {o.column for o in spec.objective}
    columns |= {
        f"map.{split}.{part}" for split in ("validation", "test") for part in ("total", *GROUPS)
    }
    trials = read(ledger, sorted(columns), stage)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with sqlite_url(file) as url:
            storage = optuna.storages.RDBStorage(url)
            study = _study(spec, storage)
            for done, trial in enumerate(_by_number(spec, trials), start=1):
                study.add_trial(trial)
                progress(min(done, len(trials)), len(trials))
            storage.remove_session()
            storage.engine.dispose()
    except optuna.exceptions.StorageInternalError as error:
        raise StorageError(f"{file.name}: cannot be written ({error})") from error
    return len(trials)


def _study(spec: SearchSpec, storage: optuna.storages.RDBStorage) -> optuna.Study:
    study = optuna.create_study(
        storage=storage,
        study_name=spec.name,
        directions=[objective.direction for objective in spec.objective],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names([objective.column for objective in spec.objective])
    if spec.purpose:
        study.set_user_attr("purpose", spec.purpose)
    return study


def _by_number(spec: SearchSpec, trials: list[Trial]) -> Iterator[FrozenTrial]:
    """Yield Optuna's trials from 0: it counts them itself, so a gap is filled.

    Not a gap that the trials of another stage leave: a study does not hold both.
    """
    # In the order of the spec's file, which the ledger does not keep: that of the first trials.
    variants = [*dict.fromkeys([*(trial.record.variant for trial in trials), *spec.variants])]
    spaces = {variant: _space(spec, variant, variants) for variant in spec.variant_names()}
    number = 0
    for trial in trials:
        while number < trial.record.number and spec.stages is None:
            yield _placeholder()
            number += 1
        yield _frozen(spec, trial, spaces[trial.record.variant])
        number += 1


def _space(
    spec: SearchSpec, variant: str | None, variants: Sequence[str | None]
) -> dict[str, BaseDistribution]:
    """Return the space of a variant, which itself is a choice: then plots can show it."""
    space = {d.name: distribution(d) for d in spec.dimensions(variant)}
    if variant is not None:
        space[VARIANT] = CategoricalDistribution(variants)
    return space


def _placeholder() -> FrozenTrial:
    """Return a trial in the place of one whose row is damaged or missing."""
    error = "its row in the ledger is damaged or missing"
    return create_trial(state=optuna.trial.TrialState.FAIL, user_attrs={"error": error})


def _frozen(spec: SearchSpec, trial: Trial, space: Mapping[str, BaseDistribution]) -> FrozenTrial:
    record = trial.record
    if record.variant is not None:
        record = replace(record, params={VARIANT: record.variant, **record.params})
    frozen = frozen_trial(record, trial.epochs, distributions=space, objectives=spec.objective)
    times = [row["recorded_utc"] for row in trial.epochs]
    frozen.datetime_start = _local(record.started_utc or min(times, default=None))
    if record.state.is_finished:
        frozen.datetime_complete = _local(record.ended_utc) or frozen.datetime_start
    for name, value in _attributes(trial).items():
        if value is not None:
            frozen.set_user_attr(name, value)
    return frozen


def _local(utc: datetime | None) -> datetime | None:
    """Return a time as Optuna's studies hold it: of the machine's zone, without saying so."""
    return None if utc is None else utc.astimezone().replace(tzinfo=None)


def _attributes(trial: Trial) -> dict[str, Any]:
    """Return what tells a trial apart and what came of it, at its newest epoch."""
    record = trial.record
    attributes: dict[str, Any] = {
        "uid": record.uid,
        "configuration_id": record.configuration_id,
        "seed": record.seed,
        "variant": record.variant,
        "retry_of": record.retry_of,
        "error": record.error,
        "epochs": len(trial.epochs),
    }
    newest = trial.epochs[-1] if trial.epochs else {}
    return attributes | {name: v for name, v in newest.items() if name.startswith("map.")}
