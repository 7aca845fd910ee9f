"""Adaptive factors: the probabilities of a batch (Eqs. 6 and 7) and what is made of them.

Each adaptive factor is its base times a power of p̄⁺/p̄⁻, with exponent −1 or +1: APR scales the
four factors of probability re-balancing, APAF (Eq. 8) the two exponents of the focusing term.

Source: D. Lin, "Probability Guided Loss for Long-Tailed Multi-Label Image Classification",
AAAI 2023, doi:10.1609/aaai.v37i2.25244.
"""

import math
from typing import Final

import torch
from torch import Tensor

from pgsearch.class_groups import GROUPS
from pgsearch.losses.numerics import at_least_float32, in_dtype

RATIO_EXPONENTS: Final = {
    "lambda1_neg": -1,
    "lambda2_neg": -1,
    "lambda1_pos": -1,
    "lambda2_pos": 1,
    "focusing_neg": -1,
    "focusing_pos": 1,
}
"""Exponent of p̄⁺/p̄⁻ in each adaptive factor.

The focusing exponents are Eq. 8: λ⁻ = λ₀ p̄⁻/p̄⁺ and λ⁺ = λ₀ p̄⁺/p̄⁻. For the other four the paper
prints no formula ("just as APAF"); these signs are the ones that, by its Table 1, push the two
probabilities together.
"""

PROBABILITY_FLOOR: Final = torch.finfo(torch.float32).eps
"""Least probability that enters a ratio.

At |z| = 100 a sigmoid is about 4e-44 and its reciprocal overflows float32. With this floor a ratio
stays below 8.4e6, and even products of three ratios and a logit are finite. It is the same number
in float64, so that a result does not depend on the precision.
"""


def batch_probabilities(logits_BC: Tensor, targets_BC: Tensor, class_groups_C: Tensor) -> Tensor:
    """Mean probability p̄⁺ of the positive and p̄⁻ of the negative labels of each class.

    Eqs. 6 and 7, where the negative probability is 1 − σ(z), the probability that a negative label
    is negative. A class without positives in this batch takes the mean p̄⁺ of the classes of its
    group that have some (the divisor |C_tail| as printed would count the missing ones as zero), or
    its own p̄⁻ if the group has none at all. The mirror rule serves a class without negatives.
    A class of a non-empty batch lacks at most one of the two.

    Args:
        logits_BC: raw logits z, any floating type.
        targets_BC: labels in {0, 1}, any type.
        class_groups_C: integer index into `GROUPS` of each class.

    Returns:
        p̄⁺ and p̄⁻, `[2, C]` in [0, 1], at least float32, constants for the gradient.
    """
    z_BC = at_least_float32(logits_BC.detach())
    y_BC = in_dtype(targets_BC.detach(), z_BC.dtype)
    p_2C = known_probabilities(z_BC, y_BC, class_groups_C, class_mask(class_groups_C, z_BC.dtype))
    return torch.where(p_2C.isnan(), p_2C.flip(0), p_2C)


def known_probabilities(
    z_BC: Tensor, y_BC: Tensor, class_groups_C: Tensor, class_mask_GC: Tensor
) -> Tensor:
    """`batch_probabilities`, but NaN where no class of the group has such a label.

    Args:
        z_BC: raw logits without history.
        y_BC: labels of the same type.
        class_groups_C: integer index into `GROUPS` of each class.
        class_mask_GC: their `class_mask` of the same type.
    """
    # Of each label, the probability that it is what it is: 1 − σ(z) = σ(−z) without cancellation.
    p_BC = torch.lerp(-z_BC, z_BC, y_BC).sigmoid_()
    label_2BC = torch.stack([y_BC, y_BC - 1])  # a minus that sum and count share
    count_2C = label_2BC.sum(dim=1)
    p_2C = label_2BC.mul_(p_BC).sum(dim=1) / count_2C  # NaN for want of labels
    mean_2G = (class_mask_GC * p_2C.unsqueeze(1)).nanmean(dim=-1)
    return torch.where(p_2C.isnan(), mean_2G.index_select(1, class_groups_C), p_2C)


def class_mask(class_groups_C: Tensor, dtype: torch.dtype) -> Tensor:
    """`[G, C]`: 1 for the classes of a group, NaN for all others, so that `nanmean` skips them."""
    groups_G1 = torch.arange(len(GROUPS), device=class_groups_C.device)[:, None]
    return torch.where(class_groups_C == groups_G1, 1.0, math.nan).to(dtype)


def probability_ratio(p_2C: Tensor, *, max_ratio: float | None = None) -> Tensor:
    """p̄⁺/p̄⁻ of each class, clamped into [1/max_ratio, max_ratio] unless that is None.

    Where one of the two is NaN, which is for want of labels, it stands for the other.
    """
    p_pos_C, p_neg_C = p_2C.clamp(min=PROBABILITY_FLOOR).unbind()
    ratio_C = (p_pos_C / p_neg_C).nan_to_num(nan=1.0)
    if max_ratio is None:
        return ratio_C
    return ratio_C.clamp(min=1 / max_ratio, max=max_ratio)


def adaptive_factors(base_KC: Tensor, exponent_KC: Tensor, ratio_C: Tensor) -> Tensor:
    """Effective factors `[K, C]`: base · (p̄⁺/p̄⁻)^exponent; exponent 0 leaves the base exactly."""
    return base_KC * ratio_C**exponent_KC
