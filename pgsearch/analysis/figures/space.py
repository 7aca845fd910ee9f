"""The space of one search: parallel coordinates and slices."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Drawing

from pgsearch.analysis.figures import style
from pgsearch.analysis.figures.figure import Figure, NotDrawn
from pgsearch.analysis.figures.trials import objective_name
from pgsearch.analysis.records import Records
from pgsearch.config import Dimension
from pgsearch.config.space import CategoricalParameter

MAX_LINES: Final = 300
MAX_AXES: Final = 9
MAX_SLICES: Final = 12
INACTIVE: Final = -0.14
"""Where a line passes an axis that its configuration does not have; values are in [0, 1]."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Axis:
    """A dimension of the space as an axis."""

    dimension: Dimension

    @property
    def name(self) -> str:
        return self.dimension.name

    @property
    def choices(self) -> list[Any] | None:
        parameter = self.dimension.parameter
        return list(parameter.choices) if isinstance(parameter, CategoricalParameter) else None

    @property
    def is_log(self) -> bool:
        parameter = self.dimension.parameter
        return not isinstance(parameter, CategoricalParameter) and parameter.log

    def places(self, column: "pd.Series[Any]") -> Array:
        """Return where values lie on the axis, in [0, 1]; NaN for none."""
        choices = self.choices
        if choices is not None:
            texts = [repr(choice) for choice in choices]
            places = [math.nan if v is None else float(texts.index(repr(v))) for v in column]
            return np.array(places) / max(1, len(choices) - 1)
        parameter: Any = self.dimension.parameter
        values = np.array([math.nan if v is None else float(v) for v in column])
        low, high = float(parameter.low), float(parameter.high)
        if parameter.log:
            values, low, high = np.log(values), math.log(low), math.log(high)
        return (values - low) / (high - low)


def _axes_that_vary(records: Records, most: int) -> tuple[list[_Axis], int]:
    """Return the dimensions that took several values, at most so many, and how many there are.

    The most important ones, where enough trials are complete to say which these are.
    """
    dimensions = {
        d.name: d for v in records.spec.variant_names() for d in records.spec.dimensions(v)
    }
    params = records.configurations["params"]
    varying = [
        _Axis(d)
        for name, d in dimensions.items()
        if len({repr(values[name]) for values in params if name in values}) > 1
    ]
    if len(varying) <= most:
        return varying, len(varying)
    return _most_important(records, varying)[:most], len(varying)


def _most_important(records: Records, axes: list[_Axis]) -> list[_Axis]:
    from pgsearch.analysis.importance import MIN_CONFIGURATIONS, parameter_importance

    if len(records.configurations) < MIN_CONFIGURATIONS:
        return axes
    ranked = parameter_importance(records, records.spec.objective[0].column)["parameter"].tolist()
    return sorted(axes, key=lambda axis: ranked.index(axis.name))


def _left_out(drawn: int, there: int) -> str:
    return f" The {drawn} most important of {there} parameters." if drawn < there else ""


def _values(records: Records, axes: Sequence[_Axis]) -> pd.DataFrame:
    """One row per complete configuration: number, its parameters, value; the worst first."""
    frame = records.best_first.iloc[::-1].reset_index(drop=True)
    values: dict[str, Any] = {"number": frame["number"]}
    for axis in axes:
        column = [params.get(axis.name) for params in frame["params"]]
        values[axis.name] = pd.Series(column, dtype=object)
    return pd.DataFrame(values | {"value": frame["value"]})


def _why_no_space(records: Records) -> str | None:
    if not records.spec.space:
        return "no space: only variants differ"
    if (count := len(records.configurations)) < 2:
        return f"{count} complete configurations, it needs two"
    return None


# ------------------------------------------------------------ parallel coordinates


def parallel_coordinates(records: Records, split: str) -> Figure | NotDrawn:  # noqa: ARG001
    """Every configuration as a line through its parameters to its objective."""
    name, title = "parallel_coordinates", "Parameters and objective of each configuration"
    if reason := _why_no_space(records):
        return NotDrawn(name, title, reason)
    axes, there = _axes_that_vary(records, MAX_AXES)
    if not axes:
        return NotDrawn(name, title, "no parameter took two values in the complete trials")
    numbers = _values(records, axes)
    column = records.spec.objective[0].column
    caption = (
        f"One line per complete configuration, coloured by its {column}; below an axis where it "
        f"has no such parameter.{_left_out(len(axes), there)}"
    )
    if len(numbers) > MAX_LINES:
        caption += f" The best {MAX_LINES // 2} of {len(numbers)}, and every so many of the others."
        others = len(numbers) - MAX_LINES // 2
        places = np.linspace(0, others - 1, MAX_LINES - MAX_LINES // 2).round().astype(int)
        numbers = numbers.iloc[[*places, *range(others, len(numbers))]].reset_index(drop=True)
    return Figure(name, title, caption, numbers, partial(_draw_parallel, numbers, axes, column))


@style.in_style
def _draw_parallel(numbers: pd.DataFrame, axes: Sequence[_Axis], column: str) -> Drawing:
    drawing = style.new_drawing(style.DOUBLE_COLUMN, 3.0)
    panel = drawing.subplots()
    value = numbers["value"].to_numpy(dtype=float)
    low, high = float(np.nanmin(value)), float(np.nanmax(value))
    last = (value - low) / (high - low) if high > low else np.full(len(value), 0.5)
    places = np.column_stack([*(axis.places(numbers[axis.name]) for axis in axes), last])
    inactive = np.isnan(places).any()
    lines = np.stack(
        [
            np.broadcast_to(np.arange(places.shape[1]), places.shape),
            np.nan_to_num(places, nan=INACTIVE),
        ],
        axis=-1,
    )
    panel.add_collection(
        LineCollection(
            list(lines), array=last, cmap="cividis", clim=(0, 1), linewidths=0.7,
            alpha=0.9 if len(lines) < 60 else 0.5,
        )
    )  # fmt: skip
    panel.set_xlim(-0.1, places.shape[1] - 0.75)
    panel.set_ylim((INACTIVE if inactive else 0) - 0.05, 1.05)
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.spines["bottom"].set_visible(False)
    for place, axis in enumerate(axes):
        _draw_axis(panel, place, _ticks(axis))
    _draw_axis(panel, len(axes), [(0.0, f"{100 * low:.1f}"), (1.0, f"{100 * high:.1f}")])
    if inactive:
        panel.annotate("inactive", (-0.1, INACTIVE), ha="right", va="center", fontsize=6,
                       color="0.35", annotation_clip=False)  # fmt: skip
    names = [_wrapped(style.factor_name(axis.name)) for axis in axes]
    names.append(_wrapped(f"{objective_name(column)} (%)"))
    panel.set_xticks(range(len(names)), names, fontsize=7)
    panel.tick_params(axis="x", length=0)
    return drawing


def _ticks(axis: _Axis) -> list[tuple[float, str]]:
    if (choices := axis.choices) is not None:
        top = max(1, len(choices) - 1)
        return [(i / top, _choice(c)) for i, c in enumerate(choices)]
    parameter: Any = axis.dimension.parameter
    middle = (
        math.sqrt(parameter.low * parameter.high)
        if axis.is_log
        else (parameter.low + parameter.high) / 2
    )
    ends = ((0.0, parameter.low), (0.5, middle), (1.0, parameter.high))
    return [(place, f"{value:.2g}") for place, value in ends]


def _choice(value: Any) -> str:
    """Return a choice as a spec writes it."""
    return style.literal(str(value).lower() if isinstance(value, bool) else str(value), length=12)


def _draw_axis(panel: Axes, place: int, ticks: Sequence[tuple[float, str]]) -> None:
    panel.plot([place, place], [0, 1], color="0.2", linewidth=0.8, zorder=3)
    for height, text in ticks:
        panel.annotate(
            text, (place, height), xytext=(2.5, 0), textcoords="offset points", fontsize=6,
            va="center", zorder=4,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.4, "alpha": 0.75},
        )  # fmt: skip


def _wrapped(name: str) -> str:
    """Break a name of several words after the first, for the narrow room under an axis."""
    first, _, rest = name.partition(" ")
    return f"{first}\n{rest}" if rest else name


# ------------------------------------------------------------ slices


def slices(records: Records, split: str) -> Figure | NotDrawn:  # noqa: ARG001
    """The objective against each parameter, one panel each."""
    name, title = "slices", "Objective against each parameter"
    if reason := _why_no_space(records):
        return NotDrawn(name, title, reason)
    axes, there = _axes_that_vary(records, MAX_SLICES)
    if not axes:
        return NotDrawn(name, title, "no parameter took two values in the complete trials")
    numbers = _values(records, axes)
    column = records.spec.objective[0].column
    caption = (
        f"{column} of each complete configuration against each of its parameters; n have it. Bars: "
        f"mean of a choice.{_left_out(len(axes), there)}"
    )
    return Figure(name, title, caption, numbers, partial(_draw_slices, numbers, axes, column))


@style.in_style
def _draw_slices(numbers: pd.DataFrame, axes: Sequence[_Axis], column: str) -> Drawing:
    across = style.panels_across(len(axes))
    down = -(-len(axes) // across)
    width = style.SINGLE_COLUMN if across == 1 else style.DOUBLE_COLUMN
    drawing = style.new_drawing(width, 0.2 + 1.6 * down)
    panels = drawing.subplots(down, across, sharey=True, squeeze=False)
    for panel in panels.flat[len(axes) :]:
        panel.set_axis_off()
    for panel, axis in zip(panels.flat, axes, strict=False):
        has = numbers[axis.name].notna()
        values, objective = numbers.loc[has, axis.name], numbers.loc[has, "value"]
        _draw_slice(panel, axis, values, objective)
        panel.set_title(f"{style.factor_name(axis.name)} (n = {has.sum()})", fontsize=7)
        style.as_percent(panel.yaxis)
    drawing.supylabel(f"{objective_name(column)} (%)", fontsize=8)
    return drawing


def _draw_slice(
    panel: Axes, axis: _Axis, values: "pd.Series[Any]", objective: "pd.Series[float]"
) -> None:
    is_dense = len(values) > 200
    look: dict[str, Any] = {"s": 4 if is_dense else 9, "color": "#0072B2", "linewidths": 0,
                            "alpha": 0.25 if is_dense else 0.7}  # fmt: skip
    choices = axis.choices
    if choices is None:
        panel.scatter(values.astype(float), objective, **look)
        if axis.is_log:
            panel.set_xscale("log")
            style.ratio_ticks(panel.xaxis, values.min(), values.max())
        return
    # The golden ratio spreads points of one choice evenly, the same way each time.
    jitter = 0.5 * (np.arange(len(values)) * 0.618034 % 1 - 0.5)
    texts = [repr(choice) for choice in choices]
    places = np.array([texts.index(repr(value)) for value in values])
    panel.scatter(places + jitter, objective, **look)
    for place in np.unique(places):
        mean = objective.to_numpy()[places == place].mean()
        panel.plot([place - 0.3, place + 0.3], [mean, mean], color="black", linewidth=1.2)
    panel.set_xticks(range(len(choices)), [_choice(c) for c in choices])
    panel.set_xlim(-0.5, len(choices) - 0.5)
