"""How hard a loss pushes: the size of its gradient against logit and probability (Fig. 2).

The losses themselves are written for torch, which analysis does without; these are their
derivatives in closed form, by the logit z of one element, at bias 0 and weight 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D

from pgsearch.analysis.figures import style
from pgsearch.analysis.figures.choose import Shown, configurations_to_show, why_none
from pgsearch.analysis.figures.figure import Figure, NotDrawn
from pgsearch.analysis.records import Records
from pgsearch.class_groups import GROUPS
from pgsearch.config.base import PerGroup
from pgsearch.config.loss import (
    ASLLossConfig,
    BCELossConfig,
    DBFocalLossConfig,
    DBLossConfig,
    FocalLossConfig,
    LossConfig,
    PGLossConfig,
)
from pgsearch.results import FACTORS

LOGITS: Final = np.linspace(-8, 8, 161)
MAX_CURVES: Final = 14
MAX_GRADIENT: Final = 6.0
"""Where the drawing ends: an adaptive factor may reach thousands, and BCE's largest slope is 1."""
SIGNS: Final = {"pos": "positives", "neg": "negatives"}

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FamilySlope:
    """Slope of the PG family, whose members are BCE, focal, NTR, PR, APAF and PG (Eq. 10).

    With u = z for a negative and −z for a positive label, the loss is
    balance · σ(k u)^λ · softplus(λ₁ u) / λ₂, where k is λ₁ if the focusing term reads the scaled
    logit and 1 otherwise.
    """

    lambda1_neg: float = 1.0
    lambda2_neg: float = 1.0
    lambda1_pos: float = 1.0
    lambda2_pos: float = 1.0
    focusing_neg: float = 0.0
    focusing_pos: float = 0.0
    focus_on_scaled: bool = True
    balance: float = 1.0

    def __call__(self, logits: Array, sign: str) -> Array:
        """Return |dL/dz|. Sign: "pos" for a positive label, "neg" for a negative one."""
        u = logits if sign == "neg" else -logits
        lambda1: float = getattr(self, f"lambda1_{sign}")
        lambda2: float = getattr(self, f"lambda2_{sign}")
        focusing: float = getattr(self, f"focusing_{sign}")
        k = lambda1 if self.focus_on_scaled else 1.0
        focus = np.exp(focusing * _log_sigmoid(k * u))
        of_focus = focusing * k * _sigmoid(-k * u) * -_log_sigmoid(-lambda1 * u)
        return self.balance * focus * (of_focus + lambda1 * _sigmoid(lambda1 * u)) / lambda2


@dataclass(frozen=True)
class AsymmetricSlope:
    """Slope of the asymmetric loss, whose focusing factors are constants for the gradient."""

    gamma_pos: float
    gamma_neg: float
    clip: float
    clamp: float

    def __call__(self, logits: Array, sign: str) -> Array:
        """Return |dL/dz|. Sign: "pos" for a positive label, "neg" for a negative one."""
        p = _sigmoid(logits)
        if sign == "pos":
            slope = (1 - p) ** (self.gamma_pos + 1)
            return np.where(p < self.clamp, 0.0, slope)
        not_clipped = 1 - p + self.clip
        slope = np.maximum(p - self.clip, 0) ** self.gamma_neg * p * (1 - p) / not_clipped
        return np.where((p < self.clip) | (not_clipped < self.clamp), 0.0, slope)


Slope = FamilySlope | AsymmetricSlope
BCE: Final = FamilySlope()


def _log_sigmoid(x: Array) -> Array:
    return np.asarray(-np.logaddexp(0, -x))


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(_log_sigmoid(x)))


def slopes_of(
    loss: LossConfig, adapted: Mapping[tuple[str, str], float] | None = None
) -> dict[str, Slope]:
    """Return the slope of a loss by class group; empty for one that is not drawn (`WHY_NOT`).

    Args:
        loss: its configuration.
        adapted: effective values of adaptive factors, by factor and group. A group in which one is
            unknown is left out.
    """
    match loss:
        case BCELossConfig():
            return dict.fromkeys(GROUPS, BCE)
        case FocalLossConfig():
            gammas = zip(GROUPS, loss.gamma.values_G, strict=True)
            return {
                g: FamilySlope(focusing_neg=gamma, focusing_pos=gamma, balance=loss.balance)
                for g, gamma in gammas
            }
        case DBLossConfig() | DBFocalLossConfig():
            slope = FamilySlope(lambda1_neg=loss.scale, lambda2_neg=loss.scale)
            if isinstance(loss, DBFocalLossConfig):
                gamma, balance = loss.gamma, loss.balance
                slope = replace(slope, focusing_neg=gamma, focusing_pos=gamma, balance=balance)
            return dict.fromkeys(GROUPS, slope)
        case ASLLossConfig():
            asl = AsymmetricSlope(loss.gamma_pos, loss.gamma_neg, loss.clip, loss.clamp)
            return dict.fromkeys(GROUPS, asl)
        case PGLossConfig():
            return _pg_slopes(loss, adapted or {})
    return {}


WHY_NOT: Final = {
    "rw": "BCE's curve times a weight per class",
    "cb_focal": "the focal curve times a weight per class and image",
    "ldam": "its margin differs per class and its logits are cosines",
}


def _pg_slopes(loss: PGLossConfig, adapted: Mapping[tuple[str, str], float]) -> dict[str, Slope]:
    slopes: dict[str, Slope] = {}
    for group in GROUPS:
        values = {factor: _pg_factor(loss, factor, group, adapted) for factor in FACTORS}
        if any(math.isnan(value) for value in values.values()):
            continue
        slopes[group] = FamilySlope(**values, focus_on_scaled=loss.focal_logit == "scaled")
    return slopes


def _pg_factor(
    loss: PGLossConfig, factor: str, group: str, adapted: Mapping[tuple[str, str], float]
) -> float:
    def of_group(values: PerGroup[Any]) -> Any:
        return getattr(values, group)

    is_focusing = factor.startswith("focusing")
    mode = of_group(loss.focusing if is_focusing else getattr(loss, f"{factor}_mode"))
    if mode == "adaptive":
        return adapted.get((factor, group), math.nan)
    if is_focusing:
        return float(of_group(loss.gamma)) if mode == "fixed" else 0.0
    return float(of_group(getattr(loss, factor)))


# ------------------------------------------------------------ the figure


def gradient_curves(searches: Sequence[Records]) -> Figure | NotDrawn:
    """Size of the gradient of each loss in these searches, by logit and by probability (Fig. 2).

    Source: D. Lin, AAAI 2023, doi:10.1609/aaai.v37i2.25244.
    """
    name, title = "gradient_curves", "Gradients of the losses"
    shown, left_out = configurations_to_show(searches)
    if not shown:
        return NotDrawn(name, title, why_none(searches))
    labels_of, not_drawn = _curves(shown)
    if not labels_of:
        return NotDrawn(name, title, f"not drawn: {'; '.join(not_drawn)}")
    curves = dict(list(labels_of.items())[:MAX_CURVES])
    numbers = pd.concat(
        [
            pd.DataFrame(
                {
                    "loss": label,
                    "sign": sign,
                    "logit": LOGITS,
                    "probability": _sigmoid(LOGITS),
                    "gradient": slope(LOGITS, sign),
                }
            )
            for slope, label in curves.items()
            for sign in SIGNS
        ],
        ignore_index=True,
    )
    caption = (
        "|dL/dz| of one label against its logit z and its probability σ(z), at bias 0 and without "
        "weights per class or image. Adaptive factors are those of the last epoch, means over the "
        f"classes of a group and over seeds. {left_out}"
    ).strip()
    if len(curves) < len(labels_of):
        caption += f" The first {MAX_CURVES} of {len(labels_of)} different curves."
    if (largest := numbers["gradient"].max()) > MAX_GRADIENT:
        caption += f" Cut at {MAX_GRADIENT:g}; the largest is {largest:.3g}."
    if not_drawn:
        caption += f" Not drawn: {'; '.join(not_drawn)}."
    return Figure(name, title, caption, numbers, partial(_draw, numbers, list(curves.values())))


def _curves(shown: Sequence[Shown]) -> tuple[dict[Slope, str], list[str]]:
    """Return a label for each different curve, and what has none with the reason."""
    users: dict[Slope, list[str]] = {}
    not_drawn = []
    for one in shown:
        loss = one.records.loss_of(one.number)
        slopes = slopes_of(loss, _adapted(one))
        if not slopes:
            reason = WHY_NOT.get(loss.name, "its adaptive factors were not recorded")
            not_drawn.append(f"{one.label} ({reason})")
        groups_of: dict[Slope, list[str]] = {}
        for group, slope in slopes.items():
            groups_of.setdefault(slope, []).append(group)
        for slope, groups in groups_of.items():
            where = "" if len(groups_of) == 1 else f" {', '.join(groups)}"
            users.setdefault(slope, []).append(f"{one.label}{where}")
    if users:
        users.setdefault(BCE, ["BCE, for reference"])
    return {slope: _joined(labels) for slope, labels in users.items()}, not_drawn


def _joined(labels: Sequence[str], *, most: int = 3) -> str:
    more = f" and {len(labels) - most} more" if len(labels) > most else ""
    return "; ".join(labels[:most]) + more


def _adapted(one: Shown) -> dict[tuple[str, str], float]:
    """Return effective factors of the last epoch by factor and group, rounded to 6 digits."""
    values: dict[tuple[str, str], list[float]] = {}
    for row in one.last_epochs().to_dict("records"):
        groups = np.array(row["class.group"], dtype=object)
        for factor in FACTORS:
            of_class = row[f"class.{factor}"]
            if of_class is None:
                continue
            for group in set(groups):
                mean = np.asarray(of_class, dtype=float)[groups == group].mean()
                values.setdefault((factor, group), []).append(mean)
    return {key: float(f"{np.mean(means):.6g}") for key, means in values.items()}


@style.in_style
def _draw(numbers: pd.DataFrame, labels: Sequence[str]) -> Drawing:
    names = [style.literal(label, length=60) for label in labels]
    drawing = style.new_drawing(style.DOUBLE_COLUMN, 3.8, legend=names)
    panels = drawing.subplots(2, 2, sharex="row", sharey="col")
    xs = {"logit": "logit $z$", "probability": r"probability $\sigma(z)$"}
    for column, (sign, sign_name) in enumerate(SIGNS.items()):
        of_sign = numbers[numbers["sign"] == sign]
        panels[0, column].set_title(sign_name)
        for axes, (x, x_name) in zip(panels[:, column], xs.items(), strict=True):
            for place, label in enumerate(labels):
                part = of_sign[of_sign["loss"] == label]
                axes.plot(part[x], part["gradient"], **style.line_style(place))
            axes.set_xlabel(x_name)
        axes.set_ylim(0, 1.05 * min(of_sign["gradient"].max(), MAX_GRADIENT))
    for axes in panels[:, 0]:
        axes.set_ylabel(r"$|\partial L / \partial z|$")
    handles = [Line2D([], [], **style.line_style(i), label=n) for i, n in enumerate(names)]
    style.legend_below(drawing, handles)
    return drawing
