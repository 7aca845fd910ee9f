"""What the differences of paired runs say: interval, paired t, Wilcoxon, effect size, and Holm.

Pairs have the same seed, so they share the order of images and the initial weights of what both
have, and much of what a seed does cancels out. What a few pairs cannot say is None, never 0 or 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import stats

DECIMALS: Final = 12
"""Differences of mAP are rounded to it: below it there is only the rounding of the arithmetic, by
which equal differences would look different and zeros like wins."""


@dataclass(frozen=True)
class Paired:
    """Statistics of the differences of n pairs, in the unit of the differences."""

    n: int
    mean: float | None
    """None for n = 0."""
    low: float | None
    """Lower end of the t interval of the mean; None for n < 2 or equal differences."""
    high: float | None
    t_p: float | None
    """Two-sided p of the paired t test; None as `low`."""
    wilcoxon_p: float | None
    """Two-sided p of Wilcoxon's signed-rank test; None with fewer than two differences that are
    not 0."""
    smallest_wilcoxon_p: float | None
    """What it would be if all those differences had one sign: no data of as many pairs have less.
    None as `wilcoxon_p`."""
    dz: float | None
    """Mean over standard deviation of the differences; None as `low`. Cohen, Statistical Power
    Analysis for the Behavioral Sciences, 1988, section 2.3.5."""
    wins: int
    """Differences above 0."""
    ties: int
    losses: int


def paired(differences: Sequence[float], *, confidence: float = 0.95) -> Paired:
    """Return what the differences of pairs say of their mean.

    Args:
        differences: one per pair, finite.
        confidence: of the interval, in (0, 1).
    """
    differences_N = np.round(np.asarray(differences, dtype=float), DECIMALS)
    n = len(differences_N)
    varies = n > 1 and np.ptp(differences_N) > 0
    low = high = t_p = dz = None
    if varies:
        result = stats.ttest_1samp(differences_N, 0.0)
        t_p = float(result.pvalue)
        low, high = map(float, result.confidence_interval(confidence))
        dz = float(differences_N.mean() / differences_N.std(ddof=1))
    wilcoxon_p, smallest = _wilcoxon(differences_N[differences_N != 0])
    return Paired(
        n=n,
        mean=float(differences_N.mean()) if n else None,
        low=low,
        high=high,
        t_p=t_p,
        wilcoxon_p=wilcoxon_p,
        smallest_wilcoxon_p=smallest,
        dz=dz,
        wins=int((differences_N > 0).sum()),
        ties=int((differences_N == 0).sum()),
        losses=int((differences_N < 0).sum()),
    )


def _wilcoxon(nonzero_M: np.ndarray) -> tuple[float | None, float | None]:
    """Return the exact p and the smallest p. Zeros are left out before, as Wilcoxon did.

    Own code, since scipy's exact distribution is of ranks without ties, and trying all signs by its
    permutation test takes a tenth of a second for each class.
    """
    m = len(nonzero_M)
    if m < 2:
        return None, None
    doubled_ranks_M = (2 * stats.rankdata(np.abs(nonzero_M))).astype(int)  # ties have halves
    probabilities = np.ones(1)  # by the sum of the positive ranks, where each sign is a fair coin
    for rank in doubled_ranks_M:
        without, with_it = (np.pad(probabilities, pad) / 2 for pad in ((0, rank), (rank, 0)))
        probabilities = without + with_it
    positive, total = doubled_ranks_M[nonzero_M > 0].sum(), doubled_ranks_M.sum()
    tail = probabilities[: min(positive, total - positive) + 1].sum()
    return min(1.0, float(2 * tail)), 2.0 ** (1 - m)


def pairs_needed(alpha: float, num_comparisons: int = 1) -> int:
    """Return the pairs with which the smallest p of Wilcoxon's test, after Holm, reaches alpha."""
    return 1 + math.ceil(math.log2(num_comparisons / alpha))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p of a family of comparisons, each in its place.

    A comparison without a p (None) is no member of the family. Holm, A simple sequentially
    rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    defined = [(p, place) for place, p in enumerate(p_values) if p is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    so_far = 0.0
    for rank, (p, place) in enumerate(sorted(defined)):
        so_far = max(so_far, min(1.0, (len(defined) - rank) * p))
        adjusted[place] = so_far
    return adjusted
