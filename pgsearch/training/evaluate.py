"""Scores of a classifier on one split, and what they are worth."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pgsearch.errors import NonFiniteLoss
from pgsearch.metrics import average_precision_per_class, f1_scores, group_means
from pgsearch.training.folding import folded


@dataclass(frozen=True)
class Evaluation:
    """Results on one split."""

    loss: float
    """Mean binary cross-entropy of the raw scores: the same scale for every training loss."""
    ap_C: npt.NDArray[np.float64]
    """NaN for a class without a positive in the split."""
    map: dict[str, float]
    """By total, head, medium, tail."""
    f1: dict[str, float]
    """By micro, macro."""


@torch.inference_mode()
def compute_logits(
    network: nn.Module,
    inputs: Callable[[slice], Tensor],
    num_images: int,
    *,
    batch_size: int,
    autocast: torch.autocast,
) -> npt.NDArray[np.float32]:
    """Return the raw logits `z` of every image in one view, `[N, C]`.

    Args:
        network: what turns a batch of inputs into logits; it is left in evaluation mode. What
            computes is a copy of it, with folded batch norms.
        inputs: gives the inputs of a range of images, on the network's device.
        num_images: N.
        batch_size: images at a time.
        autocast: arithmetic of the network.

    Raises:
        NonFiniteLoss: a score is not finite.
    """
    network.eval()
    network = folded(network)
    logits = []
    for start in range(0, num_images, batch_size):
        with autocast:
            logits.append(network(inputs(slice(start, start + batch_size))).float())
    logits_NC = torch.cat(logits).cpu()
    if not torch.isfinite(logits_NC).all():
        raise NonFiniteLoss("a score on the evaluation images is not finite")
    scores_NC: npt.NDArray[np.float32] = logits_NC.numpy()
    return scores_NC


def evaluate(
    logits_NC: npt.NDArray[np.float32],
    targets_NC: npt.NDArray[np.uint8],
    class_groups_C: npt.ArrayLike,
) -> Evaluation:
    """Return what the scores of a split are worth."""
    ap_C = average_precision_per_class(logits_NC, targets_NC)
    targets = torch.from_numpy(targets_NC.astype(np.float32))
    return Evaluation(
        loss=float(binary_cross_entropy_with_logits(torch.from_numpy(logits_NC), targets)),
        ap_C=ap_C,
        map=group_means(ap_C, class_groups_C),
        f1=f1_scores(logits_NC, targets_NC),
    )
