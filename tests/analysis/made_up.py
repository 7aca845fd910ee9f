"""Ledgers with made-up numbers per class, written at once and without a driver."""

import datetime
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pgsearch.class_groups import GROUPS
from pgsearch.config import SearchSpec, flatten
from pgsearch.results import FACTORS, EpochRecord, Ledger, TrialRecord, TrialState
from pgsearch.results.rows import as_parquet, as_table, epoch_row, trial_row
from pgsearch.results.schema import epoch_schema, trial_schema
from tests.records import epoch_record

CLASSES = ["rare", "common", "usual", "$x_$", "a_b&c%", "<script>alert(1)</script>"]
COUNTS = [3, 400, 40, 150, 10, 25]
CLASS_GROUPS = [2, 0, 1, 0, 2, 1]
NAN = float("nan")


@dataclass(frozen=True)
class MadeUp:
    """One trial to write."""

    params: dict[str, Any] = field(default_factory=dict)
    variant: str | None = None
    seed: int = 0
    state: TrialState = TrialState.COMPLETE
    epochs: int = 3
    value: float | None = None
    """mAP of the last epoch in every group; else made up."""


def ledger_of(
    folder: Path, search: SearchSpec, trials: Sequence[MadeUp], *, classes: list[str] = CLASSES
) -> Ledger:
    """Write a search; the numbers differ by trial, epoch, class and group and are always the same.

    The class "usual" has no AP, and no negative after the first epoch.
    """
    ledger = Ledger(folder)
    ledger.begin(search)
    for name in ("epochs", "trials"):
        (folder / name).mkdir(exist_ok=True)
    for number, made_up in enumerate(trials):
        spec = search.trial(number, made_up.params, made_up.variant, seed=made_up.seed)
        records = [
            _epoch(number, epoch, made_up, classes) for epoch in range(1, made_up.epochs + 1)
        ]
        rows = [epoch_row(record, spec, 1) for record in records]
        if rows:
            data = as_parquet(as_table(rows, epoch_schema()))
            (folder / "epochs" / f"{number:05d}.parquet").write_bytes(data)
        is_complete = made_up.state is TrialState.COMPLETE
        record = TrialRecord(
            number=number,
            uid=spec.uid,
            state=made_up.state,
            seed=spec.seed,
            variant=made_up.variant,
            configuration_id=spec.configuration_id,
            params=made_up.params,
            values=[rows[-1][o.column] for o in search.objective] if is_complete else None,
            attempts=1,
            epochs=made_up.epochs,
            wall_seconds=1.0,
            started_utc=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
            configuration=flatten(spec.configuration),
        )
        data = as_parquet(as_table([trial_row(record, search.name)], trial_schema()))
        (folder / "trials" / f"{number:05d}.parquet").write_bytes(data)
    return ledger


def _epoch(number: int, epoch: int, made_up: MadeUp, classes: list[str]) -> EpochRecord:
    rng = random.Random(f"{number}-{epoch}")

    def of_classes() -> list[float]:
        return [rng.random() for _ in classes]

    is_last = epoch == made_up.epochs
    is_tested = is_last and made_up.state is TrialState.COMPLETE
    splits = ("validation", "test") if is_tested else ("validation",)
    parts = {part: rng.random() for part in ("total", *GROUPS)}
    if is_last and made_up.value is not None:
        parts = dict.fromkeys(parts, made_up.value)
    f1 = {"micro": rng.random(), "macro": rng.random()}
    without_ap = [NAN if name == "usual" else rng.random() for name in classes]
    p_neg = [NAN if name == "usual" and epoch > 1 else rng.random() for name in classes]
    return replace(
        epoch_record(epoch),
        map=dict.fromkeys(splits, parts),
        ap=dict.fromkeys(splits, without_ap),
        f1=dict.fromkeys(splits, f1),
        loss=dict.fromkeys(splits, rng.random()),
        p_pos=of_classes(),
        p_neg=p_neg,
        group_p_pos={group: rng.random() for group in GROUPS},
        group_p_neg={group: rng.random() for group in GROUPS},
        factors={name: [0.5 + rng.random() for _ in classes] for name in FACTORS},
        class_names=classes,
        class_counts=COUNTS[: len(classes)],
        class_groups=CLASS_GROUPS[: len(classes)],
    )
