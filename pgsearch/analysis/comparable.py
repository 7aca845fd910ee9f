"""Which trials may stand in one table: those of one data set, one budget and one way to choose."""

from collections.abc import Collection
from typing import Final

import pandas as pd

from pgsearch.errors import UsageError

# Equal values of these make two trials comparable; their names say what a reader would object to.
COMPARABLE_COLUMNS: Final = {
    "data_fingerprint": "data sets",
    "training.epochs": "numbers of epochs",
    "iterations": "numbers of iterations",
    "data.image_size": "image sizes",
    "data.head_min": "thresholds of head classes",
    "data.tail_below": "thresholds of tail classes",
}
_SELECTED_ON: Final = {"selected_on": "splits that a search optimised"}


def require_comparable(frame: pd.DataFrame, *, apart: Collection[str] = ()) -> None:
    """Refuse trials whose numbers do not compare.

    Args:
        frame: one row per trial: search, selected_on (the split that its search optimised), and
            `COMPARABLE_COLUMNS` of its last epoch. Those that are not there are not judged.
        apart: columns that tell the rows of the table apart, so that they may differ in them.

    Raises:
        UsageError: they differ; what, in which searches, and what to do.
    """
    found = differences(frame, apart=apart)
    if not found:
        return
    column = next(iter(found))
    value = frame[column].dropna().iloc[0]
    raise UsageError(
        f"these trials have different {'; and different '.join(found.values())}, so their mAP do "
        f"not compare; name searches of one kind, keep one kind{_condition(column, value)}, or "
        "pass --allow-mixed"
    )


def differences(frame: pd.DataFrame, *, apart: Collection[str] = ()) -> dict[str, str]:
    """Return by column in what trials differ that should be equal, such as `image sizes (…)`."""
    found = {}
    for column, meaning in {**COMPARABLE_COLUMNS, **_SELECTED_ON}.items():
        if column in apart or column not in frame or _is_told_apart(frame, column, apart):
            continue
        by_value = frame.groupby(column)["search"].unique()
        if len(by_value) > 1:
            listed = "; ".join(f"{value}: {', '.join(names)}" for value, names in by_value.items())
            found[column] = f"{meaning} ({listed})"
    return found


def _is_told_apart(frame: pd.DataFrame, column: str, apart: Collection[str]) -> bool:
    """Whether settings of the data that are told apart have one data set for each value."""
    settings = [name for name in apart if name.startswith("data.")]
    if column != "data_fingerprint" or not settings:
        return False
    pairs = frame.drop_duplicates([*settings, column])
    return len(pairs) == len(pairs.drop_duplicates(settings))


def _condition(column: str, value: object) -> str:
    return "" if column in _SELECTED_ON else f" with --where '{column}={value}'"
