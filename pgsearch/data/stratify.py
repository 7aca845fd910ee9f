"""A validation split held out of multi-label training images, class by class.

Source: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-label Data",
ECML PKDD 2011 (doi:10.1007/978-3-642-23808-6_10), Fig. 1 (iterative stratification), for two
subsets.
"""

import numpy as np
import numpy.typing as npt

TRAIN, HELD_OUT = 0, 1


def stratified_holdout(
    targets_NC: npt.NDArray[np.uint8], *, fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Which images are held out; shape `[N]`.

    Beyond the paper: a class that has images keeps at least one for training, and one with two or
    more has at least one held out wherever moving a single image can give it one.

    Args:
        targets_NC: 0/1 targets, shape `[N, C]`.
        fraction: share of the images to hold out, `0 <= fraction < 1`; 0 holds out none.
        seed: of the order of images and of the paper's random ties.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"a held-out fraction must be at least 0 and below 1, got {fraction}")
    if fraction == 0:
        return np.zeros(len(targets_NC), dtype=np.bool_)
    positive_NC = np.asarray(targets_NC, dtype=np.bool_)
    held_out_N = _iterative_stratification(positive_NC, fraction, np.random.default_rng(seed))
    _keep_one_for_training(positive_NC, held_out_N)
    _hold_out_one(positive_NC, held_out_N)
    return held_out_N


def _iterative_stratification(
    positive_NC: npt.NDArray[np.bool_], fraction: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    num_images = len(positive_NC)
    shares_S = np.array([1.0 - fraction, fraction])
    wanted_S = shares_S * num_images
    wanted_SC = shares_S[:, None] * positive_NC.sum(axis=0)

    held_out_N = np.zeros(num_images, dtype=np.bool_)
    is_open_N = np.ones(num_images, dtype=np.bool_)
    order_N = rng.permutation(num_images)
    open_counts_C = positive_NC.sum(axis=0)
    while open_counts_C.any():
        # The rarest class first: later there would be no freedom left to divide it.
        rarest = int(np.where(open_counts_C > 0, open_counts_C, num_images + 1).argmin())
        for image in order_N[(is_open_N & positive_NC[:, rarest])[order_N]]:
            subset = _neediest(wanted_SC[:, rarest], wanted_S, rng)
            held_out_N[image] = subset == HELD_OUT
            is_open_N[image] = False
            wanted_S[subset] -= 1
            wanted_SC[subset, positive_NC[image]] -= 1
            open_counts_C -= positive_NC[image]
    for image in order_N[is_open_N[order_N]]:  # images without any label
        subset = _neediest(wanted_S, wanted_S, rng)
        held_out_N[image] = subset == HELD_OUT
        wanted_S[subset] -= 1
    return held_out_N


def _neediest(
    wanted_of_class_S: npt.NDArray[np.float64],
    wanted_S: npt.NDArray[np.float64],
    rng: np.random.Generator,
) -> int:
    """The subset that lacks most images of the class; on a tie most images; then either."""
    for lack_S in (wanted_of_class_S, wanted_S):
        if lack_S[TRAIN] != lack_S[HELD_OUT]:
            return int(lack_S.argmax())
    return int(rng.integers(2))


def _keep_one_for_training(
    positive_NC: npt.NDArray[np.bool_], held_out_N: npt.NDArray[np.bool_]
) -> None:
    for c in range(positive_NC.shape[1]):
        images = np.flatnonzero(positive_NC[:, c])
        if images.size and held_out_N[images].all():
            held_out_N[images[0]] = False


def _hold_out_one(positive_NC: npt.NDArray[np.bool_], held_out_N: npt.NDArray[np.bool_]) -> None:
    """Take nothing back from training that a class has only once there."""
    for c in range(positive_NC.shape[1]):
        images = np.flatnonzero(positive_NC[:, c])
        if images.size < 2 or held_out_N[images].any():
            continue
        train_counts_C = positive_NC[~held_out_N].sum(axis=0)
        is_spare = (train_counts_C >= 2) | ~positive_NC[images]
        movable = images[is_spare.all(axis=1)]
        if movable.size:
            held_out_N[movable[0]] = True
