"""Over the epochs: probabilities of positives and negatives, adaptive factors, mAP of trials."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, Literal

import numpy as np
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
from pgsearch.results import FACTORS

SIGNS: Final = {"pos": r"$p^+$, positives", "neg": r"$p^-$, negatives"}
MAX_WITH_BANDS: Final = 4
"""Lines in one panel; more bands hide each other."""
MAX_ADAPTIVE_WITH_BANDS: Final = 2
MAX_ADAPTIVE: Final = 4
"""Configurations; each has a line per group."""


# ------------------------------------------------------------ probabilities


def probability_curves(searches: Sequence[Records]) -> Figure | NotDrawn:
    """Mean predicted probability of each group's positives and negatives (Figs. 1, 3, 4, 5).

    Source: D. Lin, AAAI 2023, doi:10.1609/aaai.v37i2.25244.
    """
    name, title = "probability_curves", "Predicted probabilities over the epochs"
    shown, left_out = configurations_to_show(searches)
    if not shown:
        return NotDrawn(name, title, why_none(searches))
    numbers = pd.concat([_probabilities(one) for one in shown], ignore_index=True)
    if numbers.empty:
        return NotDrawn(name, title, "no probability was recorded")
    band = " ± sample standard deviation" if len(shown) <= MAX_WITH_BANDS else ""
    caption = (
        "Mean predicted probability over the training batches of an epoch: p+ of positive labels, "
        f"p- of negative labels (that they are negative). Mean over seeds{band}. {left_out}"
    )
    if len(shown) == 1:
        draw = partial(_draw_groups_of_one, numbers)
    else:
        labels = [one.label for one in shown]
        draw = partial(_draw_groups_by_configuration, numbers, labels)
    return Figure(name, title, caption.strip(), numbers, draw)


def _probabilities(one: Shown) -> pd.DataFrame:
    columns = [f"p_{sign}.{group}" for sign in SIGNS for group in GROUPS]
    long = one.epochs().melt("epoch", columns, "column", "p").astype({"p": float})
    long[["sign", "group"]] = long["column"].str.removeprefix("p_").str.split(".", expand=True)
    return _over_seeds(long, ["group", "sign", "epoch"], "p", one)


def _over_seeds(long: pd.DataFrame, keys: list[str], value: str, one: Shown) -> pd.DataFrame:
    """Mean, sample standard deviation and range of the replicates; what none has is left out."""
    grouped = long.dropna(subset=[value]).groupby(keys, sort=False)[value]
    frame = grouped.agg(n="size", mean="mean", std="std", low="min", high="max").reset_index()
    frame.insert(0, "configuration", one.label)
    frame.insert(0, "search", one.records.name)
    return frame


@style.in_style
def _draw_groups_of_one(numbers: pd.DataFrame) -> Drawing:
    drawing = style.new_drawing(style.SINGLE_COLUMN, 2.0)
    panels = drawing.subplots(1, 2, sharex=True, sharey=True)
    for axes, (sign, sign_name) in zip(panels, SIGNS.items(), strict=True):
        for group in GROUPS:
            part = numbers[(numbers["sign"] == sign) & (numbers["group"] == group)]
            _line_with_band(axes, part, **style.group_style(group), label=group)
        axes.set_title(sign_name)
        _probability_axes(axes)
        axes.set_xlabel("epoch")
    panels[0].set_ylabel("probability")
    style.legend_below(drawing, panels[0].get_legend_handles_labels()[0])
    return drawing


@style.in_style
def _draw_groups_by_configuration(numbers: pd.DataFrame, labels: Sequence[str]) -> Drawing:
    groups = [group for group in GROUPS if group in set(numbers["group"])]
    names = [style.literal(label) for label in labels]
    drawing = style.new_drawing(style.DOUBLE_COLUMN, 3.5, legend=names)
    band: Literal["std"] | None = "std" if len(labels) <= MAX_WITH_BANDS else None
    panels = drawing.subplots(2, len(groups), sharex=True, sharey=True, squeeze=False)
    for row, (sign, sign_name) in zip(panels, SIGNS.items(), strict=True):
        row[0].set_ylabel(sign_name)
        for axes, group in zip(row, groups, strict=True):
            for place, label in enumerate(labels):
                part = numbers[
                    (numbers["sign"] == sign)
                    & (numbers["group"] == group)
                    & (numbers["configuration"] == label)
                ]
                _line_with_band(axes, part, band=band, **style.line_style(place))
            _probability_axes(axes)
    for axes, group in zip(panels[0], groups, strict=True):
        axes.set_title(group)
    style.label_below(panels, panels.size, "epoch")
    handles = [Line2D([], [], **style.line_style(i), label=n) for i, n in enumerate(names)]
    style.legend_below(drawing, handles)
    return drawing


def _line_with_band(
    axes: Axes, part: pd.DataFrame, *, band: Literal["std", "range"] | None = "std", **look: Any
) -> None:
    """Draw a mean over the epochs; one epoch alone is a point.

    On a logarithmic axis the range is the band, since the mean less the deviation may be negative.
    """
    epochs, mean = part["epoch"].to_numpy(), part["mean"].to_numpy()
    axes.plot(epochs, mean, marker="o" if len(epochs) == 1 else None, **look)
    if band is None or part["n"].max() < 2:
        return
    std = part["std"].fillna(0).to_numpy()
    low, high = (mean - std, mean + std) if band == "std" else (part["low"], part["high"])
    axes.fill_between(epochs, low, high, color=look["color"], alpha=style.BAND_OPACITY, linewidth=0)


def _probability_axes(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    style.whole_epochs(axes)


# ------------------------------------------------------------ adaptive factors


def adaptive_factors(searches: Sequence[Records]) -> Figure | NotDrawn:
    """Effective adaptive factors of each group over the epochs (APR and APAF, Eq. 8)."""
    name, title = "adaptive_factors", "Adaptive factors over the epochs"
    shown, left_out = configurations_to_show(searches)
    if not shown:
        return NotDrawn(name, title, why_none(searches))
    frames = [(one, frame) for one in shown if not (frame := _adaptive(one)).empty]
    if not frames:
        return NotDrawn(name, title, "no adaptive factor in the configurations shown")
    numbers = pd.concat([frame for _, frame in frames[:MAX_ADAPTIVE]], ignore_index=True)
    if len(frames) > MAX_ADAPTIVE:
        left_out += f" The first {MAX_ADAPTIVE} of {len(frames)} with an adaptive factor."
    has_bands = min(len(frames), MAX_ADAPTIVE) <= MAX_ADAPTIVE_WITH_BANDS
    band = " (band: the range over them)" if has_bands else ""
    of_one = f", in {frames[0][0].label}" if len(frames) == 1 else ""
    caption = (
        "Effective factor of an epoch's batches, mean over the classes of a group, for each group "
        f"in which it adapts{of_one}. Mean over seeds{band}. {left_out}"
    )
    return Figure(name, title, caption.strip(), numbers, partial(_draw_factors, numbers))


def _adaptive(one: Shown) -> pd.DataFrame:
    adaptive = _adapting_groups(one)
    rows = []
    for epoch in one.epochs().to_dict("records"):
        groups = np.array(epoch["class.group"], dtype=object)
        for factor, group in adaptive:
            values = epoch[f"class.{factor}"]
            if values is None or group not in groups:
                continue
            of_group = np.asarray(values, dtype=float)[groups == group]
            rows.append((factor, group, epoch["epoch"], of_group.mean()))
    long = pd.DataFrame(rows, columns=["factor", "group", "epoch", "value"])
    return _over_seeds(long, ["factor", "group", "epoch"], "value", one)


def _adapting_groups(one: Shown) -> list[tuple[str, str]]:
    """Return pairs of factor and group that adapt, by the resolved configuration."""
    loss = one.records.loss_of(one.number)
    if loss.name != "pg":
        return []
    modes = {
        factor: loss.focusing if factor.startswith("focusing") else getattr(loss, f"{factor}_mode")
        for factor in FACTORS
    }
    return [
        (factor, group)
        for factor, mode in modes.items()
        for group in GROUPS
        if getattr(mode, group) == "adaptive"
    ]


@style.in_style
def _draw_factors(numbers: pd.DataFrame) -> Drawing:
    factors = [factor for factor in FACTORS if factor in set(numbers["factor"])]
    labels = list(dict.fromkeys(numbers["configuration"]))
    across = 2 if len(factors) == 4 else min(len(factors), 3)
    down = -(-len(factors) // across)
    width = style.SINGLE_COLUMN if across == 1 else style.DOUBLE_COLUMN
    groups = [group for group in GROUPS if group in set(numbers["group"])]
    handles = [Line2D([], [], color=GROUP_COLOURS[g], label=g) for g in groups]
    for place, label in enumerate(labels if len(labels) > 1 else []):
        look: dict[str, Any] = {"color": "black", "linestyle": style.LINE_STYLES[place]}
        handles.append(Line2D([], [], **look, label=style.literal(label)))
    drawing = style.new_drawing(
        width, 0.2 + 1.8 * down, legend=[str(h.get_label()) for h in handles]
    )
    panels = drawing.subplots(down, across, sharex=True, squeeze=False)
    style.label_below(panels, len(factors), "epoch")
    band: Literal["range"] | None = "range" if len(labels) <= MAX_ADAPTIVE_WITH_BANDS else None
    for axes, factor in zip(panels.flat, factors, strict=False):
        of_factor = numbers[numbers["factor"] == factor]
        for (label, group), part in of_factor.groupby(["configuration", "group"], sort=False):
            dashes = style.LINE_STYLES[labels.index(label)]
            of_group = {**style.group_style(str(group)), "linestyle": dashes}
            _line_with_band(axes, part, band=band, **of_group)
        axes.set_title(style.factor_name(f"loss.{factor}"))
        axes.set_yscale("log")
        style.ratio_ticks(axes.yaxis, of_factor["mean"].min(), of_factor["mean"].max())
        style.whole_epochs(axes)
    drawing.supylabel("factor", fontsize=8)
    style.legend_below(drawing, handles)
    return drawing
