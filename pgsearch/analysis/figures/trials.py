"""The trials of one search: learning curves with those that were pruned, and its history."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from pgsearch.analysis.figures import style
from pgsearch.analysis.figures.choose import MAX_OF_AN_ABLATION
from pgsearch.analysis.figures.figure import Figure, NotDrawn
from pgsearch.analysis.records import Records

MAX_TRIALS: Final = 200
"""Curves in one panel."""
STATE_STYLES: Final[dict[str, dict[str, Any]]] = {
    "COMPLETE": {"color": "0.6", "linestyle": "-"},
    "PRUNED": {"color": "#E69F00", "linestyle": style.LINE_STYLES[1]},
    "RUNNING": {"color": "#0072B2", "linestyle": style.LINE_STYLES[2]},
    "FAIL": {"color": "#D55E00", "linestyle": style.LINE_STYLES[3]},
}
ENDS: Final = {"PRUNED": "x", "FAIL": "v"}


def learning_curves(records: Records, split: str) -> Figure | NotDrawn:
    """The mAP of every trial over its epochs; of an ablation, in the colours of its variants."""
    name, title = "learning_curves", f"mAP total on {split} over the epochs of each trial"
    column = f"map.{split}.total"
    measured = records.epochs.dropna(subset=[column])[["number", "epoch", column]]
    if measured.empty:
        reason = "no epochs yet" if records.epochs.empty else f"{split} was not evaluated"
        return NotDrawn(name, title, reason)
    if len(only := measured["epoch"].unique()) == 1:
        return NotDrawn(name, title, f"{split} was evaluated after epoch {only[0]} only")
    trials = records.trials[["number", "state", "seed", "configuration_id"]]
    numbers = measured.merge(trials, on="number").rename(columns={column: "map"})
    numbers["configuration"] = numbers.pop("configuration_id").map(records.labels)
    kept = _few(numbers, maximises=records.maximises)
    states = records.trials["state"].value_counts()
    counts = ", ".join(f"{states[state]} {state}" for state in STATE_STYLES if state in states)
    caption = f"One line per trial: {counts}."
    if numbers["number"].nunique() > MAX_TRIALS:
        caption += (
            f" Drawn are {MAX_TRIALS} of {numbers['number'].nunique()}: the best tenth of these by "
            "their last epoch, and of the others every so many."
        )
    labels = list(dict.fromkeys(numbers["configuration"]))
    if records.spec.method == "grid" and 1 < len(labels) <= MAX_OF_AN_ABLATION:
        draw = partial(_draw_by_variant, kept, labels)
    else:
        draw = partial(_draw_by_state, kept, maximises=records.maximises)
        caption += " Black: the trial that is best after its last epoch."
    return Figure(name, title, caption, kept, draw)


def _few(numbers: pd.DataFrame, *, maximises: bool) -> pd.DataFrame:
    """Keep at most MAX_TRIALS: the best, and of the others as many as go, evenly by number."""
    last = numbers.groupby("number")["map"].last().sort_values(ascending=not maximises)
    if len(last) <= MAX_TRIALS:
        return numbers
    best = last.index[: MAX_TRIALS // 10]
    others = last.index[MAX_TRIALS // 10 :].sort_values()
    places = np.linspace(0, len(others) - 1, MAX_TRIALS - len(best)).round().astype(int)
    return numbers[numbers["number"].isin({*best, *others[places]})].reset_index(drop=True)


@style.in_style
def _draw_by_state(numbers: pd.DataFrame, *, maximises: bool) -> Drawing:
    drawing, axes = _map_axes(["complete", "pruned", "best: trial 0000"])
    complete = numbers[numbers["state"] == "COMPLETE"].groupby("number")["map"].last()
    best = None if complete.empty else complete.idxmax() if maximises else complete.idxmin()
    is_dense = numbers["number"].nunique() > 50
    for number, trial in numbers.groupby("number"):
        state = str(trial["state"].iloc[0])
        look = {**STATE_STYLES[state], "linewidth": 0.7, "alpha": 0.5 if is_dense else 0.9}
        if number == best:
            look |= {"color": "black", "linewidth": 1.5, "zorder": 4, "alpha": 1}
        epochs, values = trial["epoch"].to_numpy(), trial["map"].to_numpy()
        axes.plot(epochs, values, **look)
        if state in ENDS:
            axes.plot(epochs[-1], values[-1], marker=ENDS[state], color=look["color"], zorder=3)
    handles = [
        Line2D([], [], **look, marker=ENDS.get(state), label=state.lower())
        for state, look in STATE_STYLES.items()
        if state in set(numbers["state"])
    ]
    if best is not None:
        handles.append(Line2D([], [], color="black", linewidth=1.5, label=f"best: trial {best}"))
    style.legend_below(drawing, handles)
    return drawing


@style.in_style
def _draw_by_variant(numbers: pd.DataFrame, labels: list[str]) -> Drawing:
    names = [style.literal(label) for label in labels]
    drawing, axes = _map_axes(names)
    for _, trial in numbers.groupby("number"):
        look = style.line_style(labels.index(trial["configuration"].iloc[0]))
        axes.plot(trial["epoch"], trial["map"], **look, linewidth=0.8)
        state = str(trial["state"].iloc[0])
        if state in ENDS:
            last = trial.iloc[-1]
            axes.plot(last["epoch"], last["map"], marker=ENDS[state], color=look["color"])
    handles = [Line2D([], [], **style.line_style(i), label=n) for i, n in enumerate(names)]
    style.legend_below(drawing, handles)
    return drawing


def _map_axes(legend: Sequence[str]) -> tuple[Drawing, Axes]:
    drawing = style.new_drawing(style.SINGLE_COLUMN, 2.4, legend=legend)
    axes = drawing.subplots()
    axes.set_xlabel("epoch")
    axes.set_ylabel("mAP total (%)")
    style.as_percent(axes.yaxis)
    style.whole_epochs(axes)
    return drawing, axes


# ------------------------------------------------------------ history


def history(records: Records, split: str) -> Figure | NotDrawn:  # noqa: ARG001
    """The objective of the trials in the order in which they were begun, and the best so far."""
    objective = records.spec.objective[0]
    name, title = "history", f"{objective.column} by trial"
    if records.spec.method == "grid":
        return NotDrawn(name, title, "a grid trains what it is told; its order means nothing")
    frame = records.trials[["number", "state", "value"]].copy()
    last = records.last_epochs[objective.column]
    is_pruned = frame["state"] == "PRUNED"
    frame.loc[is_pruned, "value"] = frame.loc[is_pruned, "number"].map(last)
    frame = frame[frame["state"].isin(["COMPLETE", "PRUNED", "FAIL"])].reset_index(drop=True)
    complete = frame["value"].where(frame["state"] == "COMPLETE")
    if complete.notna().sum() < 2:
        return NotDrawn(name, title, f"{complete.notna().sum()} complete trials, it needs two")
    best = complete.cummax() if records.maximises else complete.cummin()
    frame["best"] = best.ffill()
    caption = (
        "Each trial at its number: a complete one at its objective, a pruned one at that of its "
        "last epoch, a failed one at the bottom. The line is the best complete one so far."
    )
    if len(records.spec.objective) > 1:
        caption += " The first of several objectives."
    if len(records.spec.seeds) > 1:
        caption += f" Every configuration has {len(records.spec.seeds)} trials, one per seed."
    return Figure(name, title, caption, frame, partial(_draw_history, frame, objective.column))


@style.in_style
def _draw_history(frame: pd.DataFrame, column: str) -> Drawing:
    drawing = style.new_drawing(style.SINGLE_COLUMN, 2.2, legend=["complete", "best so far"])
    axes = drawing.subplots()
    is_dense = len(frame) > 300
    size = 4 if is_dense else 12
    complete = frame[frame["state"] == "COMPLETE"]
    pruned = frame[frame["state"] == "PRUNED"]
    failed = frame[frame["state"] == "FAIL"]
    axes.scatter(complete["number"], complete["value"], s=size, color=style.GREY, linewidths=0,
                 alpha=0.5 if is_dense else 1, label="complete")  # fmt: skip
    if not pruned.empty:
        axes.scatter(pruned["number"], pruned["value"], s=size, marker="x", linewidths=0.7,
                     color=STATE_STYLES["PRUNED"]["color"], label="pruned")  # fmt: skip
    if not failed.empty:
        axes.scatter(failed["number"], np.zeros(len(failed)), s=12, marker="v", linewidths=0,
                     color=STATE_STYLES["FAIL"]["color"], transform=axes.get_xaxis_transform(),
                     clip_on=False, label="failed")  # fmt: skip
    axes.step(frame["number"], frame["best"], where="post", color="black", label="best so far")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{objective_name(column)} (%)")
    style.as_percent(axes.yaxis)
    style.whole_epochs(axes)
    handles = axes.get_legend_handles_labels()[0]
    style.legend_below(drawing, handles)
    return drawing


def objective_name(column: str) -> str:
    """Return `map.validation.tail` as a figure says it: mAP tail, validation."""
    _, split, part = column.split(".")
    return f"mAP {part}, {split}"
