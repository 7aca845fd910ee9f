"""Gradients that are known in closed form, given to autograd as they are."""

from typing import Any

import torch
from torch import Tensor


def with_slope(logits_BC: Tensor, loss: Tensor, slope_BC: Tensor) -> Tensor:
    """Return the loss, for autograd a function of the logits with this derivative.

    Args:
        logits_BC: what the loss was computed from.
        loss: `[B, C]`, each of its own logit, or a scalar, without gradient.
        slope_BC: derivative of the loss by each logit; there is no second derivative.
    """
    result: Tensor = _WithSlope.apply(logits_BC, loss, slope_BC)
    return result


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_BC: Tensor, loss: Tensor, slope_BC: Tensor) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(slope_BC)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():  # by create_graph=True, for which the slope would be a constant
            raise RuntimeError("this loss has its first derivative only: leave out create_graph")
        (slope_BC,) = ctx.saved_tensors
        return gradient * slope_BC, None, None
