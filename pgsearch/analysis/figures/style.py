"""How all figures look: paper size, colours for any vision and for grey, names as the paper's."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Final

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullLocator

from pgsearch.analysis.long_tail import GROUP_COLOURS
from pgsearch.untrusted import visible

SINGLE_COLUMN: Final = 3.35
"""Inches."""
DOUBLE_COLUMN: Final = 7.0
GREY: Final = "0.55"
LEGEND_ROW: Final = 0.15
"""Inches."""
BAND_OPACITY: Final = 0.15
# Okabe and Ito's palette without its yellow, which is too light for a thin line.
LINE_COLOURS: Final = (
    "#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00",
)  # fmt: skip
LINE_STYLES: Final = ("-", (0, (5, 1.5)), (0, (5, 1.2, 1, 1.2)), (0, (1, 1)))
GROUP_STYLES: Final = {"head": LINE_STYLES[0], "medium": LINE_STYLES[1], "tail": LINE_STYLES[3]}
GROUP_MARKERS: Final = {"head": "o", "medium": "s", "tail": "^"}
MAX_LABEL: Final = 34
"""Characters of a name in a figure; its middle goes."""

# Fonts with letters that matplotlib's own has not, where a system has them.
_MORE_FONTS: Final = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei",
    "Hiragino Sans", "Malgun Gothic", "Noto Sans Arabic", "Noto Sans Devanagari",
)  # fmt: skip

_LAMBDAS: Final = {
    "lambda1_neg": r"$\lambda_1^-$",
    "lambda2_neg": r"$\lambda_2^-$",
    "lambda1_pos": r"$\lambda_1^+$",
    "lambda2_pos": r"$\lambda_2^+$",
    "focusing_neg": r"$\lambda^-$",
    "focusing_pos": r"$\lambda^+$",
    "lambda0": r"$\lambda_0$",
    "gamma": r"$\gamma$",
    "kappa": r"$\kappa$",
}


def in_style(draw: Callable[..., Drawing]) -> Callable[..., Drawing]:
    """Make a function draw with these settings, whatever those of the process are."""

    @wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> Drawing:
        with mpl.rc_context(settings()):
            return draw(*arguments, **options)

    return drawn


def settings() -> Any:
    """Return matplotlib's settings for all figures, its own defaults where nothing is said."""
    installed = set(font_manager.get_font_names())
    defaults = {
        key: value
        for key, value in mpl.rcParamsDefault.items()
        if key not in ("backend", "backend_fallback", "toolbar", "interactive")
    }
    return defaults | {
        "font.family": ["DejaVu Sans", *(name for name in _MORE_FONTS if name in installed)],
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.labelsize": 8,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "axes.linewidth": 0.6,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.minor.width": 0.4,
        "ytick.minor.width": 0.4,
        "lines.linewidth": 1.0,
        "lines.markersize": 3.5,
        "patch.linewidth": 0.6,
        "hatch.linewidth": 0.4,
        "legend.frameon": False,
        "legend.handlelength": 2.4,
        "pdf.fonttype": 42,  # letters stay letters, which journals ask for
        "svg.fonttype": "none",
    }


def new_drawing(width: float, height: float, *, legend: Sequence[str] = ()) -> Drawing:
    """Return an empty drawing, without pyplot and its global state.

    Args:
        width: inches.
        height: inches of the panels.
        legend: what a legend below them will name; it makes the drawing higher.
    """
    rows = -(-len(legend) // _legend_columns(legend, width)) if legend else 0
    return Drawing(figsize=(width, height + LEGEND_ROW * rows), layout="constrained")


def line_style(place: int) -> Mapping[str, Any]:
    """Return colour and dashes of the n-th line, from 0; 28 differ, neighbours in grey too."""
    colour, times_used = place % len(LINE_COLOURS), place // len(LINE_COLOURS)
    dashes = (place + 2 * times_used) % len(LINE_STYLES)
    return {"color": LINE_COLOURS[colour], "linestyle": LINE_STYLES[dashes]}


def group_style(group: str) -> Mapping[str, Any]:
    """Return colour and dashes of a class group."""
    return {"color": GROUP_COLOURS[group], "linestyle": GROUP_STYLES[group]}


def legend_below(drawing: Drawing, handles: Sequence[Artist]) -> None:
    """Write a legend under all panels, in as many columns as fit."""
    labels = [str(handle.get_label()) for handle in handles]
    columns = _legend_columns(labels, drawing.get_figwidth())
    drawing.legend(handles=list(handles), loc="outside lower center", ncols=columns)


def _legend_columns(labels: Sequence[str], width: float) -> int:
    """Return how many entries fit side by side, in rows of equal length."""
    longest = max(map(len, labels))
    fit = max(1, min(len(labels), int(width / (0.5 + 0.062 * longest))))
    rows = -(-len(labels) // fit)
    return -(-len(labels) // rows)


def panels_across(num_panels: int) -> int:
    """Return how many panels of a double column lie side by side."""
    if num_panels <= 4:
        return num_panels
    return min((4, 3), key=lambda across: -num_panels % across)


def label_below(panels: Any, num_used: int, text: str) -> None:
    """Name the x axis under the lowest used panel of each column; take the unused ones away.

    Args:
        panels: of shared x axes, `[rows, columns]`.
        num_used: how many are used, row by row.
        text: the name.
    """
    across = panels.shape[1]
    for place, axes in enumerate(panels.flat):
        if place >= num_used:
            axes.set_axis_off()
        elif place + across >= num_used:
            axes.set_xlabel(text)
            axes.xaxis.set_tick_params(labelbottom=True)


def literal(text: str, *, length: int = MAX_LABEL) -> str:
    """Return anybody's text so that matplotlib draws its letters: no formula, no control.

    A long one loses its middle.
    """
    # matplotlib would write the last two, which XML has not, into an SVG.
    line = visible(text).translate({0xFFFE: 0xFFFD, 0xFFFF: 0xFFFD})
    if len(line) > length:
        line = f"{line[: length - length // 3 - 1]}…{line[-(length // 3) :]}"
    # A legend leaves out what begins with an underscore.
    return re.sub(r"^_", " _", line).replace("$", r"\$")


def factor_name(path: str) -> str:
    r"""Return a configuration's path in the paper's signs, such as `$\lambda_1^-$ mode tail`."""
    words = path.removeprefix("loss.").split(".")
    stem, mode, _ = words[0].partition("_mode")
    first = _LAMBDAS.get(stem)
    if first is None:
        words = path.split(".")[1:] or words
        return literal(" ".join(words).replace("_", " "))
    rest = [*(["mode"] if mode else []), *words[1:]]
    return " ".join([first, *rest])


def as_percent(axis: Any) -> None:
    """Show fractions in [0, 1] on an axis as %."""
    axis.set_major_formatter(lambda value, _: f"{100 * value:.10g}")


def ratio_ticks(axis: Any, low: float, high: float) -> None:
    """Put readable ticks on a logarithmic axis, however short or long its range is."""
    if high > 30 * low:
        axis.set_major_locator(LogLocator(numticks=6))
        axis.set_minor_formatter("")
    else:
        is_short = high < 3 * low
        axis.set_major_locator(MaxNLocator(nbins=4) if is_short else LogLocator(subs=(1, 2, 5)))
        axis.set_minor_locator(NullLocator())
    plain = low > 1e-4 and high < 1e5
    axis.set_major_formatter("{x:g}" if plain else LogFormatterSciNotation())


def whole_epochs(axes: Axes) -> None:
    """Put ticks at whole epochs only."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
