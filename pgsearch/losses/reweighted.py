"""Weights of the elements of BCE: by class frequency, effective number, and DB's re-balanced one.

All are made of the training counts (and of the labels of an image), never of the logits, so they
are constants for the gradient.

Sources: Y. Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019,
doi:10.1109/CVPR.2019.00949; T. Wu et al., "Distribution-Balanced Loss for Multi-Label
Classification in Long-Tailed Datasets", ECCV 2020, doi:10.1007/978-3-030-58548-8_10 ("DB").
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pgsearch.errors import InvalidData
from pgsearch.losses.numerics import at_least_float32, in_dtype

Weighting: TypeAlias = Literal["sqrt", "inv"]
LabelWeighting: TypeAlias = Literal["by_class", "average_w", "average_n", "min_n"]


def inverse_frequency_weight(
    class_counts_C: Tensor, num_images: int, *, weighting: Weighting = "sqrt"
) -> Tensor:
    """Weight of each class, not normalised: "sqrt" is w_c = √(N/n_c), "inv" is w_c = N/n_c.

    Args:
        class_counts_C: training images n_c > 0 that contain each class.
        num_images: training images N.
        weighting: the root, or the ratio itself.

    Returns:
        `[C]`, at least float32.
    """
    ratio_C = num_images / at_least_float32(class_counts_C)
    match weighting:
        case "sqrt":
            return ratio_C.sqrt()
        case "inv":
            return ratio_C


def class_balanced_weight(counts: Tensor, *, beta: float) -> Tensor:
    """Weight w = (1 − β)/(1 − βⁿ), one over the effective number of samples of Cui et al.

    It falls from 1 at n = 1 to 1 − β at n = ∞; β = 0 is no weight.

    Args:
        counts: n ≥ 1, of any shape; infinity is allowed.
        beta: β in [0, 1).

    Returns:
        The shape of the counts, in [1 − β, 1], at least float32.
    """
    log_beta = math.log(beta) if beta > 0 else -math.inf
    # 1 − βⁿ as written loses four digits of float32 at β = 0.9999 and n = 1.
    return (1 - beta) / -torch.expm1(at_least_float32(counts) * log_beta)


def class_balanced_weight_of_labels(
    targets_BC: Tensor, class_counts_C: Tensor, *, beta: float, mode: LabelWeighting = "average_w"
) -> Tensor:
    """How DB's code carries `class_balanced_weight` w(n) over to several labels per image.

        by_class     w(n_c), of each class for its own label
        average_w    mean of w(n_k) over the positives k of the image
        average_n    w of the mean of n_k over the positives k
        min_n        w of the least n_k among the positives k

    The last three give one weight to all labels of an image; positive and negative labels share it
    in all four. An image without positives has no such mean: it takes 1 − β, the w of an infinite
    count and the least of all, because it shows no rare class (DB's code divides 0 by 0 there;
    its `min_n` has w(100,000), the same number at β = 0.9).

    Args:
        targets_BC: labels in {0, 1}, any type.
        class_counts_C: training images n_c ≥ 1 that contain each class.
        beta: β in [0, 1).
        mode: one of the four above.

    Returns:
        `[C]` for "by_class", else `[B, 1]`; in [1 − β, 1], of the type of the counts and at least
        float32.
    """
    counts_C = at_least_float32(class_counts_C)
    positive_BC = targets_BC.bool()
    match mode:
        case "by_class":
            return class_balanced_weight(counts_C, beta=beta)
        case "average_w":
            weight_C = class_balanced_weight(counts_C, beta=beta)
            return _mean_over_positives(weight_C, positive_BC, otherwise=1 - beta)
        case "average_n":
            mean_B1 = _mean_over_positives(counts_C, positive_BC, otherwise=math.inf)
            return class_balanced_weight(mean_B1, beta=beta)
        case "min_n":
            least_B1 = torch.where(positive_BC, counts_C, math.inf).amin(dim=1, keepdim=True)
            return class_balanced_weight(least_B1, beta=beta)


def _mean_over_positives(values_C: Tensor, positive_BC: Tensor, *, otherwise: float) -> Tensor:
    total_B1 = torch.where(positive_BC, values_C, 0.0).sum(dim=1, keepdim=True)
    count_B1 = positive_BC.sum(dim=1, keepdim=True)
    return torch.where(count_B1 > 0, total_B1 / count_B1, otherwise)


@dataclass(frozen=True, kw_only=True)
class Rebalance:
    """The smoothing of the re-balanced weight; μ is 0.3 for VOC-LT and 0.2 for COCO-LT."""

    mu: float
    alpha: float = 0.1
    beta: float = 10.0


def rebalanced_weight(
    targets_BC: Tensor, class_counts_C: Tensor, *, alpha: float, beta: float, mu: float
) -> Tensor:
    """Weight r̂ = α + σ(β(r − μ)) of each label, with r_ic = (1/n_c) / Σ_{k: y_ik=1} 1/n_k.

    DB, section 3.1. r is the chance to draw image i for class c over the chance to draw it for any
    of its classes, under class-aware sampling. Positive and negative labels of an image share one
    rule, so r exceeds 1 for a negative label rarer than all positives. An image without positives
    has no r: its weights are 1.

    Args:
        targets_BC: labels in {0, 1}, any type.
        class_counts_C: training images n_c > 0 that contain each class; its type, at least
            float32, is the result's.
        alpha: least weight.
        beta: steepness.
        mu: the r of a weight halfway between α and α + 1.

    Returns:
        `[B, C]` in (α, α + 1), or 1.
    """
    inverse_C = at_least_float32(class_counts_C).reciprocal()
    inverse_sum_B1 = (in_dtype(targets_BC, inverse_C.dtype) * inverse_C).sum(dim=1, keepdim=True)
    # β(r − μ) with its factors where the arrays are small.
    scaled_BC = torch.sub(inverse_C * beta, inverse_sum_B1, alpha=beta * mu).div_(inverse_sum_B1)
    smoothed_BC = scaled_BC.sigmoid_().add_(alpha)
    return smoothed_BC.masked_fill_((inverse_sum_B1 > 0).logical_not_(), 1.0)


def counts_of_present_classes(
    class_counts_C: npt.ArrayLike, *, needed_by: str, class_names: Sequence[str] | None = None
) -> Tensor:
    """The counts as float64, once every class is known to be in an image.

    Args:
        class_counts_C: training images n_c that contain each class.
        needed_by: what has no value for an absent class, for the error message.
        class_names: for the error message only.

    Raises:
        InvalidData: a class is in none of the images; names every such class.
    """
    counts_C = torch.tensor(np.asarray(class_counts_C), dtype=torch.float64)
    problems = [
        f"class {class_names[c] if class_names is not None else c!r}: contained in {n:g} training "
        f"images, but {needed_by} needs n >= 1; correct its labels, remove the class, or use a "
        "loss without it"
        for c, n in enumerate(counts_C.tolist())
        if not 1 <= n < math.inf
    ]
    if problems:
        raise InvalidData(problems)
    return counts_C
