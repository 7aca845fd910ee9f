"""Losses that weight the elements of BCE: here the re-balanced weight of distribution balance.

Source: T. Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed
Datasets", ECCV 2020, doi:10.1007/978-3-030-58548-8_10, section 3.1.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pgsearch.losses.numerics import at_least_float32


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

    r is the chance to draw image i for class c over the chance to draw it for any of its classes,
    under class-aware sampling. Positive and negative labels of an image share one rule, so r
    exceeds 1 for a negative label rarer than all positives. An image without positives has no r:
    its weights are 1.

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
    positive_BC = targets_BC.bool()
    inverse_C = at_least_float32(class_counts_C).reciprocal()
    inverse_sum_B1 = torch.where(positive_BC, inverse_C, 0.0).sum(dim=1, keepdim=True)
    smoothed_BC = alpha + torch.sigmoid(beta * (inverse_C / inverse_sum_B1 - mu))
    return torch.where(positive_BC.any(dim=1, keepdim=True), smoothed_BC, 1.0)
