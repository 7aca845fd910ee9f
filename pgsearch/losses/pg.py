"""The family of the probability guided (PG) loss: element-wise functions and their module.

The functions state the equations, each for itself, and return `[B, C]`; `PGLoss` expands the values
of the class groups to the classes once and calls `pg_loss`. Two of the printed equations are
corrected: Eq. 9 lacks its minus signs, and Eq. 10 has the signs of both exponents flipped (as
printed, every gradient points the wrong way; Eq. 5 is right).

In all of them z are the logits, v a bias per class and s = z − v the shifted logits; the labels y
are in {0, 1}, soft labels are not meant. Half precision is computed in float32.

Source: D. Lin, "Probability Guided Loss for Long-Tailed Multi-Label Image Classification",
AAAI 2023, doi:10.1609/aaai.v37i2.25244 ("the paper").
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pgsearch.class_groups import GROUPS
from pgsearch.errors import InvalidData
from pgsearch.losses.adaptive import (
    RATIO_EXPONENTS,
    adaptive_factors,
    batch_probabilities,
    probability_ratio,
)
from pgsearch.losses.numerics import at_least_float32, softplus
from pgsearch.losses.output import LossOutput
from pgsearch.losses.reweighted import Rebalance, rebalanced_weight
from pgsearch.losses.slope import with_slope

FocalLogit: TypeAlias = Literal["raw", "shifted", "scaled"]
FocusingMode: TypeAlias = Literal["none", "fixed", "adaptive"]

FACTOR_NAMES: Final = tuple(RATIO_EXPONENTS)


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
    loss_BC, slope_BC = _pg_loss_and_slope(
        z_BC.detach(),
        targets_BC.to(z_BC.dtype),
        {name: factor_C.to(z_BC.dtype) for name, factor_C in factors.items()},
        bias_C=bias_C.to(z_BC.dtype),
        focal_logit=focal_logit,
    )
    return with_slope(z_BC, loss_BC, slope_BC)


def _pg_loss_and_slope(
    z_BC: Tensor,
    y_BC: Tensor,
    factors: Mapping[str, Tensor],
    *,
    bias_C: Tensor,
    focal_logit: FocalLogit,
) -> tuple[Tensor, Tensor]:
    """`pg_loss` and its derivative by the logits, all of one floating type.

    With x = t λ₁ s and the focal logit t f, the derivative of σ(t f)^λ softplus(x) / λ₂ is
    σ(t f)^λ / λ₂ · (σ(x) x' + λ σ(−t f) (t f)' softplus(x)). Value and derivative share most of
    their terms, which autograd would compute, store and read again.
    """
    # lerp is exact at 0 and 1, and much faster than where. What is ours is changed in place: large
    # batches spend their time on memory.
    lambda1_BC = torch.lerp(factors["lambda1_neg"], -factors["lambda1_pos"], y_BC)  # t λ₁
    lambda2_BC = torch.lerp(factors["lambda2_neg"], factors["lambda2_pos"], y_BC)
    focusing_BC = torch.lerp(factors["focusing_neg"], factors["focusing_pos"], y_BC)
    shifted_BC = z_BC - bias_C
    scaled_BC = lambda1_BC * shifted_BC
    focal_BC, focal_slope_BC = scaled_BC, lambda1_BC
    if focal_logit != "scaled":
        focal_slope_BC = 1 - 2 * y_BC  # t
        focal_BC = focal_slope_BC * (z_BC if focal_logit == "raw" else shifted_BC)
    # As a power, σ^λ has a NaN gradient where the sigmoid underflows and λ < 1.
    scale_BC = (focusing_BC * logsigmoid(focal_BC)).exp_().div_(lambda2_BC)  # σ(t f)^λ / λ₂
    softplus_BC = softplus(scaled_BC)
    of_focusing_BC = focusing_BC.mul_(torch.sigmoid(-focal_BC)).mul_(focal_slope_BC)
    of_softplus_BC = torch.sigmoid(scaled_BC).mul_(lambda1_BC)
    slope_BC = of_softplus_BC.addcmul_(of_focusing_BC, softplus_BC).mul_(scale_BC)
    return softplus_BC.mul_(scale_BC), slope_BC


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


def _check_per_group(name: str, values_G: Sequence[object]) -> None:
    if len(values_G) != len(GROUPS):
        raise ValueError(f"{name} needs one value for each of {GROUPS}, got {values_G}")


@dataclass(frozen=True)
class Factor:
    """One factor of probability re-balancing, by class group: its base and whether it adapts."""

    base_G: tuple[float, ...] = (1.0,) * len(GROUPS)
    adaptive_G: tuple[bool, ...] = (False,) * len(GROUPS)

    def __post_init__(self) -> None:
        _check_per_group("base_G", self.base_G)
        _check_per_group("adaptive_G", self.adaptive_G)
        if not all(0 < base < math.inf for base in self.base_G):
            raise ValueError(f"a factor scales and divides: base_G needs values > 0, got {self}")


NEUTRAL: Final = Factor()


@dataclass(frozen=True)
class Factors:
    """The four factors of Eq. 5; neutral, they leave BCE of the shifted logit."""

    lambda1_neg: Factor = NEUTRAL
    lambda2_neg: Factor = NEUTRAL
    lambda1_pos: Factor = NEUTRAL
    lambda2_pos: Factor = NEUTRAL


NEUTRAL_FACTORS: Final = Factors()


@dataclass(frozen=True)
class Focusing:
    """The focusing term, by class group, for both signs.

    "none" has exponent 0, "fixed" is focal with exponent `gamma_G`, "adaptive" is APAF with
    λ₀ = `lambda0_G`. `focal_logit` is that of `pg_loss`.
    """

    mode_G: tuple[FocusingMode, ...] = ("none", "none", "none")
    gamma_G: tuple[float, ...] = (2.0,) * len(GROUPS)
    lambda0_G: tuple[float, ...] = (2.0,) * len(GROUPS)
    focal_logit: FocalLogit = "scaled"

    def __post_init__(self) -> None:
        _check_per_group("mode_G", self.mode_G)
        _check_per_group("gamma_G", self.gamma_G)
        _check_per_group("lambda0_G", self.lambda0_G)
        if not all(0 <= exponent < math.inf for exponent in (*self.gamma_G, *self.lambda0_G)):
            raise ValueError(f"focusing exponents need values >= 0, got {self}")
        if unknown := set(self.mode_G) - set(get_args(FocusingMode)):
            raise ValueError(f"focusing modes are {get_args(FocusingMode)}, got {sorted(unknown)}")
        if self.focal_logit not in get_args(FocalLogit):
            raise ValueError(f"focal_logit is {get_args(FocalLogit)}, got {self.focal_logit!r}")

    def base_G(self) -> tuple[float, ...]:
        """The exponent of each group before adaptation."""
        return tuple(
            {"none": 0.0, "fixed": gamma, "adaptive": lambda0}[mode]
            for mode, gamma, lambda0 in zip(self.mode_G, self.gamma_G, self.lambda0_G, strict=True)
        )

    def adaptive_G(self) -> tuple[bool, ...]:
        return tuple(mode == "adaptive" for mode in self.mode_G)


NO_FOCUSING: Final = Focusing()


@dataclass(frozen=True)
class Bias:
    """The class-specific bias: its κ, and whether it is divided by the base of λ₁⁻.

    The published numbers of distribution balance were obtained with v/λ, a slip that its maintainer
    acknowledges.
    """

    kappa: float = 0.05
    over_scale: bool = False


PAPER_BIAS: Final = Bias()


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
        base_KG, exponent_KG = _group_table(factors, focusing)
        base_KC = base_KG[:, groups_C]
        bias_C = class_bias(class_counts_C, num_images, bias.kappa, class_names=class_names)
        if bias.over_scale:
            bias_C = bias_C / base_KC[FACTOR_NAMES.index("lambda1_neg")]
        self.is_adaptive = bool(exponent_KG[:, groups_C].any())
        self.register_buffer("base_KC", base_KC.to(dtype), persistent=False)
        self.register_buffer("exponent_KC", exponent_KG[:, groups_C].to(dtype), persistent=False)
        self.register_buffer("bias_C", bias_C.to(dtype), persistent=False)
        self.register_buffer("class_counts_C", counts_C, persistent=False)
        self.register_buffer("class_groups_C", groups_C, persistent=False)

    def forward(self, logits_BC: Tensor, targets_BC: Tensor) -> LossOutput:
        logits_BC = at_least_float32(logits_BC)
        with torch.no_grad():  # the slope is known, and the statistics are constants
            z_BC, y_BC = logits_BC.detach(), targets_BC.to(logits_BC.dtype)
            factors = self._batch_factors(z_BC, y_BC)
            loss_BC, slope_BC = _pg_loss_and_slope(
                z_BC,
                y_BC,
                factors,
                bias_C=self.bias_C.to(z_BC.dtype),
                focal_logit=self.focal_logit,
            )
            if self.rebalance is not None:
                weight_BC = rebalanced_weight(
                    y_BC,
                    self.class_counts_C.to(z_BC.dtype),
                    alpha=self.rebalance.alpha,
                    beta=self.rebalance.beta,
                    mu=self.rebalance.mu,
                )
                loss_BC.mul_(weight_BC)
                slope_BC.mul_(weight_BC)
            loss = self.balance * loss_BC.mean()
            slope_BC.mul_(self.balance / slope_BC.numel())
        return LossOutput(with_slope(logits_BC, loss, slope_BC), factors)

    def _batch_factors(self, z_BC: Tensor, y_BC: Tensor) -> dict[str, Tensor]:
        base_KC = self.base_KC.to(z_BC.dtype)
        if self.is_adaptive:
            p_pos_C, p_neg_C = batch_probabilities(z_BC, y_BC, self.class_groups_C)
            ratio_C = probability_ratio(p_pos_C, p_neg_C, max_ratio=self.max_ratio)
            factor_KC = adaptive_factors(base_KC, self.exponent_KC.to(ratio_C.dtype), ratio_C)
        else:
            factor_KC = base_KC.clone()  # the caller may keep or change what it is given
        return dict(zip(FACTOR_NAMES, factor_KC.unbind(), strict=True))


def _group_table(factors: Factors, focusing: Focusing) -> tuple[Tensor, Tensor]:
    """Base and exponent of p̄⁺/p̄⁻ (0 where not adaptive), each `[K, G]`, of every factor."""
    focusing_row = (focusing.base_G(), focusing.adaptive_G())
    rows = {
        "lambda1_neg": (factors.lambda1_neg.base_G, factors.lambda1_neg.adaptive_G),
        "lambda2_neg": (factors.lambda2_neg.base_G, factors.lambda2_neg.adaptive_G),
        "lambda1_pos": (factors.lambda1_pos.base_G, factors.lambda1_pos.adaptive_G),
        "lambda2_pos": (factors.lambda2_pos.base_G, factors.lambda2_pos.adaptive_G),
        "focusing_neg": focusing_row,
        "focusing_pos": focusing_row,
    }
    base_KG = [rows[name][0] for name in FACTOR_NAMES]
    exponent_KG = [[RATIO_EXPONENTS[name] * on for on in rows[name][1]] for name in FACTOR_NAMES]
    return (
        torch.tensor(base_KG, dtype=torch.float64),
        torch.tensor(exponent_KG, dtype=torch.float64),
    )
