"""Scores and average precision of a classifier on one split."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pgsearch.data.augment import normalise_batch
from pgsearch.data.dataset import Split
from pgsearch.errors import NonFiniteLoss
from pgsearch.metrics import average_precision_per_class, group_means


@dataclass(frozen=True)
class Evaluation:
    """Results on one split."""

    loss: float
    """Mean binary cross-entropy of the raw scores: the same scale for every training loss."""
    ap_C: npt.NDArray[np.float64]
    """NaN for a class without a positive in the split."""
    map: dict[str, float]
    """By total, head, medium, tail."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    class_groups_C: npt.NDArray[np.int64],
    *,
    batch_size: int,
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]],
    device: torch.device,
    autocast: torch.autocast,
) -> Evaluation:
    """Evaluate raw logits `z` on every image of a split, in one view.

    Raises NonFiniteLoss where a score is not finite.
    """
    model.eval()
    logits = []
    for start in range(0, split.num_images, batch_size):
        images_BHWC = torch.from_numpy(np.array(split.images_NHWC[start : start + batch_size]))
        images_BCHW = normalise_batch(images_BHWC.to(device), *statistics)
        with autocast:
            logits.append(model(images_BCHW).float())
    logits_NC = torch.cat(logits).cpu()
    if not torch.isfinite(logits_NC).all():
        raise NonFiniteLoss("a score on the evaluation images is not finite")
    targets_NC = torch.from_numpy(split.targets_NC.astype(np.float32))
    ap_C = average_precision_per_class(logits_NC.numpy(), split.targets_NC)
    return Evaluation(
        loss=float(binary_cross_entropy_with_logits(logits_NC, targets_NC)),
        ap_C=ap_C,
        map=group_means(ap_C, class_groups_C),
    )
