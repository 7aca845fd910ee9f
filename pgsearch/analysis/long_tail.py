"""The long tail of a data set: images per class and group, classes that go together, a picture."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from pgsearch.class_groups import GROUPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette: told apart with any colour vision, and in this order also in grey.
GROUP_COLOURS: Final = {"head": "#0072B2", "medium": "#E69F00", "tail": "#009E73"}
MAX_CLASSES_WITH_ROOM: Final = 30
MAX_CLASSES_WITH_COUNTS: Final = 100
LOWEST_SHOWN: Final = 0.7
"""Lower end of the axis: a class with one image still has a bar."""


def classes_by_count(
    class_names: Sequence[str], counts_C: npt.ArrayLike, groups_C: npt.NDArray[np.int64]
) -> pd.DataFrame:
    """One row per class, the most frequent first; columns class, count, group.

    Args:
        class_names: classes.
        counts_C: images that contain each class, of any split.
        groups_C: index into `GROUPS` of each class; it is the train counts that decide.
    """
    frame = pd.DataFrame(
        {
            "class": list(class_names),
            "count": np.asarray(counts_C, dtype=np.int64),
            "group": [GROUPS[g] for g in groups_C],
        }
    )
    return frame.sort_values("count", ascending=False, kind="stable", ignore_index=True)


def imbalance_ratio(counts_C: npt.ArrayLike) -> float:
    """Largest count by smallest; NaN if a class has no image."""
    counts_C = np.asarray(counts_C)
    return float(counts_C.max() / counts_C.min()) if counts_C.min() > 0 else float("nan")


def co_occurrences(class_names: Sequence[str], targets_NC: npt.NDArray[np.uint8]) -> pd.DataFrame:
    """One row per ordered pair of classes that share an image, the largest P(other|given) first.

    Columns given, other, images (with both), of (with given), p = images / of.
    """
    targets = targets_NC.astype(np.int64)
    both_CC = targets.T @ targets
    given, other = np.nonzero(both_CC)
    is_pair = given != other
    given, other = given[is_pair], other[is_pair]
    names = np.array(class_names, dtype=object)
    frame = pd.DataFrame(
        {
            "given": names[given],
            "other": names[other],
            "images": both_CC[given, other],
            "of": both_CC[given, given],
        }
    )
    frame["p"] = frame["images"] / frame["of"]
    return frame.sort_values(["p", "of"], ascending=False, kind="stable", ignore_index=True)


def labels_per_image(targets_NC: npt.NDArray[np.uint8]) -> pd.Series:
    """Images by their number of labels, from none on."""
    counts = np.bincount(targets_NC.sum(axis=1, dtype=np.int64), minlength=1)
    return pd.Series(counts, index=pd.RangeIndex(len(counts), name="labels"), name="images")


def draw_long_tail(
    frame: pd.DataFrame, axes: "Axes", *, title: str, thresholds: Sequence[int] = ()
) -> None:
    """Draw the bars of `classes_by_count` in the colours of their groups, with a logarithmic axis.

    A class without images has no bar, only its 0.

    Args:
        frame: what `classes_by_count` gives.
        axes: to draw on.
        title: what is shown.
        thresholds: counts at which a line is drawn: those between the groups.
    """
    counts = frame["count"].to_numpy()
    positions = np.arange(len(counts))
    axes.set_yscale("log")
    axes.set_ylim(LOWEST_SHOWN, 2.0 * max(int(counts.max(initial=1)), *thresholds, 1))
    axes.yaxis.set_major_formatter("{x:.0f}")
    axes.set_xlim(-0.7, len(counts) - 0.3)
    axes.bar(
        positions,
        np.maximum(counts, LOWEST_SHOWN) - LOWEST_SHOWN,
        bottom=LOWEST_SHOWN,
        width=0.8,
        color=[GROUP_COLOURS[group] for group in frame["group"]],
    )
    _write_names_and_counts(frame, axes)
    for threshold in thresholds:
        axes.axhline(threshold, color="0.35", linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        axes.annotate(
            f"{threshold}",
            (1, threshold),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color="0.35",
        )
    axes.set_ylabel("images with the class")
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    _add_legend(frame, axes)


def _write_names_and_counts(frame: pd.DataFrame, axes: "Axes") -> None:
    is_crowded = len(frame) > MAX_CLASSES_WITH_ROOM
    slant = {"rotation": 90} if is_crowded else {"rotation": 45, "ha": "right"}
    axes.set_xticks(
        np.arange(len(frame)),
        frame["class"].tolist(),
        fontsize=7 if is_crowded else 9,
        rotation_mode="default" if is_crowded else "anchor",
        **slant,
    )
    if len(frame) > MAX_CLASSES_WITH_COUNTS:
        return
    for position, count in enumerate(frame["count"]):
        axes.annotate(
            f"{count}",
            (position, max(count, LOWEST_SHOWN)),
            xytext=(0, 2.5),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=6 if is_crowded else 8,
            rotation=90 if is_crowded else 0,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4},  # over the lines
        )


def _add_legend(frame: pd.DataFrame, axes: "Axes") -> None:
    from matplotlib.patches import Patch

    sizes = frame["group"].value_counts()
    handles = [
        Patch(color=colour, label=f"{group}: {sizes.get(group, 0)} classes")
        for group, colour in GROUP_COLOURS.items()
    ]
    axes.legend(handles=handles, loc="upper right", framealpha=1, edgecolor="none")
