"""Head against tail: the configurations that no other beats in both."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pgsearch.analysis.records import Records


def head_against_tail(records: Records, split: str) -> pd.DataFrame:
    """One row per complete configuration that has both: mAP head and tail of the last epoch.

    Args:
        records: of a search, with `map.SPLIT.head` and `map.SPLIT.tail` of its epochs.
        split: validation or test.

    Returns:
        Columns configuration_id, number, label, n (replicates), head and tail (means over them, in
        [0, 1]), head_std and tail_std (sample standard deviations, NaN for n = 1), on_front.
    """
    columns = {f"map.{split}.{group}": group for group in ("head", "tail")}
    complete = records.complete.set_index("number")["configuration_id"]
    values = records.last_epochs.loc[complete.index, list(columns)].astype(float)
    grouped = values.rename(columns=columns).groupby(complete, sort=False)
    stds = grouped.std(ddof=1).add_suffix("_std")
    measured = grouped.mean().join(stds).reset_index()
    about = records.configurations[["configuration_id", "number", "label", "n"]]
    frame = about.merge(measured, on="configuration_id").dropna(subset=["head", "tail"])
    frame = frame.reset_index(drop=True)
    frame["on_front"] = not_dominated(frame["head"].to_numpy(), frame["tail"].to_numpy())
    return frame


def not_dominated(
    first: npt.NDArray[np.floating[Any]], second: npt.NDArray[np.floating[Any]]
) -> npt.NDArray[np.bool_]:
    """Whether no other point is at least as large in both and larger in one. Equal points stay."""
    on_front = np.zeros(len(first), dtype=bool)
    best = (-np.inf, -np.inf)
    for i in np.lexsort((-second, -first)):  # by the first, then the second, both falling
        point = (first[i], second[i])
        on_front[i] = point[1] > best[1] or point == best
        if point[1] > best[1]:
            best = point
    return on_front
