"""Columns of the ledger by the names that people type, and conditions on them."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import pandas as pd

from pgsearch.errors import UsageError
from pgsearch.results.schema import epoch_schema, is_configuration, trial_schema

Kind: TypeAlias = Literal["number", "text", "truth"]

FACTOR_SIGNS: Final = {
    "lambda1_neg": "λ1-",
    "lambda2_neg": "λ2-",
    "lambda1_pos": "λ1+",
    "lambda2_pos": "λ2+",
    "lambda0": "λ0",
    "gamma": "γ",
}
"""Parts of column names, and the paper's signs for them."""

_KINDS: Final[dict[str, Kind]] = {
    "int64": "number",
    "double": "number",
    "string": "text",
    "bool": "truth",
}
_DOCUMENTS: Final = frozenset({"params", "optuna_state", "provenance", "error"})
_MAX_NAMED: Final = 12


def column_kinds() -> dict[str, Kind]:
    """Return every column with one plain value per row, of trials and of epochs."""
    return {
        column.name: _KINDS[str(column.type)]
        for schema in (trial_schema(), epoch_schema())
        for column in schema
        if str(column.type) in _KINDS and column.name not in _DOCUMENTS
    }


def short_name(setting: str) -> str:
    """Return the path of a setting in the paper's signs, such as `λ1-.tail` or `λ1-mode.tail`."""
    if setting == "loss.name":
        return "loss"
    short = setting.removeprefix("loss.")
    for part, sign in FACTOR_SIGNS.items():
        short = short.replace(part, sign)
    return short.replace("_mode", "mode")


def is_fraction(column: str) -> bool:
    """Whether a column is in [0, 1] and people read it in %."""
    return column.startswith(("map.", "f1.", "p_pos.", "p_neg."))


def resolve(name: str) -> str:
    """Return the column that a name means.

    Args:
        name: of a column; or its end, such as lambda1_neg.tail, λ1-.tail or test.tail; or a
            section that has a name, such as loss for loss.name.

    Raises:
        UsageError: no column or several have it; the nearest are named.
    """
    return _resolve(name, list(column_kinds()))


def resolve_metric(name: str) -> str:
    """Return the measured column that a name means, such as map.test.tail for test.tail.

    Raises UsageError as `resolve` does.
    """
    identity = ("number", "attempt", "seed", "retry_of")
    return _resolve(
        name,
        [
            column
            for column, kind in column_kinds().items()
            if kind == "number" and not is_configuration(column) and column not in identity
        ],
    )


def _resolve(name: str, columns: Sequence[str]) -> str:
    plain = name.strip()
    for part, sign in FACTOR_SIGNS.items():
        plain = plain.replace(f"{sign}mode", f"{part}_mode").replace(sign, part)
    for candidate in (plain, f"{plain}.name"):
        if candidate in columns:
            return candidate
    ends = [column for column in columns if column.endswith(f".{plain}")]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UsageError(f"{name!r} is the end of several columns: {_listed(ends)}; name one")
    parts = [c for c in columns if f".{c}".rpartition(".")[0].endswith(f".{plain}")]
    if plain and parts:
        raise UsageError(f"{name!r} has several values: {_listed(parts)}; name one")
    raise UsageError(f"no column {name!r}; {_nearest(plain, columns)}")


def _nearest(name: str, columns: Sequence[str]) -> str:
    by_end: dict[str, str] = {}
    for column in columns:
        words = column.split(".")
        for first in range(len(words)):
            by_end.setdefault(".".join(words[first:]), column)
    close = difflib.get_close_matches(name, list(by_end), n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(dict.fromkeys(by_end[end] for end in close))}?"
    return "pgsearch schema --columns lists them"


@dataclass(frozen=True)
class Condition:
    """One condition on a column, as a user wrote it."""

    text: str
    column: str
    operator: str
    value: str

    def holds(self, values: pd.Series) -> pd.Series:
        """Return for each value whether it fulfils the condition.

        A missing value is equal to nothing but an empty one, and neither below nor above any.
        """
        missing = values.isna()
        if not self.value:
            return missing if self.operator == "=" else ~missing
        kind = column_kinds()[self.column]
        if kind == "number":
            return _compare(values.astype(float), self.operator, float(self.value))
        wanted = self.value.lower() == "true" if kind == "truth" else self.value
        is_equal = ~missing & (values == wanted).fillna(value=False).astype(bool)
        return is_equal if self.operator == "=" else ~is_equal


def _compare(values: pd.Series, operator: str, wanted: float) -> pd.Series:
    comparisons = {
        "=": values.eq,
        "!=": values.ne,
        "<": values.lt,
        "<=": values.le,
        ">": values.gt,
        ">=": values.ge,
    }
    return comparisons[operator](wanted)


def parse_condition(text: str) -> Condition:
    """Return a condition such as `loss.name=pg`, `epochs>=4`, or `gamma.tail=` where it is missing.

    Raises UsageError where it is none, or does not go with what its column holds.
    """
    found = re.fullmatch(r"([^=!<>]+)(!=|<=|>=|==|=|<|>)(.*)", text, re.DOTALL)
    if found is None:
        raise UsageError(
            f"--where {text!r} is no condition; write COLUMN=VALUE, or with != < <= > >=, such as "
            "'loss.name=pg'"
        )
    column, operator, value = resolve(found[1]), found[2], found[3].strip()
    kind = column_kinds()[column]
    if operator not in ("=", "==", "!=") and (kind != "number" or not value):
        raise UsageError(f"--where {text!r}: {operator} compares numbers; use = or !=")
    if value and kind == "number" and not _is_number(value):
        raise UsageError(f"--where {text!r}: {column} holds numbers, and {value!r} is none")
    if value and kind == "truth" and value.lower() not in ("true", "false"):
        raise UsageError(f"--where {text!r}: {column} is true or false, not {value!r}")
    return Condition(text, column, operator.replace("==", "="), value)


def apply_conditions(frame: pd.DataFrame, conditions: Sequence[Condition]) -> pd.DataFrame:
    """Return the rows for which all conditions hold.

    Raises UsageError naming the first condition after which no row is left.
    """
    for condition in conditions:
        left = frame[condition.holds(frame[condition.column])]
        if left.empty and not frame.empty:
            found = frame[condition.column].drop_duplicates().tolist()
            raise UsageError(
                f"--where {condition.text!r} leaves no complete trial; {condition.column} is "
                f"{_listed(sorted(map(plain_text, found)))}"
            )
        frame = left
    return frame


def plain_text(value: object) -> str:
    """Return a setting as people write it: 4 for 4.0, true for True, – where it is missing."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or value != value:  # NaN
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    try:
        return float(text) == float(text)
    except ValueError:
        return False


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return f"{', '.join(names[:_MAX_NAMED])}{more}"
