"""The heads that are one layer: linear, and cosine.

Shapes: B images, D features, C classes.
"""

from typing import Final

import torch
from torch import Tensor, nn

NORM_FLOOR: Final = 1e-6
"""Least length that a vector is divided by: an all-zero one has cosine 0, not NaN."""


def linear_head(num_features: int, num_classes: int) -> nn.Linear:
    """Return a linear layer that starts from N(0, 0.01²) with bias 0."""
    head = nn.Linear(num_features, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


class CosineHead(nn.Module):
    """Features `[B, D]` to logits `[B, C]`: `scale · cos(w_c, f)`, without bias.

    The rows w_c start with length 1 in random directions, so that the first steps turn them
    neither faster nor slower than the learning rate says. After Cao et al., NeurIPS 2019
    (arXiv:1906.07413), whose published code does so too.
    """

    def __init__(self, num_features: int, num_classes: int, *, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(num_classes, num_features))
        nn.init.normal_(self.weight)
        with torch.no_grad():
            self.weight.copy_(_unit(self.weight))

    def forward(self, features_BD: Tensor) -> Tensor:
        """Return logits `[B, C]`."""
        return self.scale * nn.functional.linear(_unit(features_BD), _unit(self.weight))


def _unit(rows_XD: Tensor) -> Tensor:
    return nn.functional.normalize(rows_XD, dim=1, eps=NORM_FLOOR)
