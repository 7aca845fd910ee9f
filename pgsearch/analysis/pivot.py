"""Complete trials grouped by what a user names: factors, modes, methods, data sets, searches."""

from collections.abc import Sequence

import pandas as pd

from pgsearch.analysis.columns import column_kinds
from pgsearch.analysis.replicates import Replicates


def grouped(found: Replicates, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Average metrics over all trials that have the same values in some columns.

    Args:
        found: the trials; they hold the columns.
        by: columns to group by. A missing value is a group of its own.
        metrics: columns to average.

    Returns:
        One row per group that has a trial: the columns of `by`, n (trials), configurations (how
        many different ones), and for each metric `NAME.mean`, `NAME.std` (sample standard
        deviation, missing for one value) and `NAME.n` (trials that have it), as in the ledger.
        Numbers in `by` ascend, texts come in the order of their first trial, missing ones last.
    """
    # A configuration and seed that two searches share were trained alike: one replicate.
    frame = found.frame.drop_duplicates(["configuration_id", "seed", *by])
    groups = frame.groupby([*by], sort=False, dropna=False)
    rows = groups.size().to_frame("n")
    rows["configurations"] = groups["configuration_id"].nunique()
    for metric in metrics:
        values = groups[metric]
        rows[f"{metric}.mean"], rows[f"{metric}.std"] = values.mean(), values.std(ddof=1)
        rows[f"{metric}.n"] = values.count()
    rows = rows.reset_index()
    order = pd.DataFrame({column: places(rows[column]) for column in by})
    return rows.loc[order.sort_values([*by], kind="stable").index].reset_index(drop=True)


def places(values: pd.Series) -> pd.Series:
    """Return for each value of a column of the ledger its place among the values.

    Numbers ascend, texts come in the order in which they first appear, missing values last.
    """
    if column_kinds()[str(values.name)] == "number":
        return values.astype(float).rank(method="dense", na_option="bottom")
    codes = pd.Series(pd.factorize(values)[0], index=values.index)
    return codes.where(codes >= 0, len(codes))
