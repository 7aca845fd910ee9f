"""Head, medium and tail: the class groups of a long-tailed data set, by training counts."""

from typing import Final

import numpy as np
import numpy.typing as npt

GROUPS: Final = ("head", "medium", "tail")
HEAD_MIN_COUNT: Final = 100
TAIL_BELOW_COUNT: Final = 20


def class_groups(
    class_counts_C: npt.ArrayLike,
    *,
    head_min: int = HEAD_MIN_COUNT,
    tail_below: int = TAIL_BELOW_COUNT,
) -> npt.NDArray[np.int64]:
    """Index into `GROUPS` of each class.

    Args:
        class_counts_C: training images that contain each class, shape `[C]`.
        head_min: a class with at least this many images is head (100 itself is head).
        tail_below: a class with fewer images than this is tail; the rest is medium.

    Source: Wu et al., ECCV 2020 (doi:10.1007/978-3-030-58548-8_10), section 4.1.
    """
    if not 0 < tail_below <= head_min:
        raise ValueError(
            f"group thresholds need 0 < tail_below <= head_min, "
            f"got tail_below={tail_below} and head_min={head_min}"
        )
    counts_C = np.asarray(class_counts_C)
    return np.where(counts_C >= head_min, 0, np.where(counts_C >= tail_below, 1, 2)).astype(
        np.int64
    )
