"""The factors that a search varied: one column each, one row per complete configuration."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd

from pgsearch.analysis.columns import resolve_metric
from pgsearch.analysis.metric import Metric
from pgsearch.analysis.records import Records, read_records
from pgsearch.analysis.tables import PARTS
from pgsearch.class_groups import GROUPS
from pgsearch.config import configuration_leaves
from pgsearch.config.trial import Stage
from pgsearch.errors import UsageError
from pgsearch.results import Ledger
from pgsearch.results.schema import EVALUATED_SPLITS

_CONFIGURATION: Final = tuple(leaf.path for leaf in configuration_leaves())


def read_outcomes(
    ledger: Ledger, metric: str | None = None, stage: Stage = "full"
) -> tuple[Records, str]:
    """Read a search for the analysis of its factors, and the metric to judge them by.

    Args:
        ledger: of the search.
        metric: a measured column of which more or less is better, or its end, such as test.tail;
            of the last epoch. None is the first objective.
        stage: whose trials count, in a search with stages.

    Raises:
        UsageError: there is no such metric, or no complete trial with it.
    """
    spec = ledger.spec()
    metric = spec.objective[0].column if metric is None else resolve_metric(metric)
    if Metric(metric).better is None:
        raise UsageError(
            f"--metric {metric}: neither more nor less of it is better; name one that begins with "
            "map, f1 or loss"
        )
    maps = [f"map.{split}.{part}" for split in EVALUATED_SPLITS for part in PARTS]
    columns = list(dict.fromkeys([metric, *maps]))
    records = read_records(ledger, columns, trial_columns=_CONFIGURATION, stage=stage)
    if records.complete.empty:
        raise UsageError(
            f"no complete trial in {ledger.name} yet; see pgsearch status {ledger.name}"
        )
    if records.last_epochs.loc[records.complete["number"], metric].isna().all():
        raise UsageError(f"no complete trial in {ledger.name} has {metric}")
    return records, metric


def is_maximised(records: Records, metric: str) -> bool:
    """Whether more is better, as the spec says where it is an objective."""
    for objective in records.spec.objective:
        if objective.column == metric:
            return objective.direction == "maximize"
    return Metric(metric).better == "higher"


def by_configuration(records: Records, columns: list[str]) -> pd.DataFrame:
    """Mean over the replicates of metrics of the last epoch, indexed by configuration_id."""
    complete = records.complete.set_index("number")["configuration_id"]
    values = records.last_epochs.loc[complete.index, columns].astype(float)
    return values.groupby(complete, sort=False).mean()


def factor_values(records: Records) -> pd.DataFrame:
    """The value of each factor that varied, indexed by configuration_id; NaN where it has none.

    The dimensions of the space by their names, then what the variants change. Values of the class
    groups that are equal in every configuration are one column, `loss.lambda1_neg`, or
    `loss.lambda1_neg.head+medium` for two of them.
    """
    firsts = records.complete.drop_duplicates("configuration_id").set_index("configuration_id")
    space = {d.name: d for v in records.spec.variant_names() for d in records.spec.dimensions(v)}
    targets = {target for dimension in space.values() for target in dimension.targets}
    columns: dict[str, list[Any]] = {
        name: [params.get(name, np.nan) for params in firsts["params"]] for name in space
    }
    if records.spec.variants:
        others = [path for path in _CONFIGURATION if path not in targets]
        columns |= _merged({path: firsts[path].tolist() for path in others if path in firsts})
    frame = pd.DataFrame(columns, index=firsts.index, dtype=object)
    return frame.loc[:, [_varies(frame[name]) for name in frame.columns]]


def _varies(column: "pd.Series[Any]") -> bool:
    return len({repr(value) for value in column.dropna()}) > 1


def _merged(leaves: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Make one column of a value's class groups where they are equal all the way down."""
    merged: dict[str, list[Any]] = {}
    groups_of: dict[tuple[str, str], list[str]] = {}
    for path, values in leaves.items():
        stem, _, group = path.rpartition(".")
        if group in GROUPS:
            groups_of.setdefault((stem, repr(values)), []).append(group)
        else:
            merged[path] = values
    for (stem, _), groups in groups_of.items():
        name = stem if len(groups) == len(GROUPS) else f"{stem}.{'+'.join(groups)}"
        merged[name] = leaves[f"{stem}.{groups[0]}"]
    return merged


def modes_of(records: Records, factor: str) -> "pd.Series[Any] | None":
    """Mode (fixed or adaptive) of a scaling factor, indexed by configuration_id.

    Args:
        records: of the search, with the configurations of its trials.
        factor: a column of `factor_values`.

    Returns:
        None for what has no mode; "mixed" where its class groups differ.
    """
    words = factor.split(".")
    groups = words[2].split("+") if len(words) > 2 else list(GROUPS)
    columns = [f"loss.{words[1]}_mode.{group}" for group in groups] if len(words) > 1 else []
    if not columns or not set(columns) <= set(records.trials.columns):
        return None
    firsts = records.complete.drop_duplicates("configuration_id").set_index("configuration_id")
    modes = firsts[columns]
    first = modes.iloc[:, 0]
    return first.where(modes.eq(first, axis=0).all(axis=1), "mixed")
