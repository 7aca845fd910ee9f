"""The module of the probability guided (PG) loss, which is that of its whole family."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pgsearch.losses.adaptive import (
    adaptive_factors,
    class_mask,
    known_probabilities,
    probability_ratio,
)
from pgsearch.losses.equations import class_bias, pg_loss_and_slope
from pgsearch.losses.factors import (
    FACTOR_NAMES,
    NEUTRAL_FACTORS,
    NO_FOCUSING,
    PAPER_BIAS,
    Bias,
    Factors,
    Focusing,
    group_table,
)
from pgsearch.losses.numerics import at_least_float32, in_dtype
from pgsearch.losses.output import LossOutput
from pgsearch.losses.reweighted import Rebalance, rebalanced_weight
from pgsearch.losses.slope import with_slope


class PGLoss(nn.Module):
    """Mean of `balance` · r̂ · `pg_loss` over a batch, with factors fixed or adapted to the batch.

    Everything given per class group is expanded to the classes once. The buffers are constants made
    of the arguments, so they are left out of the state dict: a checkpoint cannot override them.

    `forward` makes no host synchronisation and computes in float32, or in float64 for such logits.
    Gradients come back in the type of the logits; with extreme adaptive factors they can leave the
    range of float16 (not of bfloat16), which `max_ratio` prevents.

    Args:
        class_counts_C: training images n_c that contain each class.
        class_groups_C: index into `GROUPS` of each class.
        num_images: training images N.
        factors: λ₁⁻, λ₂⁻, λ₁⁺ and λ₂⁺ by class group.
        focusing: the focusing term by class group.
        bias: the shift of the logits.
        rebalance: the re-balanced weight r̂; None is 1.
        balance: a constant multiplier.
        max_ratio: bound ≥ 1 of p̄⁺/p̄⁻ and of p̄⁻/p̄⁺; None is no bound, as in the paper.
        class_names: for error messages only.
        dtype: type of the buffers; with float64, float64 logits lose nothing.

    Raises:
        InvalidData: a class is in none or in all of the images.
    """

    base_KC: Tensor
    exponent_KC: Tensor
    bias_C: Tensor
    class_counts_C: Tensor
    class_groups_C: Tensor
    class_mask_GC: Tensor

    def __init__(
        self,
        class_counts_C: npt.ArrayLike,
        class_groups_C: npt.ArrayLike,
        *,
        num_images: int,
        factors: Factors = NEUTRAL_FACTORS,
        focusing: Focusing = NO_FOCUSING,
        bias: Bias = PAPER_BIAS,
        rebalance: Rebalance | None = None,
        balance: float = 1.0,
        max_ratio: float | None = None,
        class_names: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if max_ratio is not None and not max_ratio >= 1:
            raise ValueError(f"max_ratio bounds a ratio and its reciprocal: >= 1, got {max_ratio}")
        self.focal_logit = focusing.focal_logit
        self.rebalance = rebalance
        self.balance = balance
        self.max_ratio = max_ratio

        counts_C = torch.tensor(np.asarray(class_counts_C), dtype=torch.int64)
        groups_C = torch.tensor(np.asarray(class_groups_C), dtype=torch.int64)
        base_KG, exponent_KG = group_table(factors, focusing)
        base_KC = base_KG[:, groups_C]
        bias_C = class_bias(class_counts_C, num_images, bias.kappa, class_names=class_names)
        if bias.over_scale:
            bias_C = bias_C / base_KC[FACTOR_NAMES.index("lambda1_neg")]
        self.has_focusing = any(focusing.base_G())
        self.is_adaptive = bool(exponent_KG[:, groups_C].any())
        self.register_buffer("base_KC", base_KC.to(dtype), persistent=False)
        self.register_buffer("exponent_KC", exponent_KG[:, groups_C].to(dtype), persistent=False)
        self.register_buffer("bias_C", bias_C.to(dtype), persistent=False)
        self.register_buffer("class_counts_C", counts_C, persistent=False)
        self.register_buffer("class_groups_C", groups_C, persistent=False)
        self.register_buffer("class_mask_GC", class_mask(groups_C, dtype), persistent=False)

    def forward(self, logits_BC: Tensor, targets_BC: Tensor) -> LossOutput:
        logits_BC = at_least_float32(logits_BC)
        # Without history: the slope is known, and the statistics of the batch are constants.
        z_BC = logits_BC.detach()
        y_BC = in_dtype(targets_BC.detach(), z_BC.dtype)
        factors = self._batch_factors(z_BC, y_BC)
        loss_BC, slope_BC = pg_loss_and_slope(
            z_BC,
            y_BC,
            factors,
            bias_C=in_dtype(self.bias_C, z_BC.dtype),
            focal_logit=self.focal_logit if self.has_focusing else None,
            weight_BC=self._weight(y_BC),
        )
        scale = self.balance / loss_BC.numel()
        loss = with_slope(logits_BC, loss_BC.sum() * scale, slope_BC, scale=scale)
        return LossOutput(loss, factors)

    def _batch_factors(self, z_BC: Tensor, y_BC: Tensor) -> dict[str, Tensor]:
        if self.is_adaptive:
            p_2C = known_probabilities(
                z_BC, y_BC, self.class_groups_C, in_dtype(self.class_mask_GC, z_BC.dtype)
            )
            ratio_C = probability_ratio(p_2C, max_ratio=self.max_ratio)
            factor_KC = adaptive_factors(
                in_dtype(self.base_KC, z_BC.dtype), in_dtype(self.exponent_KC, z_BC.dtype), ratio_C
            )
        else:  # a copy, as the caller may keep or change what it is given
            factor_KC = self.base_KC.to(z_BC.dtype, copy=True)
        return dict(zip(FACTOR_NAMES, factor_KC.unbind(), strict=True))

    def _weight(self, y_BC: Tensor) -> Tensor | None:
        if self.rebalance is None:
            return None
        return rebalanced_weight(
            y_BC,
            in_dtype(self.class_counts_C, y_BC.dtype),
            alpha=self.rebalance.alpha,
            beta=self.rebalance.beta,
            mu=self.rebalance.mu,
        )
