"""Gradients that are known in closed form, given to autograd as they are."""

from typing import Any

import torch
from torch import Tensor


def with_slope(logits_BC: Tensor, loss: Tensor, slope_BC: Tensor, *, scale: float = 1.0) -> Tensor:
    """Return the loss, for autograd a function of the logits with a known derivative.

    Args:
        logits_BC: what the loss was computed from.
        loss: `[B, C]`, each of its own logit, or a scalar, without history.
        slope_BC: `scale` times this is the derivative of the loss by each logit. There is no second
            derivative.
        scale: for a scalar loss, whose gradient is sooner multiplied than the slope.
    """
    result: Tensor = _WithSlope.apply(logits_BC, loss, slope_BC, scale)
    return result


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, _: Tensor, loss: Tensor, slope_BC: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(slope_BC)
        ctx.scale = scale
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():  # by create_graph=True, for which the slope would be a constant
            raise RuntimeError("this loss has its first derivative only: leave out create_graph")
        (slope_BC,) = ctx.saved_tensors
        return gradient * ctx.scale * slope_BC, None, None, None
