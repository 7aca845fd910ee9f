"""The equations of the probability guided (PG) loss and of its family, element by element.

Each function states one equation for itself and returns `[B, C]`; `PGLoss` is the module around
`pg_loss`. Two of the printed equations are corrected: Eq. 9 lacks its minus signs, and Eq. 10 has
the signs of both exponents flipped (as printed, every gradient points the wrong way; Eq. 5 is
right).

In all of them z are the logits, v a bias per class and s = z − v the shifted logits; the labels y
are in {0, 1}, soft labels are not meant. Half precision is computed in float32.

Source: D. Lin, "Probability Guided Loss for Long-Tailed Multi-Label Image Classification",
AAAI 2023, doi:10.1609/aaai.v37i2.25244 ("the paper").
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pgsearch.errors import InvalidData
from pgsearch.losses.numerics import at_least_float32, softplus
from pgsearch.losses.slope import with_slope

FocalLogit: TypeAlias = Literal["raw", "shifted", "scaled"]


def pg_loss(
    logits_BC: Tensor,
    targets_BC: Tensor,
    *,
    lambda1_neg_C: Tensor,
    lambda2_neg_C: Tensor,
    lambda1_pos_C: Tensor,
    lambda2_pos_C: Tensor,
    focusing_neg_C: Tensor,
    focusing_pos_C: Tensor,
    bias_C: Tensor,
    focal_logit: FocalLogit = "scaled",
) -> Tensor:
    """Probability guided loss, Eq. 10 with its signs corrected.

        y = 0:  (1/λ₂⁻)    p^λ⁻    softplus(+λ₁⁻ s)
        y = 1:  (1/λ₂⁺) (1−p)^λ⁺   softplus(−λ₁⁺ s),     s = z − v,  p = σ(focal logit)

    Both rows are one formula in the sign t = +1 (y = 0) or −1 (y = 1) of what the loss pushes down:
    softplus(t λ₁ s) σ(t f)^λ / λ₂.

    Args:
        logits_BC: raw logits z.
        targets_BC: labels in {0, 1}, any type.
        lambda1_neg_C: λ₁⁻ > 0, scale of the logit of a negative label.
        lambda2_neg_C: λ₂⁻ > 0, divisor of the loss of a negative label.
        lambda1_pos_C: λ₁⁺ > 0.
        lambda2_pos_C: λ₂⁺ > 0.
        focusing_neg_C: λ⁻ ≥ 0, exponent of the focusing term of a negative label; 0 is none.
        focusing_pos_C: λ⁺ ≥ 0.
        bias_C: v, see `class_bias`; divided by the caller where `Bias.over_scale` asks for it.
        focal_logit: the f of p = σ(f): "raw" z, "shifted" z − v, or "scaled" λ₁(z − v). "scaled" is
            what the code of distribution balance does, and makes DB-Focal a special case.

    Returns:
        `[B, C]`, ≥ 0, at least float32.
    """
    z_BC = at_least_float32(logits_BC)
    factors = {
        "lambda1_neg": lambda1_neg_C,
        "lambda2_neg": lambda2_neg_C,
        "lambda1_pos": lambda1_pos_C,
        "lambda2_pos": lambda2_pos_C,
        "focusing_neg": focusing_neg_C,
        "focusing_pos": focusing_pos_C,
    }
    loss_BC, slope_BC = pg_loss_and_slope(
        z_BC.detach(),
        targets_BC.to(z_BC.dtype),
        {name: factor_C.to(z_BC.dtype) for name, factor_C in factors.items()},
        bias_C=bias_C.to(z_BC.dtype),
        focal_logit=focal_logit,
    )
    return with_slope(z_BC, loss_BC, slope_BC)


def pg_loss_and_slope(
    z_BC: Tensor,
    y_BC: Tensor,
    factors: Mapping[str, Tensor],
    *,
    bias_C: Tensor,
    focal_logit: FocalLogit | None,
    weight_BC: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`pg_loss` and its derivative by the logits, all of one floating type and without history.

    With x = t λ₁ s and the focal logit t f, the derivative of σ(t f)^λ softplus(x) / λ₂ is
    σ(t f)^λ / λ₂ · (σ(x) x' + λ σ(−t f) (t f)' softplus(x)). Value and derivative share most of
    their terms, which autograd would compute, store and read again.

    Without a focal logit there is no focusing term, which is the exponent λ = 0. The weight, if
    there is one, multiplies both.
    """
    # lerp is exact at 0 and 1, and much faster than where. What is ours is changed in place: large
    # batches spend their time on memory, and small ones on the number of operations.
    lambda1_BC = torch.lerp(factors["lambda1_neg"], -factors["lambda1_pos"], y_BC)  # t λ₁
    scaled_BC = z_BC - bias_C
    focal_BC, focal_slope_BC = scaled_BC, lambda1_BC
    if focal_logit in ("raw", "shifted"):
        focal_slope_BC = 1 - 2 * y_BC  # t
        focal_BC = focal_slope_BC * (z_BC if focal_logit == "raw" else scaled_BC)
    scaled_BC.mul_(lambda1_BC)
    softplus_BC = softplus(scaled_BC)
    slope_BC = torch.sigmoid(scaled_BC).mul_(lambda1_BC)
    divisor_BC = torch.lerp(factors["lambda2_neg"], factors["lambda2_pos"], y_BC)
    if focal_logit is not None:
        focusing_BC = torch.lerp(factors["focusing_neg"], factors["focusing_pos"], y_BC)
        # σ(t f)^λ = 1 / exp(λ softplus(−t f)): as a power it is lost where the sigmoid underflows.
        divisor_BC.mul_(softplus(focal_BC.neg_()).mul_(focusing_BC).exp_())
        focusing_BC.mul_(focal_BC.sigmoid_()).mul_(focal_slope_BC)
        slope_BC.addcmul_(focusing_BC, softplus_BC)
    if weight_BC is not None:
        divisor_BC.div_(weight_BC)
    return softplus_BC.div_(divisor_BC), slope_BC.div_(divisor_BC)


def bce_loss(logits_BC: Tensor, targets_BC: Tensor) -> Tensor:
    """Binary cross-entropy: softplus(z) for y = 0, softplus(−z) for y = 1; `[B, C]`, ≥ 0."""
    z_BC = at_least_float32(logits_BC)
    return torch.where(targets_BC.bool(), softplus(-z_BC), softplus(z_BC))


def ntr_loss(logits_BC: Tensor, targets_BC: Tensor, *, lambda_C: Tensor, bias_C: Tensor) -> Tensor:
    """Negative-tolerant regularization, Eq. 3: the paper's starting point, from DB.

        y = 0:  (1/λ) softplus(λ s)        y = 1:  softplus(−s),        λ > 0

    Returns `[B, C]`, ≥ 0.
    """
    s_BC = at_least_float32(logits_BC) - bias_C
    negative_BC = softplus(lambda_C * s_BC) / lambda_C
    return torch.where(targets_BC.bool(), softplus(-s_BC), negative_BC)


def pr_loss(
    logits_BC: Tensor,
    targets_BC: Tensor,
    *,
    lambda1_neg_C: Tensor,
    lambda2_neg_C: Tensor,
    lambda1_pos_C: Tensor,
    lambda2_pos_C: Tensor,
    bias_C: Tensor,
) -> Tensor:
    """Probability re-balancing, Eq. 5: `pg_loss` without its focusing term.

        y = 0:  (1/λ₂⁻) softplus(λ₁⁻ s)        y = 1:  (1/λ₂⁺) softplus(−λ₁⁺ s)

    Its slope dL/dz is (λ₁⁻/λ₂⁻) σ(λ₁⁻ s) and −(λ₁⁺/λ₂⁺) σ(−λ₁⁺ s): λ₁/λ₂ sets how steep the loss is
    where the label is badly wrong, λ₁ how soon it rests. All λ > 0. Returns `[B, C]`, ≥ 0.
    """
    s_BC = at_least_float32(logits_BC) - bias_C
    negative_BC = softplus(lambda1_neg_C * s_BC) / lambda2_neg_C
    positive_BC = softplus(-lambda1_pos_C * s_BC) / lambda2_pos_C
    return torch.where(targets_BC.bool(), positive_BC, negative_BC)


def focal_loss(logits_BC: Tensor, targets_BC: Tensor, *, gamma: float) -> Tensor:
    """Focal loss, Eq. 4: p^γ softplus(z) for y = 0, (1−p)^γ softplus(−z) for y = 1, γ ≥ 0.

    Without a balance factor. Returns `[B, C]`, ≥ 0.
    """
    z_BC = at_least_float32(logits_BC)
    negative_BC = torch.exp(gamma * logsigmoid(z_BC)) * softplus(z_BC)
    positive_BC = torch.exp(gamma * logsigmoid(-z_BC)) * softplus(-z_BC)
    return torch.where(targets_BC.bool(), positive_BC, negative_BC)


def apaf_loss(
    logits_BC: Tensor, targets_BC: Tensor, *, focusing_neg_C: Tensor, focusing_pos_C: Tensor
) -> Tensor:
    """Adaptive probability-aware focal loss, Eq. 9 with its minus signs.

        y = 0:  p^λ⁻ softplus(z)        y = 1:  (1−p)^λ⁺ softplus(−z),        λ± ≥ 0

    The exponents are those of Eq. 8, computed by the caller. Returns `[B, C]`, ≥ 0.
    """
    z_BC = at_least_float32(logits_BC)
    negative_BC = torch.exp(focusing_neg_C * logsigmoid(z_BC)) * softplus(z_BC)
    positive_BC = torch.exp(focusing_pos_C * logsigmoid(-z_BC)) * softplus(-z_BC)
    return torch.where(targets_BC.bool(), positive_BC, negative_BC)


def class_bias(
    class_counts_C: npt.ArrayLike,
    num_images: int,
    kappa: float = 0.05,
    *,
    class_names: Sequence[str] | None = None,
) -> Tensor:
    """The shift v_c = κ log(N/n_c − 1) of the logits, positive for rare classes.

    It acts in training only: scores for evaluation are the raw logits. κ = 0 switches it off, and
    then no count can break its rule.

    Args:
        class_counts_C: training images n_c that contain each class.
        num_images: training images N.
        kappa: κ ≥ 0.
        class_names: for the error message only.

    Returns:
        `[C]`, float64.

    Raises:
        InvalidData: a class is in none or in all of the images; names every such class.
    """
    counts_C = torch.tensor(np.asarray(class_counts_C), dtype=torch.float64)
    if kappa == 0:
        return torch.zeros_like(counts_C)
    problems = [
        f"class {class_names[c] if class_names is not None else c!r}: contained in {n:g} of "
        f"{num_images} training images, but its bias κ·log(N/n − 1) needs 0 < n < N; "
        f"correct its labels, remove the class, or set kappa to 0"
        for c, n in enumerate(counts_C.tolist())
        if not 0 < n < num_images
    ]
    if problems:
        raise InvalidData(problems)
    return kappa * torch.log((num_images - counts_C) / counts_C)
