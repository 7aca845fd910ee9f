"""The page of one trial, as facts: its curves, its classes, its attempts."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from pgsearch.analysis.tables import PARTS
from pgsearch.class_groups import GROUPS
from pgsearch.config import flatten
from pgsearch.errors import StorageError
from pgsearch.results import FACTORS
from pgsearch.results.schema import EVALUATED_SPLITS
from pgsearch.web import facts
from pgsearch.web.pages import moment, number, summary, trial_row
from pgsearch.web.reading import NotThere, Reading

FACTOR_TITLES: Final = {
    "lambda1_neg": "Factor λ₁⁻",
    "lambda2_neg": "Factor λ₂⁻",
    "lambda1_pos": "Factor λ₁⁺",
    "lambda2_pos": "Factor λ₂⁺",
    "focusing_neg": "Focusing factor of negatives",
    "focusing_pos": "Focusing factor of positives",
}


def trial(reading: Reading, trial_number: int) -> facts.Trial:
    """Return all about one trial. Raises NotThere where there is none of this number."""
    board = reading.board
    numbers = sorted(board["number"])
    if trial_number not in numbers:
        raise NotThere(f"{reading.name} has no trial {trial_number}; {_there_are(numbers)}.")
    place = int(board.index[board["number"] == trial_number][0])
    row = board.loc[place].to_dict()
    record = reading.trials[reading.trials["number"] == trial_number].to_dict("records")[0]
    epochs, damaged = _epochs(reading, trial_number)
    same = board["configuration_id"] == row["configuration_id"]
    return facts.Trial(
        search=summary(reading),
        version=reading.version,
        row=trial_row(row, place + 1, reading.planned_epochs),
        uid=record["trial"],
        promoted_to=sorted(board.loc[board["promoted_from"] == trial_number, "number"]),
        retry_of=None if pd.isna(record["retry_of"]) else int(record["retry_of"]),
        replicates=[n for n in sorted(board.loc[same, "number"]) if n != trial_number],
        wall_seconds=number(record["wall_seconds"]),
        started_utc=moment(record["started_utc"]),
        ended_utc=moment(record["ended_utc"]),
        error=record["error"] if isinstance(record["error"], str) else None,
        configuration=_configuration(reading, row),
        curves=_curves(epochs),
        classes=_classes(epochs[-1]) if epochs else [],
        attempts=_attempts(reading, trial_number, epochs),
        damaged=damaged,
    )


def _there_are(numbers: Sequence[int]) -> str:
    if not numbers:
        return "it has none yet"
    return f"there are {len(numbers)}, from {numbers[0]} to {numbers[-1]}"


def _epochs(reading: Reading, trial_number: int) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        return reading.ledger.epochs(trial_number), []
    except StorageError as error:
        return [], [str(error)]


def _configuration(reading: Reading, row: Mapping[Any, Any]) -> dict[str, Any]:
    variant = row["variant"] if isinstance(row["variant"], str) else None
    spec = reading.spec.trial(
        row["number"], row["params"], variant, seed=row["seed"], stage=row["stage"]
    )
    return flatten(spec.configuration)


def _curves(epochs: Sequence[Mapping[str, Any]]) -> list[facts.Curves]:
    if not epochs:
        return []
    maps = [
        (part, part, split == "test", [row[f"map.{split}.{part}"] for row in epochs])
        for split in EVALUATED_SPLITS
        for part in PARTS
    ]
    losses = [
        (split, split, False, [row[f"loss.{split}"] for row in epochs])
        for split in ("train", *EVALUATED_SPLITS)
    ]
    found = [
        _chart(epochs, "map", "mAP on validation (dashed: test)", "%", maps),
        _chart(epochs, "loss", "Loss", "", losses),
    ]
    for sign, title in (
        ("pos", "Probability p⁺ of positives"),
        ("neg", "Probability p⁻ of negatives"),
    ):
        lines = [(g, g, False, [row[f"p_{sign}.{g}"] for row in epochs]) for g in GROUPS]
        found.append(_chart(epochs, f"p_{sign}", title, "", lines))
    for factor in FACTORS:
        lines = [(g, g, False, [_group_mean(row, factor, g) for row in epochs]) for g in GROUPS]
        found.append(_chart(epochs, factor, FACTOR_TITLES[factor], "", lines))
    return [chart for chart in found if chart.series]


def _chart(
    epochs: Sequence[Mapping[str, Any]],
    name: str,
    title: str,
    unit: Any,
    lines: Sequence[tuple[str, str, bool, Sequence[float | None]]],
) -> facts.Curves:
    """Return a chart of those lines that have a number."""
    series = [
        facts.Series(
            name=f"{line} (test)" if is_dashed else line,
            kind=kind,
            is_dashed=is_dashed,
            values=[number(value) for value in values],
        )
        for line, kind, is_dashed, values in lines
        if any(value is not None for value in values)
    ]
    return facts.Curves(
        name=name,
        title=title,
        unit=unit,
        epochs=[row["epoch"] for row in epochs],
        series=series,
        is_factor=name in FACTORS,
        is_constant=all(len(set(line.values)) == 1 for line in series),
    )


def _group_mean(row: Mapping[str, Any], factor: str, group: str) -> float | None:
    """Return the mean of an effective factor over the classes of a group that have it."""
    values = row[f"class.{factor}"]
    if values is None:
        return None
    groups = row["class.group"]
    there = [v for v, g in zip(values, groups, strict=True) if g == group and v is not None]
    return math.fsum(there) / len(there) if there else None


def _classes(row: Mapping[str, Any]) -> list[facts.ClassRow]:
    """Return the classes, the most frequent first."""
    count = len(row["classes"])

    def column(name: str) -> list[float | None]:
        return [number(v) for v in row[name]] if row[name] is not None else [None] * count

    rows = [
        facts.ClassRow(
            name=name,
            group=group,
            count=images,
            ap_validation=ap_validation,
            ap_test=ap_test,
            p_pos=p_pos,
            p_neg=p_neg,
        )
        for name, group, images, ap_validation, ap_test, p_pos, p_neg in zip(
            row["classes"],
            row["class.group"],
            row["class.count"],
            column("class.ap.validation"),
            column("class.ap.test"),
            column("class.p_pos"),
            column("class.p_neg"),
            strict=True,
        )
    ]
    return sorted(rows, key=lambda r: -r.count)


def _attempts(
    reading: Reading, trial_number: int, epochs: Sequence[Mapping[str, Any]]
) -> list[facts.Attempt]:
    """Return the executions that were claimed, and which epochs each recorded."""
    claims = reading.ledger.attempts(trial_number)
    by_attempt: dict[int, list[Mapping[str, Any]]] = {}
    for row in epochs:
        by_attempt.setdefault(row["attempt"], []).append(row)
    last = max([claims.newest(), *by_attempt])
    attempts = []
    for attempt in range(1, last + 1):
        stored = claims.file(attempt).read()
        rows = by_attempt.get(attempt, [])
        attempts.append(
            facts.Attempt(
                attempt=attempt,
                **_claimed(stored.data if stored else b"{}"),
                first_epoch=rows[0]["epoch"] if rows else None,
                last_epoch=rows[-1]["epoch"] if rows else None,
                recorded_utc=rows[-1]["recorded_utc"] if rows else None,
            )
        )
    return attempts


def _claimed(data: bytes) -> dict[str, str | None]:
    try:
        claim = dict(json.loads(data))
    except (ValueError, TypeError):
        claim = {}  # `pgsearch verify` names it
    host, begun = claim.get("host"), claim.get("since_utc")
    return {
        "host": None if host is None else str(host),
        "begun_utc": None if begun is None else str(begun),
    }
