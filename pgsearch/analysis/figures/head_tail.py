"""Head against tail mAP of the configurations of one search, and the front of the best."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from pgsearch.analysis.figures import style
from pgsearch.analysis.figures.choose import MAX_OF_AN_ABLATION, why_none
from pgsearch.analysis.figures.figure import Figure, NotDrawn
from pgsearch.analysis.front import head_against_tail
from pgsearch.analysis.records import Records

MAX_NAMED_POINTS: Final = 14
MARKERS: Final = "os^vDP*X"
LABEL_SIZE: Final = 6
"""Points."""
PANEL_SIZE: Final = (190.0, 140.0)
"""About the size of the panel, in points, to see which names have room in it."""


def pareto(records: Records, split: str) -> Figure | NotDrawn:
    """Head against tail mAP of each configuration, and those that no other beats in both."""
    name, title = "pareto", f"Head against tail mAP on {split}"
    if records.configurations.empty:
        return NotDrawn(name, title, why_none([records]))
    numbers = head_against_tail(records, split).drop(columns="configuration_id")
    if len(numbers) < 2:
        return NotDrawn(
            name, title, f"{len(numbers)} complete configurations have mAP head and tail on {split}"
        )
    caption = (
        f"mAP on {split} after the last epoch of {len(numbers)} configurations, means over seeds "
        "(bars: sample standard deviation). Filled and joined: no other is better in both."
    )
    if records.spec.method == "grid" and len(numbers) <= MAX_OF_AN_ABLATION:
        return Figure(name, title, caption, numbers, partial(_draw_named, numbers))
    caption += " Named where there is room."
    return Figure(name, title, caption, numbers, partial(_draw_cloud, numbers))


@style.in_style
def _draw_named(numbers: pd.DataFrame) -> Drawing:
    """Each configuration of an ablation with a colour and a shape of its own."""
    names = [style.literal(str(label)) for label in numbers["label"]]
    drawing, axes = _head_tail_axes(names)
    _draw_step(axes, numbers)
    handles = []
    for place, (row, name) in enumerate(zip(numbers.to_dict("records"), names, strict=True)):
        colour = style.line_style(place)["color"]
        look: dict[str, Any] = {
            "color": colour, "marker": MARKERS[place % len(MARKERS)], "linestyle": "none",
            "markerfacecolor": colour if row["on_front"] else "white", "markersize": 4.5,
            "markeredgewidth": 0.8,
        }  # fmt: skip
        axes.errorbar(
            row["head"], row["tail"], xerr=_bar(row["head_std"]), yerr=_bar(row["tail_std"]),
            elinewidth=0.5, **look,
        )  # fmt: skip
        handles.append(Line2D([], [], **look, label=name))
    style.legend_below(drawing, handles)
    return drawing


def _bar(std: float) -> float | None:
    return None if pd.isna(std) else std


@style.in_style
def _draw_cloud(numbers: pd.DataFrame) -> Drawing:
    """Many configurations; the best are named as far as names do not hide each other."""
    drawing, axes = _head_tail_axes()
    _draw_step(axes, numbers)
    others, front = numbers[~numbers["on_front"]], numbers[numbers["on_front"]]
    is_dense = len(numbers) > 200
    axes.scatter(
        others["head"], others["tail"], s=4 if is_dense else 12, facecolors="none",
        edgecolors=style.GREY, linewidths=0.6, alpha=0.4 if is_dense else 1,
    )  # fmt: skip
    axes.scatter(front["head"], front["tail"], s=14, color="#0072B2", zorder=3)
    few = len(numbers) <= MAX_NAMED_POINTS
    named = pd.concat([front, others]) if few else front.head(MAX_NAMED_POINTS)
    axes.autoscale_view()
    for row, offset in _with_room(named, numbers, axes):
        axes.annotate(
            style.literal(str(row["label"])), (row["head"], row["tail"]), xytext=offset,
            textcoords="offset points", fontsize=LABEL_SIZE,
            color="black" if row["on_front"] else "0.4",
        )  # fmt: skip
    return drawing


def _with_room(
    named: pd.DataFrame, points: pd.DataFrame, axes: Axes
) -> Iterator[tuple[dict[Any, Any], tuple[float, float]]]:
    """Yield the rows whose name fits beside their point, with its offset in points."""
    scale = [size / (high - low) for size, (low, high) in
             zip(PANEL_SIZE, (axes.get_xlim(), axes.get_ylim()), strict=True)]  # fmt: skip
    taken = [
        (x - 2, y - 2, x + 2, y + 2)
        for x, y in zip(points["head"] * scale[0], points["tail"] * scale[1], strict=True)
    ]
    for row in named.to_dict("records"):
        width, height = 0.58 * LABEL_SIZE * len(str(row["label"])), LABEL_SIZE
        x, y = row["head"] * scale[0], row["tail"] * scale[1]
        for dx, dy in ((4, 2), (4, -height), (-4 - width, 2), (-4 - width, -height)):
            box = (x + dx, y + dy, x + dx + width, y + dy + height)
            if not any(_overlap(box, other) for other in taken):
                taken.append(box)
                yield row, (dx, dy)
                break


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _head_tail_axes(legend: Sequence[str] = ()) -> tuple[Drawing, Axes]:
    drawing = style.new_drawing(style.SINGLE_COLUMN, 2.6, legend=legend)
    axes = drawing.subplots()
    axes.margins(0.1)
    axes.set_xlabel("mAP head (%)")
    axes.set_ylabel("mAP tail (%)")
    style.as_percent(axes.xaxis)
    style.as_percent(axes.yaxis)
    return drawing, axes


def _draw_step(axes: Axes, numbers: pd.DataFrame) -> None:
    """Join the front: what lies below and left of the line is beaten."""
    front = numbers[numbers["on_front"]].sort_values("head")
    axes.step(
        front["head"], front["tail"], where="pre", color="0.6", linewidth=0.8, zorder=0
    )  # fmt: skip
