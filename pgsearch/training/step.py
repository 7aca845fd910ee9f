"""One step of the optimiser, and what tells that a number in it is not finite.

Shapes: B images, C classes, V values.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pgsearch.errors import NonFiniteLoss


@dataclass(frozen=True, eq=False)
class Step:
    """What a step has seen, on the device of the network."""

    number: int
    """Of the trial, from 0."""
    loss: Tensor
    gradient_norm: Tensor
    """L2, before clipping."""
    factors: Mapping[str, Tensor]
    """By name, each `[C]`."""


def gradient_norm(network: nn.Module, clip_norm: float | None) -> Tensor:
    """Return the L2 norm of all gradients, which are scaled down to a norm of `clip_norm`."""
    if clip_norm is not None:
        return nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return nn.utils.get_total_norm(gradients)


class FiniteWatch:
    """Ends a trial whose loss or gradient is not finite.

    On a CPU at the step itself, before it changes a weight. A GPU is not waited for: there the
    first such step is kept, and told when `require_finite` asks, after the steps of an epoch and
    before anything of them is kept or reported.

    Args:
        device: of the network.
        seed: of the trial, for the message.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._at_once, self._seed = is_asked_at_once(device), seed
        self._first: tuple[Tensor, Tensor] | None = None  # number, or −1; values [V]
        self._names: list[str] = []

    def see(self, step: Step, epoch: int) -> None:
        """Look at a step before its update. Raises NonFiniteLoss if that is known at once."""
        is_finite = torch.isfinite(step.loss + step.gradient_norm)
        if self._at_once:
            if not is_finite:
                raise NonFiniteLoss(self._describe(step, epoch))
            return
        values_V = torch.cat([value.reshape(-1).float() for value in self._values_of(step)])
        self._names = list(step.factors)
        if self._first is None:
            self._first = (torch.full((), -1, device=values_V.device), values_V)
        number, kept_V = self._first
        is_first = (number < 0) & ~is_finite
        self._first = (
            torch.where(is_first, step.number, number),
            torch.where(is_first, values_V, kept_V),
        )

    def require_finite(self, epoch: int) -> None:
        """Raise NonFiniteLoss for the first step of an epoch that was not finite; forget them."""
        first, self._first = self._first, None
        if first is None or (number := int(first[0])) < 0:
            return
        loss, norm, *factors_V = first[1].cpu()
        factors_FC = torch.stack(factors_V).reshape(len(self._names), -1) if factors_V else ()
        factors = dict(zip(self._names, factors_FC, strict=True))
        raise NonFiniteLoss(self._describe(Step(number, loss, norm, factors), epoch))

    @staticmethod
    def _values_of(step: Step) -> list[Tensor]:
        return [step.loss, step.gradient_norm, *step.factors.values()]

    def _describe(self, step: Step, epoch: int) -> str:
        loss, norm = float(step.loss), float(step.gradient_norm)
        what = "the gradient" if torch.isfinite(step.loss) else "the loss"
        ranges = ", ".join(
            f"{name} {float(factor_C.min()):.3g}..{float(factor_C.max()):.3g}"
            for name, factor_C in step.factors.items()
        )
        over_classes = f"factors over the classes: {ranges}; " if ranges else ""
        return (
            f"{what} is not finite in epoch {epoch}, step {step.number} of the trial "
            f"(loss {loss:.4g}, gradient norm {norm:.4g}, seed {self._seed}); "
            f"{over_classes}a lower training.learning_rate, a narrower range of the factors or "
            "loss.max_ratio helps"
        )


def is_asked_at_once(device: torch.device) -> bool:
    """Whether asking for a number is free, since nothing has to be waited for."""
    return device.type == "cpu"
