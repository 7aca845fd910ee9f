"""Adaptive factors: the probabilities of a batch (Eqs. 6 and 7) and what is made of them.

Each adaptive factor is its base times a power of p̄⁺/p̄⁻, with exponent −1 or +1: APR scales the
four factors of probability re-balancing, APAF (Eq. 8) the two exponents of the focusing term.

Source: D. Lin, "Probability Guided Loss for Long-Tailed Multi-Label Image Classification",
AAAI 2023, doi:10.1609/aaai.v37i2.25244.
"""

from typing import Final

import torch
from torch import Tensor

from pgsearch.class_groups import GROUPS
from pgsearch.losses.numerics import at_least_float32

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


def batch_probabilities(
    logits_BC: Tensor, targets_BC: Tensor, class_groups_C: Tensor
) -> tuple[Tensor, Tensor]:
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
        `(p_pos_C, p_neg_C)` in [0, 1], at least float32, constants for the gradient.
    """
    logits_BC = at_least_float32(logits_BC.detach())
    positive_BC = targets_BC.bool()
    p_pos_C, has_pos_C = _mean_where(positive_BC, logits_BC.sigmoid())
    p_neg_C, has_neg_C = _mean_where(~positive_BC, (-logits_BC).sigmoid())
    return (
        _fill_absent(p_pos_C, has_pos_C, class_groups_C, otherwise_C=p_neg_C),
        _fill_absent(p_neg_C, has_neg_C, class_groups_C, otherwise_C=p_pos_C),
    )


def _fill_absent(
    p_C: Tensor, present_C: Tensor, class_groups_C: Tensor, *, otherwise_C: Tensor
) -> Tensor:
    groups_G = torch.arange(len(GROUPS), device=p_C.device)
    present_CG = present_C[:, None] & (class_groups_C[:, None] == groups_G)
    mean_G, has_G = _mean_where(present_CG, p_C[:, None])
    absent_C = torch.where(has_G[class_groups_C], mean_G[class_groups_C], otherwise_C)
    return torch.where(present_C, p_C, absent_C)


def _mean_where(mask: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the first axis of the values under the mask (0 if none), and whether any is."""
    count = mask.sum(dim=0)
    total = torch.where(mask, values, 0.0).sum(dim=0)
    return total / count.clamp(min=1), count > 0


def probability_ratio(
    p_pos_C: Tensor, p_neg_C: Tensor, *, max_ratio: float | None = None
) -> Tensor:
    """p̄⁺/p̄⁻ of each class, clamped into [1/max_ratio, max_ratio] unless that is None."""
    ratio_C = p_pos_C.clamp(min=PROBABILITY_FLOOR) / p_neg_C.clamp(min=PROBABILITY_FLOOR)
    if max_ratio is None:
        return ratio_C
    return ratio_C.clamp(min=1 / max_ratio, max=max_ratio)


def adaptive_factors(base_KC: Tensor, exponent_KC: Tensor, ratio_C: Tensor) -> Tensor:
    """Effective factors `[K, C]`: base · (p̄⁺/p̄⁻)^exponent; exponent 0 leaves the base exactly."""
    return base_KC * ratio_C**exponent_KC
