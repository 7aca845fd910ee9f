"""The baselines of the paper's Table 2 that the PG family does not hold: RW, CB Focal, LDAM, ASL.

ERM, Focal, DB and DB Focal are settings of `PGLoss`, and RS is BCE with another sampler. As there,
the functions state the equations and return `[B, C]`, at least float32, and the modules carry what
is constant per class and return the mean over B*C. Logits are z, p = σ(z), labels y in {0, 1}.

"The paper" is D. Lin, "Probability Guided Loss for Long-Tailed Multi-Label Image Classification",
AAAI 2023, doi:10.1609/aaai.v37i2.25244; each loss names its own source.
"""

import math
from collections.abc import Sequence

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pgsearch.losses.equations import bce_loss, focal_loss
from pgsearch.losses.numerics import at_least_float32
from pgsearch.losses.output import LossOutput
from pgsearch.losses.reweighted import (
    LabelWeighting,
    Weighting,
    class_balanced_weight,
    class_balanced_weight_of_labels,
    counts_of_present_classes,
    inverse_frequency_weight,
)


def rw_loss(logits_BC: Tensor, targets_BC: Tensor, *, weight_C: Tensor) -> Tensor:
    """Re-weighted BCE: w_c · BCE(z), for positive and negative labels of class c alike.

    The paper's RW has w_c = √(N/n_c), not normalised, see `inverse_frequency_weight`.
    """
    return weight_C * bce_loss(logits_BC, targets_BC)


class RWLoss(nn.Module):
    """Mean of `rw_loss` over a batch.

    Args:
        class_counts_C: training images n_c that contain each class.
        num_images: training images N.
        weighting: "sqrt" or "inv", see `inverse_frequency_weight`.
        class_names: for error messages only.
        dtype: type of the buffer; with float64, float64 logits lose nothing.

    Raises:
        InvalidData: a class is in none of the images.
    """

    weight_C: Tensor

    def __init__(
        self,
        class_counts_C: npt.ArrayLike,
        *,
        num_images: int,
        weighting: Weighting = "sqrt",
        class_names: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        counts_C = counts_of_present_classes(
            class_counts_C, needed_by="the weight N/n of rw", class_names=class_names
        )
        weight_C = inverse_frequency_weight(counts_C, num_images, weighting=weighting)
        self.register_buffer("weight_C", weight_C.to(dtype), persistent=False)

    def forward(self, logits_BC: Tensor, targets_BC: Tensor) -> LossOutput:
        logits_BC = at_least_float32(logits_BC)
        weight_C = self.weight_C.to(logits_BC.dtype)
        return LossOutput(rw_loss(logits_BC, targets_BC, weight_C=weight_C).mean(), {})


def cb_focal_loss(
    logits_BC: Tensor, targets_BC: Tensor, *, weight: Tensor, gamma: float = 2.0
) -> Tensor:
    """Class-balanced focal loss: w · (1 − p_t)^γ · BCE(z), p_t = p (y = 1) or 1 − p (y = 0).

    Y. Cui et al., CVPR 2019, doi:10.1109/CVPR.2019.00949. Their loss is of one label per image; for
    several, the weight is that of DB's code, see `class_balanced_weight_of_labels`.

    Args:
        logits_BC: logits z.
        targets_BC: labels in {0, 1}, any type.
        weight: w, `[C]` or `[B, 1]`.
        gamma: γ ≥ 0; 0 is class-balanced BCE.
    """
    return weight * focal_loss(logits_BC, targets_BC, gamma=gamma)


class CBFocalLoss(nn.Module):
    """Mean of `balance` · `cb_focal_loss` over a batch.

    Args:
        class_counts_C: training images n_c that contain each class.
        beta: β in [0, 1) of the effective number.
        mode: which counts make the weight of a label, see `class_balanced_weight_of_labels`.
        gamma: γ ≥ 0, exponent of the focusing term.
        balance: a constant multiplier; DB's code has 2.
        class_names: for error messages only.

    Raises:
        InvalidData: a class is in none of the images.
    """

    class_counts_C: Tensor

    def __init__(
        self,
        class_counts_C: npt.ArrayLike,
        *,
        beta: float = 0.9,
        mode: LabelWeighting = "average_w",
        gamma: float = 2.0,
        balance: float = 2.0,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        _check_beta(beta)
        self.beta = beta
        self.mode = mode
        self.gamma = gamma
        self.balance = balance
        counts_C = counts_of_present_classes(
            class_counts_C, needed_by="the class-balanced weight", class_names=class_names
        )
        # Whole numbers: `module.half()` leaves them, and they are exact in any type of logits.
        self.register_buffer("class_counts_C", counts_C.to(torch.int64), persistent=False)

    def forward(self, logits_BC: Tensor, targets_BC: Tensor) -> LossOutput:
        logits_BC = at_least_float32(logits_BC)
        weight = class_balanced_weight_of_labels(
            targets_BC, self.class_counts_C.to(logits_BC.dtype), beta=self.beta, mode=self.mode
        )
        loss_BC = cb_focal_loss(logits_BC, targets_BC, weight=weight, gamma=self.gamma)
        return LossOutput(self.balance * loss_BC.mean(), {})


def ldam_loss(
    logits_BC: Tensor, targets_BC: Tensor, *, margin_C: Tensor, scale: float = 30.0
) -> Tensor:
    """Label-distribution-aware margin loss: BCE(z − s Δ_c y, y), its binary form.

    The logits are z = s cos(w_c, f), those of a cosine classifier that has the scale s already; the
    margin is taken from the cosine of a positive label, and nothing from a negative one. K. Cao
    et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019
    (https://arxiv.org/abs/1906.07413), which has softmax cross-entropy in the place of BCE.

    Args:
        logits_BC: logits z = s · cos.
        targets_BC: labels in {0, 1}, any type.
        margin_C: Δ, see `ldam_margin`.
        scale: s > 0, that of the classifier.
    """
    z_BC = at_least_float32(logits_BC)
    positive_BC = targets_BC.bool()
    return bce_loss(torch.where(positive_BC, z_BC - scale * margin_C, z_BC), positive_BC)


def ldam_margin(class_counts_C: Tensor, *, margin: float = 0.5) -> Tensor:
    """Margins Δ_c = m · n_c^(−1/4) / max_k n_k^(−1/4): m for the rarest class, less for the others.

    Counts n_c ≥ 1; returns `[C]`, at least float32.
    """
    counts_C = at_least_float32(class_counts_C)
    return margin * (counts_C.min() / counts_C) ** 0.25


class LDAMLoss(nn.Module):
    """Mean of `ldam_loss` over a batch, with the class-balanced weight if `reweight_beta` is given.

    Deferred re-weighting (DRW, of the same paper) is two such losses, without the weight in the
    first epochs and with it in the later ones; the module counts no epochs, so that nothing is lost
    on a resume. The weight is (1−β)/(1−β^{n_c}) of Cui et al., scaled to mean 1 over the classes,
    on positive and negative labels of class c alike. Unlike torch's weighted cross-entropy, the
    mean divides by B*C and not by the sum of the weights.

    Args:
        class_counts_C: training images n_c that contain each class.
        scale: s > 0, that of the cosine classifier.
        margin: m ≥ 0, the margin of the rarest class.
        reweight_beta: β in [0, 1) of the weight; None is no weight.
        class_names: for error messages only.
        dtype: type of the buffers; with float64, float64 logits lose nothing.

    Raises:
        InvalidData: a class is in none of the images.
    """

    margin_C: Tensor
    weight_C: Tensor

    def __init__(
        self,
        class_counts_C: npt.ArrayLike,
        *,
        scale: float = 30.0,
        margin: float = 0.5,
        reweight_beta: float | None = None,
        class_names: Sequence[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.scale = scale
        counts_C = counts_of_present_classes(
            class_counts_C, needed_by="the margin n^(-1/4) of ldam", class_names=class_names
        )
        weight_C = torch.ones_like(counts_C)
        if reweight_beta is not None:
            _check_beta(reweight_beta)
            weight_C = class_balanced_weight(counts_C, beta=reweight_beta)
            weight_C = weight_C / weight_C.mean()
        margin_C = ldam_margin(counts_C, margin=margin)
        self.register_buffer("margin_C", margin_C.to(dtype), persistent=False)
        self.register_buffer("weight_C", weight_C.to(dtype), persistent=False)

    def forward(self, logits_BC: Tensor, targets_BC: Tensor) -> LossOutput:
        logits_BC = at_least_float32(logits_BC)
        loss_BC = ldam_loss(
            logits_BC, targets_BC, margin_C=self.margin_C.to(logits_BC.dtype), scale=self.scale
        )
        return LossOutput((self.weight_C.to(logits_BC.dtype) * loss_BC).mean(), {})


def _check_beta(beta: float) -> None:
    if not 0 <= beta < 1:
        raise ValueError(f"beta of the effective number is in [0, 1), got {beta}")


def asl_loss(
    logits_BC: Tensor,
    targets_BC: Tensor,
    *,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    clamp: float = 1e-8,
) -> Tensor:
    """Asymmetric loss: focal with an exponent for each sign, and easy negatives left out.

        y = 0:  −p_m^γ⁻ log(1 − p_m),  p_m = max(p − m, 0)        y = 1:  −(1−p)^γ⁺ log p

    The factors p_m^γ⁻ and (1−p)^γ⁺ are constants for the gradient. A negative label with p < m has
    loss and gradient 0. The arguments of both logarithms are at least `clamp`; where that acts
    (p < 1e-8, a logit under −18.4 of a positive label), the gradient is 0 as well.

    T. Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021,
    doi:10.1109/ICCV48922.2021.00015. There it is summed over B*C; here the module has the mean.

    Args:
        logits_BC: logits z.
        targets_BC: labels in {0, 1}, any type.
        gamma_pos: γ⁺ ≥ 0.
        gamma_neg: γ⁻ ≥ 0.
        clip: m in [0, 1), the margin of the probability of a negative label.
        clamp: least argument of the logarithms, in (0, 1].
    """
    z_BC = at_least_float32(logits_BC)
    positive_BC = targets_BC.bool()
    # 1 − p_m = min(σ(−z) + m, 1). Its logarithm by logaddexp keeps every digit of a gradient where
    # σ(−z) rounds to 1, and is logsigmoid(−z) at m = 0.
    log_clip_BC = torch.full_like(z_BC, math.log(clip) if clip > 0 else -math.inf)
    log_neg_BC = torch.logaddexp(logsigmoid(-z_BC), log_clip_BC).clamp(max=0.0)
    log_BC = torch.where(positive_BC, logsigmoid(z_BC), log_neg_BC).clamp(min=math.log(clamp))

    p_BC = z_BC.detach().sigmoid()
    factor_neg_BC = (p_BC - clip).clamp(min=0.0) ** gamma_neg
    factor_pos_BC = torch.sigmoid(-z_BC.detach()) ** gamma_pos
    return -torch.where(positive_BC, factor_pos_BC, factor_neg_BC) * log_BC


class ASLLoss(nn.Module):
    """Mean of `asl_loss` over a batch; the arguments are those of the function."""

    def __init__(
        self,
        *,
        gamma_pos: float = 1.0,
        gamma_neg: float = 4.0,
        clip: float = 0.05,
        clamp: float = 1e-8,
    ) -> None:
        super().__init__()
        if not 0 <= clip < 1:
            raise ValueError(f"clip is a probability to subtract, in [0, 1), got {clip}")
        if not 0 < clamp <= 1:
            raise ValueError(f"clamp bounds the argument of a logarithm, in (0, 1], got {clamp}")
        self.gamma_pos = gamma_pos
        self.gamma_neg = gamma_neg
        self.clip = clip
        self.clamp = clamp

    def forward(self, logits_BC: Tensor, targets_BC: Tensor) -> LossOutput:
        loss_BC = asl_loss(
            logits_BC,
            targets_BC,
            gamma_pos=self.gamma_pos,
            gamma_neg=self.gamma_neg,
            clip=self.clip,
            clamp=self.clamp,
        )
        return LossOutput(loss_BC.mean(), {})
