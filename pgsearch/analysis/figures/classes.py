"""Class by class: how probabilities and AP of each developed, and AP against training images."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from pgsearch.analysis.figures import style
from pgsearch.analysis.figures.choose import Shown, configurations_to_show, why_none
from pgsearch.analysis.figures.figure import Figure, NotDrawn
from pgsearch.analysis.long_tail import GROUP_COLOURS
from pgsearch.analysis.records import Records
from pgsearch.class_groups import GROUPS

PANELS: Final = {"p_pos": "$p^+$", "p_neg": "$p^-$", "ap": "AP"}
MAX_NAMED_CLASSES: Final = 100
MAX_HEIGHT: Final = 9.0
"""Inches: a page of a paper."""

Array = npt.NDArray[np.float64]


# ------------------------------------------------------------ class × epoch


def class_map(records: Records, split: str) -> Figure | NotDrawn:
    """p+, p− and AP of each class after each epoch, of the best configuration."""
    name, title = "class_map", "Probabilities and AP of each class over the epochs"
    if records.configurations.empty:
        return NotDrawn(name, title, why_none([records]))
    best = records.best_first.iloc[0]
    trials = records.replicates_of(best["configuration_id"])
    epochs = records.epochs[records.epochs["number"].isin(trials)]
    numbers = _class_numbers(epochs, split)
    if numbers.empty:
        return NotDrawn(name, title, "no values per class were recorded")
    over = f"mean over its {len(trials)} seeds" if len(trials) > 1 else "one seed"
    missing = " White: not measured." if numbers[list(PANELS)].isna().any(axis=None) else ""
    caption = (
        f"{best['label']}, the best of {len(records.configurations)} configurations by "
        f"{records.spec.objective[0].column}; {over}. Classes by their "
        f"training images, the most frequent first; lines are the borders of the groups. AP on "
        f"{split}.{missing}"
    )
    return Figure(name, title, caption, numbers, partial(_draw_map, numbers))


def _class_numbers(epochs: pd.DataFrame, split: str) -> pd.DataFrame:
    """One row per class and epoch, by training images and then by epoch: means over the seeds."""
    columns = {"p_pos": "class.p_pos", "p_neg": "class.p_neg", "ap": f"class.ap.{split}"}
    frames = []
    for epoch, rows in epochs.groupby("epoch"):
        first = rows.iloc[0]
        if first["classes"] is None:
            continue
        means = {name: _mean_over(rows[column]) for name, column in columns.items()}
        num_classes = len(first["classes"])
        frames.append(
            pd.DataFrame(
                {
                    "class": list(first["classes"]),
                    "count": np.asarray(first["class.count"], dtype=np.int64),
                    "group": list(first["class.group"]),
                    "place": np.arange(num_classes),
                    "epoch": epoch,
                    "n": len(rows),
                    **{
                        name: np.full(num_classes, np.nan) if mean is None else mean
                        for name, mean in means.items()
                    },
                }
            )
        )
    if not frames:
        return pd.DataFrame()
    frame = pd.concat(frames)
    order = ["count", "place", "epoch"]
    frame = frame.sort_values(order, ascending=[False, True, True], ignore_index=True)
    return frame.drop(columns="place")


def _mean_over(values: "pd.Series[Any]") -> Array | None:
    """Mean over trials of a number per class, without what is undefined; None: in no trial."""
    known = [np.asarray(value, dtype=float) for value in values if value is not None]
    if not known:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a class that no trial has
        mean: Array = np.nanmean(known, axis=0)
    return mean


@style.in_style
def _draw_map(numbers: pd.DataFrame) -> Drawing:
    epochs = np.sort(numbers["epoch"].unique())
    classes = numbers.drop_duplicates(["class", "count"])[["class", "count", "group"]]
    num_classes = len(numbers) // len(epochs)
    height = min(MAX_HEIGHT, max(2.2, 0.9 + 0.115 * num_classes))
    drawing = style.new_drawing(style.DOUBLE_COLUMN, height)
    panels = drawing.subplots(1, len(PANELS), sharey=True)
    extent = (epochs[0] - 0.5, epochs[-1] + 0.5, num_classes - 0.5, -0.5)
    for axes, (column, panel_name) in zip(panels, PANELS.items(), strict=True):
        values = numbers[column].to_numpy(dtype=float).reshape(num_classes, len(epochs))
        image = axes.imshow(
            values, cmap="cividis", vmin=0, vmax=1, aspect="auto", interpolation="nearest",
            extent=extent,
        )  # fmt: skip
        axes.set_title(panel_name)
        axes.spines[:].set_visible(False)
        style.whole_epochs(axes)
        groups = classes["group"].to_numpy()
        for border in np.flatnonzero(groups[1:] != groups[:-1]):
            axes.axhline(border + 0.5, color="white", linewidth=1.2)
        axes.set_xlabel("epoch")
        axes.tick_params(axis="y", length=0)
    _name_classes(panels[0], classes)
    drawing.colorbar(image, ax=panels, shrink=min(1.0, 2.0 / height), aspect=16, pad=0.01)
    return drawing


def _name_classes(axes: Axes, classes: pd.DataFrame) -> None:
    if len(classes) > MAX_NAMED_CLASSES:
        axes.set_ylabel(f"{len(classes)} classes, by training images")
        axes.set_yticks([])
        return
    names = [
        f"{style.literal(name, length=20)} ({count})"
        for name, count in zip(classes["class"], classes["count"], strict=True)
    ]
    axes.set_yticks(range(len(names)), names, fontsize=6)
    for tick, group in zip(axes.get_yticklabels(), classes["group"], strict=True):
        tick.set_color(GROUP_TEXT_COLOURS[group])


GROUP_TEXT_COLOURS: Final = {**GROUP_COLOURS, "medium": "#9A6700", "tail": "#00704F"}
"""Darker where the colour of an area is too light for letters on white."""


# ------------------------------------------------------------ AP by training count


def ap_by_count(searches: Sequence[Records], split: str) -> Figure | NotDrawn:
    """AP of each class against its training images, one panel per configuration."""
    name, title = "ap_by_count", f"AP of each class on {split} by its training images"
    shown, left_out = configurations_to_show(searches)
    if not shown:
        return NotDrawn(name, title, why_none(searches))
    frames = [_last_ap(one, split) for one in shown]
    if all(frame.empty for frame in frames):
        return NotDrawn(name, title, f"{split} was not evaluated after the last epoch")
    numbers = pd.concat(frames, ignore_index=True)
    absent = int((numbers["count"] == 0).sum())
    caption = (
        "AP after the last epoch, mean over seeds (bars: sample standard deviation); lines are the "
        f"means of the groups. {left_out}"
    )
    if absent:
        caption += f" {absent} points of classes without a training image are not drawn."
    labels = [one.label for one, frame in zip(shown, frames, strict=True) if not frame.empty]
    return Figure(name, title, caption.strip(), numbers, partial(_draw_ap, numbers, labels))


def _last_ap(one: Shown, split: str) -> pd.DataFrame:
    rows = one.last_epochs()
    column = f"class.ap.{split}"
    rows = rows[rows[column].notna()]
    if rows.empty:
        return pd.DataFrame()
    first = rows.iloc[0]
    ap_SC = np.array([np.asarray(values, dtype=float) for values in rows[column]])
    defined = ~np.isnan(ap_SC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a class that has no AP, or one
        mean, std = np.nanmean(ap_SC, axis=0), np.nanstd(ap_SC, axis=0, ddof=1)
    frame = pd.DataFrame(
        {
            "search": one.records.name,
            "configuration": one.label,
            "class": list(first["classes"]),
            "count": np.asarray(first["class.count"], dtype=np.int64),
            "group": list(first["class.group"]),
            "n": defined.sum(axis=0),
            "mean": mean,
            "std": std,
        }
    )
    return frame[frame["n"] > 0]


@style.in_style
def _draw_ap(numbers: pd.DataFrame, labels: Sequence[str]) -> Drawing:
    across = style.panels_across(len(labels))
    down = -(-len(labels) // across)
    width = style.SINGLE_COLUMN if across == 1 else style.DOUBLE_COLUMN
    drawing = style.new_drawing(width, 0.5 + (2.0 if across == 1 else 1.55) * down)
    panels = drawing.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    style.label_below(panels, len(labels), "training images")
    for axes, label in zip(panels.flat, labels, strict=False):
        of_label = numbers[(numbers["configuration"] == label) & (numbers["count"] > 0)]
        for group, part in of_label.groupby("group"):
            colour = GROUP_COLOURS[str(group)]
            axes.errorbar(
                part["count"], part["mean"], yerr=part["std"].fillna(0), color=colour,
                marker=style.GROUP_MARKERS[str(group)], linestyle="none", elinewidth=0.6,
                markersize=3,
            )  # fmt: skip
            span = (part["count"].min(), part["count"].max())
            axes.plot(span, [part["mean"].mean()] * 2, color=colour, linewidth=1.4, alpha=0.6)
        axes.set_xscale("log")
        of_all = numbers.loc[numbers["count"] > 0, "count"]
        style.ratio_ticks(axes.xaxis, of_all.min(), of_all.max())
        axes.set_ylim(-0.03, 1.03)
        style.as_percent(axes.yaxis)
        axes.set_title(style.literal(label, length=20 if across == 4 else 28))
    drawing.supylabel("AP (%)", fontsize=8)
    handles = [
        Line2D([], [], color=GROUP_COLOURS[g], marker=style.GROUP_MARKERS[g], label=g)
        for g in GROUPS
        if g in set(numbers["group"])
    ]
    style.legend_below(drawing, handles)
    return drawing
