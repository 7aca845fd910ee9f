"""What an epoch is measured by: average precision per class, probabilities, means of class groups.

Shapes: N images, B images of a batch, C classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgsearch.class_groups import GROUPS

Floats = npt.NDArray[np.float64]


def average_precision_per_class(scores_NC: npt.ArrayLike, targets_NC: npt.ArrayLike) -> Floats:
    """Average precision of each class, `[C]`; NaN for a class without a positive image.

    AP = Σ_n (R_n − R_{n−1}) P_n over the distinct scores as thresholds, so tied scores count as
    one: scikit-learn's `average_precision_score`, not the envelope or 11-point AP of PASCAL VOC.

    Args:
        scores_NC: finite; any increasing function of them gives the same result.
        targets_NC: 1 where the image contains the class, else 0.
    """
    scores = np.asarray(scores_NC, dtype=np.float64)
    targets = np.asarray(targets_NC)
    _check_scored(scores, targets)
    average_precisions_C = np.full(scores.shape[1], np.nan)
    for index in np.flatnonzero(targets.any(axis=0)):
        average_precisions_C[index] = _average_precision(
            scores[:, index], targets[:, index].astype(bool)
        )
    return average_precisions_C


def _average_precision(scores_N: Floats, is_positive_N: npt.NDArray[np.bool_]) -> float:
    """Mean, over the positive images, of the precision among all that score as high."""
    order_N = np.argsort(-scores_N)
    sorted_N, hits_N = scores_N[order_N], is_positive_N[order_N].cumsum()
    is_last_of_ties_N = np.append(sorted_N[1:] != sorted_N[:-1], True)
    found_T = np.flatnonzero(is_last_of_ties_N) + 1  # images at or above each distinct score
    hits_T = hits_N[found_T - 1]
    new_hits_T = np.diff(hits_T, prepend=0)
    return float((new_hits_T * hits_T / found_T).sum() / hits_T[-1])


def f1_scores(scores_NC: npt.ArrayLike, targets_NC: npt.ArrayLike) -> dict[str, float]:
    """Micro and macro F1 of the labels that a probability above 1/2 gives.

    `micro` counts all labels of all classes together; `macro` is the mean of the classes' own F1,
    over the classes with a positive image (NaN if there is none), as mean average precision is.

    Args:
        scores_NC: finite logits z; σ(z) > 1/2 is z > 0.
        targets_NC: 1 where the image contains the class, else 0.
    """
    scores = np.asarray(scores_NC, dtype=np.float64)
    targets = np.asarray(targets_NC)
    _check_scored(scores, targets)
    # scikit-learn's f1_score reads a single column as two classes, and takes no empty array.
    predicted, positive = scores > 0, targets.astype(bool)
    hits_C = (predicted & positive).sum(axis=0)
    labels_C = predicted.sum(axis=0) + positive.sum(axis=0)
    has_positive_C = positive.any(axis=0)
    if not has_positive_C.any():
        return {"micro": float("nan"), "macro": float("nan")}
    macro = np.mean(2 * hits_C[has_positive_C] / labels_C[has_positive_C])
    return {"micro": float(2 * hits_C.sum() / labels_C.sum()), "macro": float(macro)}


def group_means(values_C: npt.ArrayLike, class_groups_C: npt.ArrayLike) -> dict[str, float]:
    """Mean over all classes (`total`) and over those of each group (`head`, `medium`, `tail`).

    Undefined values (NaN) do not count; a mean over no defined value is NaN.

    Args:
        values_C: one value per class.
        class_groups_C: index into `GROUPS` of each class.
    """
    values = np.asarray(values_C, dtype=np.float64)
    groups = np.asarray(class_groups_C)
    if values.ndim != 1 or values.shape != groups.shape:
        raise ValueError(f"values {values.shape} and class groups {groups.shape} must both be [C]")
    means = {"total": _mean_of_defined(values)}
    for index, group in enumerate(GROUPS):
        means[group] = _mean_of_defined(values[groups == index])
    return means


@dataclass(frozen=True, eq=False)
class ProbabilityMeans:
    """How sure an epoch was of its positive and of its negative labels.

    The means of groups have the keys of `group_means`.
    """

    p_pos_C: Floats
    """Mean of σ(z) over the positive labels of each class; NaN where it had none."""
    p_neg_C: Floats
    """Mean of 1 − σ(z) over the negative labels of each class; NaN where it had none."""
    p_pos: dict[str, float]
    p_neg: dict[str, float]


class ProbabilityMeter:
    """Collects p⁺ and p⁻ of each class over the batches of one epoch.

    p⁺ and p⁻ are Eqs. 6 and 7 of the PG paper (AAAI 2023) with an epoch in place of a batch:
    all labels of a class weigh the same, whatever batch they came in. The sums stay on the device
    of the logits, and `update` never waits for it.
    """

    def __init__(self, class_groups_C: npt.ArrayLike) -> None:
        self._class_groups_C = np.asarray(class_groups_C)
        self._sums_4C: Tensor | None = None

    @torch.no_grad()
    def update(self, logits_BC: Tensor, targets_BC: Tensor) -> None:
        """Add a batch: logits, and targets that are exactly 0 or 1."""
        num_classes = len(self._class_groups_C)
        if logits_BC.shape != targets_BC.shape or logits_BC.shape[1:] != (num_classes,):
            raise ValueError(
                f"logits {tuple(logits_BC.shape)} and targets {tuple(targets_BC.shape)} "
                f"must both be [B, {num_classes}]"
            )
        # float64: an epoch is long, and which way its images were batched must not show.
        logits, positive = logits_BC.double(), targets_BC.double()
        negative = 1 - positive
        sums_4C = torch.stack(
            [
                (positive * torch.sigmoid(logits)).sum(dim=0),
                (negative * torch.sigmoid(-logits)).sum(dim=0),
                positive.sum(dim=0),
                negative.sum(dim=0),
            ]
        )
        self._sums_4C = sums_4C if self._sums_4C is None else self._sums_4C + sums_4C

    def state_dict(self) -> dict[str, Any]:
        """Return the sums so far."""
        return {"sums": self._sums_4C}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from sums, with logits to come on `device`."""
        sums_4C = state["sums"]
        self._sums_4C = None if sums_4C is None else sums_4C.to(device)

    def result(self) -> ProbabilityMeans:
        """Return the means over all batches so far."""
        num_classes = len(self._class_groups_C)
        sums_4C = np.zeros((4, num_classes))
        if self._sums_4C is not None:
            sums_4C = self._sums_4C.cpu().numpy()
        broken = np.flatnonzero(np.isnan(sums_4C).any(axis=0))
        if len(broken):
            raise ValueError(f"the logits of class {broken[0]} were NaN in some batch")
        p_pos_C, p_neg_C = np.full((2, num_classes), np.nan)
        sum_pos_C, sum_neg_C, num_pos_C, num_neg_C = sums_4C
        np.divide(sum_pos_C, num_pos_C, out=p_pos_C, where=num_pos_C > 0)
        np.divide(sum_neg_C, num_neg_C, out=p_neg_C, where=num_neg_C > 0)
        return ProbabilityMeans(
            p_pos_C=p_pos_C,
            p_neg_C=p_neg_C,
            p_pos=group_means(p_pos_C, self._class_groups_C),
            p_neg=group_means(p_neg_C, self._class_groups_C),
        )


def _check_scored(scores_NC: Floats, targets_NC: npt.NDArray[Any]) -> None:
    if scores_NC.ndim != 2 or scores_NC.shape != targets_NC.shape:
        raise ValueError(
            f"scores {scores_NC.shape} and targets {targets_NC.shape} must both be [N, C]"
        )
    not_finite = np.argwhere(~np.isfinite(scores_NC))
    if len(not_finite):
        row, column = not_finite[0]
        raise ValueError(
            f"{len(not_finite)} scores are not finite, the first is "
            f"{scores_NC[row, column]} in row {row} for class {column}"
        )
    if not np.isin(targets_NC, (0, 1)).all():
        raise ValueError("targets must be 0 or 1")


def _mean_of_defined(values: Floats) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
