"""Long-tailed training sets: the profile of a sampled Pareto density, and images chosen after it.

Source: Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed
Datasets", ECCV 2020 (doi:10.1007/978-3-030-58548-8_10), and the code published with it.
"""

import random
from typing import Final

import numpy as np
import numpy.typing as npt

VOC_LT_NUM_OUTPUTS: Final = 3481
"""32-bit outputs of the generator that drawing VOC-LT from the official VOC2012 pool consumes."""


def pareto_profile(
    num_classes: int, *, max_count: int, min_count: int, b: float = 6.0, alpha: float = 0.01
) -> npt.NDArray[np.int64]:
    """Training images that each class should have, the most frequent class first; shape `[C]`.

    `x_i` runs evenly from 1 to `alpha^(−1/b)`, and
    `count_i = int((max_count − min_count)·x_i^−(b+1) + min_count)`.
    The last count is therefore a little above `min_count` (4 for VOC-LT's 1 to 800), as the
    density has not fallen to zero there.
    """
    if num_classes < 1 or not 0 <= min_count <= max_count:
        raise ValueError(
            f"a profile needs num_classes >= 1 and 0 <= min_count <= max_count, got "
            f"num_classes={num_classes}, min_count={min_count}, max_count={max_count}"
        )
    if b <= 0 or not 0 < alpha <= 1:
        raise ValueError(f"a profile needs b > 0 and 0 < alpha <= 1, got b={b}, alpha={alpha}")
    try:
        largest = alpha ** (-1.0 / b)
    except OverflowError:
        raise ValueError(
            f"alpha={alpha} and b={b} stretch the profile beyond all numbers; raise one of them"
        ) from None
    x_C = np.linspace(1.0, largest, num_classes)
    counts_C = (max_count - min_count) * x_C ** -(b + 1.0) + min_count
    return counts_C.astype(np.int64)


def long_tailed_selection(
    targets_NC: npt.NDArray[np.uint8], *, profile_C: npt.NDArray[np.int64], rng: random.Random
) -> list[int]:
    """Choose images of a pool so that the classes have about the counts of a profile.

    Classes are treated one after the other, in the order of `class_order`. For each, as many
    images as the profile says are reached by drawing from those not yet selected (all their labels
    count), or by removing selected ones that contain it. A class whose images do not suffice gets
    all it has; and a later class can add to an earlier one, or take from it.

    It draws as the published code does, so that with `rng_of_voc_lt()` and the official pool
    VOC-LT comes out as published, in the same order. The pools of the draws, and the result, are
    sets of integers: their order is CPython's, and depends on what was put in and taken out.

    Args:
        targets_NC: 0/1 targets of the pool, shape `[N, C]`.
        profile_C: counts to reach, the first for the first class of `class_order`.
        rng: `random.sample` of it draws.

    Returns:
        rows of the pool, in the published order.
    """
    classes_of = [np.flatnonzero(targets_C).tolist() for targets_C in targets_NC]
    selected: set[int] = set()
    selected_of: list[set[int]] = [set() for _ in range(targets_NC.shape[1])]
    for target, c in zip(profile_C.tolist(), class_order(targets_NC).tolist(), strict=True):
        delta = target - len(selected_of[c])
        if delta > 0:
            available = set(np.flatnonzero(targets_NC[:, c]).tolist()) - selected_of[c]
            for n in rng.sample(tuple(available), min(delta, len(available))):
                selected.add(n)
                for other in classes_of[n]:
                    selected_of[other].add(n)
        elif delta < 0:
            for n in rng.sample(tuple(selected_of[c]), -delta):
                selected.remove(n)
                for other in classes_of[n]:
                    selected_of[other].remove(n)
    return list(selected)


def class_order(targets_NC: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Classes, the one first that appears most beside the others: descending `Σ_i P(c|i)`.

    `P(c|i) = n_ic / n_i`; a class without images adds nothing.
    """
    targets = targets_NC.astype(np.float64)
    both_CC = targets.T @ targets
    counts_C = both_CC.diagonal().copy()
    conditional_CC = both_CC / np.maximum(counts_C, 1.0)[:, None]
    return np.argsort(-conditional_CC.sum(axis=0), kind="stable")


def rng_of_voc_lt() -> random.Random:
    """Return the random stream that VOC-LT was drawn with."""
    return random.Random(0)  # noqa: S311  it repeats a published draw


def rng_of_coco_lt() -> random.Random:
    """Return the random stream that the published code draws COCO-LT with: after VOC-LT.

    That this gives the published COCO-LT is not verified: it needs the labels of all of train2017.
    The check against the published counts per class tells whoever has them.
    """
    rng = rng_of_voc_lt()
    rng.getrandbits(32 * VOC_LT_NUM_OUTPUTS)
    return rng
