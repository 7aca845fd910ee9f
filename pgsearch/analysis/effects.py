"""What each factor did to a metric, alone: marginal effects, and fixed against adaptive.

The unit is a complete configuration with the mean of its replicates, unless said otherwise; a
pruned trial has no last epoch that compares. A marginal effect averages over whatever else the
search varied, and a sampler that learns varies it unevenly: it shows what went together.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd
from scipy import stats

from pgsearch.analysis.columns import plain_text
from pgsearch.analysis.factors import by_configuration, factor_values, modes_of
from pgsearch.analysis.records import Records
from pgsearch.config.space import IMPLIED_CONDITIONS

MAX_LEVELS: Final = 6
"""Distinct numbers that are shown each for itself; more are put into quarters."""
CONFIDENCE: Final = 0.95


def marginal_effects(records: Records, metric: str) -> pd.DataFrame:
    """Mean of a metric at each level of each factor.

    A factor that scales is shown for its modes apart, where both occur.

    Returns:
        One row per factor, mode and level. Columns factor, mode (fixed, adaptive or None), level (a
        value, or LOW–HIGH of a quarter of the values), n, mean, std (NaN for n = 1), rho and p
        (Spearman's rank correlation of a number with the metric, on the first row of each; p is
        two-sided).
    """
    values = by_configuration(records, [metric])[metric]
    factors = factor_values(records)
    rows = []
    for factor in factors.columns:
        for mode, column in _by_mode(records, factor, factors[factor].dropna()):
            rows += [
                {"factor": factor, "mode": mode, **row}
                for row in _levels(column, values.reindex(column.index))
            ]
    columns = ["factor", "mode", "level", "n", "mean", "std", "rho", "p"]
    return pd.DataFrame(rows, columns=columns)


def _by_mode(
    records: Records, factor: str, column: "pd.Series[Any]"
) -> Iterator[tuple[str | None, "pd.Series[Any]"]]:
    modes = modes_of(records, factor)
    known = None if modes is None else modes.reindex(column.index)
    if known is None or known.nunique() < 2:
        yield None, column
        return
    for mode in sorted(known.dropna().unique()):
        yield str(mode), column[known == mode]


def _levels(column: "pd.Series[Any]", values: "pd.Series[float]") -> Iterator[dict[str, Any]]:
    is_number = all(
        isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in column
    )
    if not is_number:
        texts = column.map(plain_text)
        yield from (_level(name, values[texts == name]) for name in sorted(set(texts)))
        return
    numbers = column.astype(float)
    correlation = _spearman(numbers, values)
    if numbers.nunique() <= MAX_LEVELS:
        parts = [(f"{n:.4g}", numbers == n) for n in sorted(numbers.unique())]
    else:
        quarters = pd.qcut(numbers, 4, labels=False, duplicates="drop")
        parts = [
            (f"{numbers[is_in].min():.3g}–{numbers[is_in].max():.3g}", is_in)
            for is_in in (quarters == quarter for quarter in sorted(quarters.unique()))
        ]
    for place, (name, is_in) in enumerate(parts):
        yield _level(name, values[is_in]) | ({} if place else correlation)


def _level(name: str, values: "pd.Series[float]") -> dict[str, Any]:
    known = values.dropna()
    return {"level": name, "n": len(known), "mean": known.mean(), "std": known.std(ddof=1)}


def _spearman(numbers: "pd.Series[float]", values: "pd.Series[float]") -> dict[str, float]:
    known = values.notna()
    numbers, values = numbers[known], values[known]
    if len(values) < 3 or numbers.nunique() < 2 or values.nunique() < 2:
        return {"rho": math.nan, "p": math.nan}
    result = stats.spearmanr(numbers, values)
    return {"rho": float(result.statistic), "p": float(result.pvalue)}


def mode_contrasts(records: Records, metric: str) -> pd.DataFrame:
    """Adaptive minus the other modes, for each factor and group whose mode varied.

    In a grid, trials that differ in nothing but this mode (and in what only one of the modes has)
    are pairs by configuration and seed: the mean of their differences, with Student's interval. In
    a search, or where a grid has no pairs, it is the difference of the means over configurations,
    with Welch's interval.

    Returns:
        One row per contrast. Columns factor, contrast (such as "adaptive − fixed"), how ("paired"
        or "Welch"), n_adaptive, n_other (pairs have the same), difference, low and high (the 95 %
        interval; NaN below two of each).
    """
    factors = factor_values(records)
    rows = []
    for factor in factors.columns:
        if not (factor.startswith("loss.focusing") or "_mode" in factor):
            continue
        for other in sorted(set(factors[factor].dropna()) - {"adaptive"}):
            pairs = _pairs(records, factors, factor, other, metric)
            if records.spec.method == "grid" and len(pairs):
                row = _paired(pairs)
            else:
                values = by_configuration(records, [metric])[metric]
                row = _welch(
                    values[factors[factor] == "adaptive"].dropna().to_numpy(),
                    values[factors[factor] == other].dropna().to_numpy(),
                )
            if row["n_adaptive"] and row["n_other"]:
                rows.append({"factor": factor, "contrast": f"adaptive − {other}", **row})
    columns = [
        "factor", "contrast", "how", "n_adaptive", "n_other", "difference", "low", "high",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _pairs(
    records: Records, factors: pd.DataFrame, factor: str, other: str, metric: str
) -> pd.DataFrame:
    """Return pairs of trials, adaptive and other, that differ in nothing else."""
    implied = [factor.replace("loss.focusing", path) for path in IMPLIED_CONDITIONS]
    kept = [c for c in factors.columns if c != factor and c not in implied]
    keys = factors[kept].map(repr).agg("|".join, axis=1) if kept else pd.Series("", factors.index)
    trials = records.complete[["number", "configuration_id", "seed"]].copy()
    trials["key"] = trials["configuration_id"].map(keys)
    trials["mode"] = trials["configuration_id"].map(factors[factor])
    trials["value"] = records.last_epochs.loc[trials["number"], metric].to_numpy(dtype=float)
    wide = trials[trials["mode"].isin(["adaptive", other])].pivot_table(
        index=["key", "seed"], columns="mode", values="value", aggfunc="mean"
    )
    wide = wide.reindex(columns=["adaptive", other])
    return wide.dropna()


def _paired(pairs: pd.DataFrame) -> dict[str, Any]:
    first, second = (pairs[column].to_numpy() for column in pairs.columns)
    interval = _interval(stats.ttest_rel, first, second) if len(pairs) > 1 else _NO_INTERVAL
    return {
        "how": "paired",
        "n_adaptive": len(pairs),
        "n_other": len(pairs),
        "difference": float((first - second).mean()),
        **interval,
    }


_NO_INTERVAL: Final = {"low": math.nan, "high": math.nan}


def _welch(first: Any, second: Any) -> dict[str, Any]:
    difference = first.mean() - second.mean() if len(first) and len(second) else math.nan
    interval = _NO_INTERVAL
    if len(first) > 1 and len(second) > 1:
        interval = _interval(stats.ttest_ind, first, second, equal_var=False)
    return {
        "how": "Welch",
        "n_adaptive": len(first),
        "n_other": len(second),
        "difference": float(difference),
        **interval,
    }


def _interval(test: Any, first: Any, second: Any, **options: Any) -> dict[str, float]:
    with warnings.catch_warnings():
        # Of numbers that are all equal: the interval is then the difference itself.
        warnings.simplefilter("ignore", RuntimeWarning)
        interval = test(first, second, **options).confidence_interval(CONFIDENCE)
    return {"low": float(interval.low), "high": float(interval.high)}
